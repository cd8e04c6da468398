"""Reference sets that this server offers: its own and those imported from the page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from backend.errors import InputError
from backend.reference.manifest import MANIFEST, read_manifest
from components.markup import Raw, empty, number, table, text

IMPORTED = ".references"
MEASURED_PIXELS = 500 * 128 * 128  # of a set whose figures the page shows: some six seconds and half a gigabyte
SLUG = re.compile(r"[A-Za-z0-9_-]{1,40}")


class ReferenceLibrary:
    """Finds reference sets and their images by names of our own, never by a path from outside.

    Args:
        default: folder of the server's own set.
        runs: the folder of runs, in which imported sets are kept.
    """

    def __init__(self, default: str | Path, runs: str | Path) -> None:
        self.default, self.imported = Path(default), Path(runs) / IMPORTED
        self._figures: dict[tuple[Path, int], dict[str, Any]] = {}

    def sets(self) -> dict[str, Path]:
        """Folder by short name; the server's own set is "default"."""
        found = {p.name: p for p in sorted(self.imported.glob("*")) if SLUG.fullmatch(p.name) and (p / "manifest.json").is_file()} if self.imported.is_dir() else {}
        return {"default": self.default, **found}

    def folder(self, name: str) -> Path:
        """Folder of a set.

        Raises:
            InputError: no such set.
        """
        if name not in self.sets():
            raise InputError(f"unknown reference set {name!r}: choose one of {', '.join(self.sets())}")
        return self.sets()[name]

    def manifest(self, name: str) -> dict[str, Any]:
        """The manifest of a set.

        Raises:
            InputError: no such set, or a damaged manifest.
        """
        return read_manifest(self.folder(name))

    def file(self, name: str, index: int) -> Path | None:
        """An image of a set by its number; None where there is none."""
        try:
            images = self.manifest(name)["images"]
        except InputError:
            return None
        return self.sets()[name] / images[index]["file"] if 0 <= index < len(images) else None

    def figures(self, name: str) -> dict[str, Any]:
        """What `describe_images` says of a set; of images evenly over it where all have more than `MEASURED_PIXELS`. Measured once while the set stays as it is.

        Raises:
            InputError: no such set, or an image that is missing or damaged.
        """
        from backend.reference.dataset import read_image, select_reference
        from backend.reference.statistics import describe_images

        folder = self.folder(name)
        manifest = read_manifest(folder)
        key = folder, (folder / MANIFEST).stat().st_mtime_ns
        if key not in self._figures:
            total = len(manifest["images"])
            height, width, _ = read_image(folder, manifest["images"][0]).shape
            count = min(total, max(2, MEASURED_PIXELS // (height * width)))
            self._figures[key] = describe_images(select_reference(folder, manifest, [i * total // count for i in range(count)])) | {"total": total}
        return self._figures[key]

    def strip(self, name: str = "default", limit: int = 200) -> str:
        """Thumbnails in one row that scrolls, with the label that says whether they are simulated."""
        try:
            manifest = self.manifest(name)
        except InputError as error:
            return empty("No reference set", str(error))
        return f'<h2 class="section-title">Reference set <small>{text(label(manifest))}</small> {tag(manifest)}</h2>{thumbnails(name, manifest, limit, "strip-row")}'

    def import_files(self, files: list[str], name: str, size: int, drop_near: bool) -> tuple[str, list[str]]:
        """Import uploaded files as a new set.

        Args:
            files: one .zip or .npz, or any number of image (and caption) files.
            name: short name of the new set.
            size: side in pixels.
            drop_near: leave out near duplicates.

        Returns:
            The set's short name and the report's lines.

        Raises:
            InputError: a bad name, nothing usable, or a set of that name exists.
        """
        from backend.reference.importing import import_reference

        if not SLUG.fullmatch(name or "") or name == "default":
            raise InputError(f"name {name!r} cannot be used: give 1 to 40 letters, digits, - or _, and not 'default'")
        if not files:
            raise InputError("no file was chosen: give images, a .zip or an .npz")
        paths = [Path(f) for f in files]
        target = self.imported / name
        target.parent.mkdir(parents=True, exist_ok=True)
        packed = len(paths) == 1 and paths[0].suffix.lower() in {".zip", ".npz"}
        report = import_reference(paths[0] if packed else paths, target, size=size, name=name, drop_near=drop_near)
        return name, report.lines()


def label(manifest: dict[str, Any]) -> str:
    """Name and number of images."""
    return f"{manifest.get('name') or 'reference'}: {len(manifest['images'])} images"


def tag(manifest: dict[str, Any]) -> Raw:
    """The word that must stand wherever the images are shown."""
    return Raw(f'<span class="tag tag-accent">{"simulated" if manifest.get("simulated") else "imported"}</span>')


def thumbnails(name: str, manifest: dict[str, Any], limit: int, kind: str) -> str:
    """Images of a set with their captions as alternative text."""
    shown = manifest["images"][:limit]
    pictures = "".join(_thumbnail(name, i, entry["caption"]) for i, entry in enumerate(shown))
    return f'<div class="{text(kind)}" tabindex="0" role="group" aria-label="reference images">{pictures}</div>'


def _thumbnail(name: str, index: int, caption: str) -> str:
    address = f"crater/reference/{text(name)}/{index}.png"
    return f'<figure><img src="{address}" loading="lazy" width="128" height="128" alt="{text(caption or "reference image")}" title="{text(caption)}"></figure>'


def counts(manifest: dict[str, Any]) -> str:
    """How often each value of the named attributes occurs, as a table; empty for sets without parameters."""
    rows = []
    for attribute in ("view", "kind", "terrain", "rims", "interiors"):
        values = [entry.get("parameters", {}).get(attribute) for entry in manifest["images"]]
        found = sorted({v for v in values if v}, key=lambda v: -values.count(v))
        if found:
            rows.append([attribute, ", ".join(f"{v} {values.count(v)}" for v in found)])
    return table(["Attribute", "Images"], rows) if rows else ""


def figures_table(figures: dict[str, Any]) -> str:
    """Light, colour, near duplicates and captions of a set, as a table.

    Args:
        figures: of `ReferenceLibrary.figures`.
    """
    measured, near = figures["images"], figures["near_duplicates"]
    pairs = "; ".join(f"{second} repeats {first}" for second, first in near[:5]) + (f"; and {len(near) - 5} more" if len(near) > 5 else "")
    words = ", ".join(f"{word} {count}" for word, count in figures["commonest_words"].items())
    rows = [
        ["Size", f"{figures['width']} x {figures['height']} pixels"],
        ["Brightness (0 to 1)", f"{number(figures['brightness_mean'], 3)}; images differ by {number(figures['brightness_std_between_images'], 2)} (standard deviation)"],
        ["Contrast within an image", number(figures["contrast_mean"], 3)],
        ["Saturation (0 grey, 1 pure colour)", number(figures["saturation_mean"], 3)],
        ["Pixels wholly black or white", f"{100 * figures['black_or_white_share']:.2g} %"],
        ["Slope of the power spectrum", f"{number(figures['spectral_slope'], 3)} (the higher, the smoother)"],
        ["Near duplicates", f"{len(near)}: {pairs}" if near else "none"],
        ["Captions", f"{figures['captions']} of {measured} images" + (f"; commonest words: {words}" if words else "")],
        *([["Licence", figures["licence"]]] if figures["licence"] else []),
    ]
    part = "" if measured == figures["total"] else f", of {measured} of its {figures['total']} images, evenly over the set"
    return table(["What the set is like", "Measured"], rows, caption=f"Light, colour and captions{part}")


def spread_table(spread: dict[str, float]) -> str:
    """How far features lie from each other, as a table.

    Args:
        spread: of `describe_features`.
    """
    rows = [
        ["Numbers an image", number(spread["dimension"])],
        ["Directions that carry the variance (effective rank)", number(spread["effective_rank"], 3)],
        ["Mean distance of two images", number(spread["pairwise_mean"], 3)],
        ["Distance to the nearest other image, median", number(spread["nearest_median"], 3)],
        ["Distance to the nearest other image, smallest", number(spread["nearest_min"], 3)],
    ]
    return table(["Spread of the features", "In standard deviations"], rows)


def spread_figure(manifest: dict[str, Any]) -> dict[str, Any] | None:
    """Size against freshness of every image, if the set says so; otherwise None."""
    rows = [(i, e["parameters"]) for i, e in enumerate(manifest["images"]) if isinstance(e.get("parameters"), dict) and "size" in e["parameters"]]
    if not rows:
        return None
    trace = {
        "type": "scatter", "mode": "markers", "slot": 2, "x": [p["size"] for _, p in rows], "y": [p["freshness"] for _, p in rows],
        "customdata": [[f"crater/reference/default/{i}.png", manifest["images"][i]["caption"]] for i, _ in rows], "marker": {"size": 9, "opacity": 0.75},
        "hovertemplate": "size %{x:.2f}, freshness %{y:.2f}<extra></extra>", "name": "image",
    }  # fmt: skip
    axes = {"xaxis": {"title": {"text": "crater diameter / frame width"}}, "yaxis": {"title": {"text": "freshness (1 = just formed)"}}}
    return {"key": json.dumps(manifest.get("name", "")), "data": [trace], "layout": {"height": 330, "showlegend": False, **axes}}
