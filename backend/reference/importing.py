"""Make a reference set from a person's own folder, zip or NPZ of images."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from backend.errors import InputError
from backend.reference.archives import Limits, Refused, is_clutter, open_source
from backend.reference.caption_files import caption_for, is_caption_file, parse_captions, read_captions
from backend.reference.decoding import BLANK, EXTENSIONS, MIN_SIDE, decode_image, fit_square, is_blank
from backend.reference.duplicates import near_duplicates, thumbnail
from backend.reference.manifest import new_reference_folder, pixel_sha256, save_png, write_manifest
from backend.reference.numpy_archive import read_npz

Progress = Callable[[int, int], None]
FEW = 20  # below this, k-nearest-neighbour and Fréchet estimates on the reference are poor


@dataclass
class ImportReport:
    """What an import did.

    Attributes:
        source: where the images came from.
        accepted: `{"file", "source", "notes"}` of each image of the new set.
        refused: name and reason of each file that was left out.
        near: name, name of the earlier image that it nearly repeats, and how alike they are.
        ignored: files that operating systems leave behind.
        notes: remarks on the whole import.
    """

    source: str
    accepted: list[dict[str, Any]] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    near: list[tuple[str, str, str]] = field(default_factory=list)
    ignored: int = 0
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The report as text, one finding a line."""
        lines = [f"{len(self.accepted)} images imported from {self.source}, {len(self.refused)} files refused, {len(self.near)} near duplicates found"]
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"refused: {printable(name)}: {reason}" for name, reason in self.refused]
        lines += [f"near duplicate: {printable(name)} of {printable(other)} ({how})" for name, other, how in self.near]
        lines += [f"changed: {printable(item['source'])}: {', '.join(item['notes'])}" for item in self.accepted if item["notes"]]
        return lines


def printable(name: str) -> str:
    """A name from outside with control characters escaped and cut to 120 characters, fit for a terminal line."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name.encode("utf-8", "replace").decode())
    return shown if len(shown) <= 120 else f"{shown[:117]}..."


def import_reference(
    source: str | Path | Sequence[Path],
    target: str | Path,
    *,
    size: int = 128,
    captions: str | Path | None = None,
    name: str = "",
    simulated: bool = False,
    licence: str = "",
    citation: str = "",
    drop_near: bool = False,
    overwrite: bool = False,
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> ImportReport:
    """Import images of any size and mode as a reference set; the target appears only when all of it is there.

    Args:
        source: a folder, a .zip, an .npz (its form: `read_npz`), or single files.
        target: folder of the new set; files get names of our own inside it.
        size: side in pixels of the square images of the set.
        captions: CSV or JSON Lines with captions; else one named captions.csv/.jsonl or metadata.csv/.jsonl in the source.
        name, simulated, licence, citation: kept in the manifest and shown with the images.
        drop_near: leave out near duplicates too (exact ones always are).
        overwrite: replace the reference set that is in the target.
        limits: bounds on what is read.
        progress: called with files done and files in all.

    Raises:
        InputError: the source cannot be read at all, the target may not be written, or fewer than two images are left.
    """
    target, limits = Path(target), limits or Limits()
    source = Path(source) if isinstance(source, str | Path) else [Path(file) for file in source]
    title = printable(source.name) if isinstance(source, Path) else f"{len(source)} files"
    if not MIN_SIDE <= size <= 2048:
        raise InputError(f"size {size} is out of bounds: images of a reference set have {MIN_SIDE} to 2048 pixels a side")
    if isinstance(source, Path) and source.is_dir() and target.resolve().is_relative_to(source.resolve()):
        raise InputError(f"target {str(target)!r} lies inside the source: choose a folder outside {str(source)!r}")
    given = read_captions(captions) if captions else None
    report = ImportReport(title)
    with new_reference_folder(target, overwrite) as folder:
        packed = isinstance(source, Path) and source.suffix.lower() == ".npz"
        images = _from_npz(source, limits, report, given) if packed else _from_files(source, limits, report, given, progress)
        entries = _write_images(images, folder, size, report, drop_near)
        if len(entries) < 2:
            reasons = "; ".join(f"{printable(file)}: {reason}" for file, reason in report.refused[:3])
            raise InputError(f"{title}: {len(entries)} usable images, a reference set needs at least 2" + (f" ({reasons})" if reasons else ": name a folder with images"))
        if len(entries) < FEW:
            report.notes.append(f"only {len(entries)} images: rewards that estimate densities (FID, MI, COVERAGE) are poor below {FEW}")
        header = {"name": name or Path(title).stem, "simulated": simulated, "source": title, "licence": licence, "citation": citation, "size": size}
        write_manifest(folder, header, entries)
        (folder / "import_report.json").write_text(json.dumps(asdict(report), indent=1, ensure_ascii=False) + "\n", encoding="utf-8", errors="replace")
    return report


Found = tuple[str, np.ndarray, list[str], str]  # name in the source, uint8 [h, w, 3], remarks, caption


def _from_npz(source: Path, limits: Limits, report: ImportReport, given: dict[str, str] | None) -> Iterator[Found]:
    if not source.exists():
        raise InputError(f"{str(source)!r} does not exist: name a folder, a .zip or an .npz with images")
    images, captions, notes = read_npz(source, limits)
    if min(images.shape[1:3]) < MIN_SIDE:
        raise InputError(f"{source.name}: images of {images.shape[2]} x {images.shape[1]} pixels: each side needs at least {MIN_SIDE}")
    report.notes.extend(notes)
    for index, pixels in enumerate(images):
        name = f"{source.stem}[{index}]"
        if is_blank(pixels):
            report.refused.append((name, BLANK))
            continue
        yield name, pixels, [], (given or {}).get(name) or (captions[index] if captions else "")


def _from_files(source: Path | Sequence[Path], limits: Limits, report: ImportReport, given: dict[str, str] | None, progress: Progress | None) -> Iterator[Found]:
    with open_source(source, limits) as members:
        captions = given if given is not None else _captions_inside(members, report)
        used = set()
        for done, member in enumerate(members, start=1):
            if progress:
                progress(done, len(members))
            if is_clutter(member.name):
                report.ignored += 1
                continue
            if is_caption_file(member.name):
                continue
            try:
                data = member.read()
                if not member.name.lower().endswith(EXTENSIONS):
                    raise Refused(f"not an image by its ending; use {', '.join(EXTENSIONS)}")
                pixels, notes = decode_image(data, limits)
            except Refused as reason:
                report.refused.append((member.name, str(reason)))
                continue
            caption = caption_for(member.name, captions)
            used.add(caption)
            yield member.name, pixels, notes, caption or ""
        unused = len(set(captions.values()) - used)
        if unused:
            report.notes.append(f"{unused} captions belong to no imported image")


def _captions_inside(members: list, report: ImportReport) -> dict[str, str]:
    """Captions from files in the source itself, each meant for its own folder first; a faulty one is reported, and the images are imported without."""
    inside: dict[str, str] = {}
    anywhere: dict[str, set[str]] = {}
    for member in members:
        if is_caption_file(member.name) and not is_clutter(member.name):
            folder = PurePosixPath(member.name).parent
            try:
                for key, caption in parse_captions(member.read(), member.name).items():
                    inside[(folder / key).as_posix()] = caption
                    anywhere.setdefault(key, set()).add(caption)
            except (InputError, Refused) as error:
                report.refused.append((member.name, str(error)))
    return {key: next(iter(found)) for key, found in anywhere.items() if len(found) == 1} | inside


def _write_images(images: Iterator[Found], folder: Path, size: int, report: ImportReport, drop_near: bool) -> list[dict[str, Any]]:
    entries, thumbs, seen = [], [], {}
    for name, pixels, notes, caption in images:
        exact = pixel_sha256(pixels)
        if exact in seen:
            report.refused.append((name, f"exact duplicate of {printable(seen[exact])}"))
            continue
        seen[exact] = name
        square = fit_square(pixels, size, notes)
        if is_blank(square):
            report.refused.append((name, f"{BLANK} of its central square"))
            continue
        file = f"images/image_{len(entries):04d}.png"
        save_png(square, folder / file)
        thumbs.append(thumbnail(square))
        entries.append(
            {"file": file, "caption": caption, "sha256": pixel_sha256(square), "source": printable(name), "original_size": [pixels.shape[1], pixels.shape[0]], "notes": notes}
        )
    dropped = set()
    for pair in near_duplicates(thumbs, of_kept=drop_near):
        how = f"{'turned or mirrored, ' if pair.turned else ''}correlation {pair.correlation:.3f}"
        report.near.append((entries[pair.second]["source"], entries[pair.first]["source"], how))
        if drop_near:
            dropped.add(pair.second)
            (folder / entries[pair.second]["file"]).unlink()
            report.refused.append((entries[pair.second]["source"], f"near duplicate of {printable(entries[pair.first]['source'])} ({how})"))
    kept = [entry for index, entry in enumerate(entries) if index not in dropped]
    report.accepted = [{"file": entry["file"], "source": entry["source"], "notes": entry["notes"]} for entry in kept]
    return kept
