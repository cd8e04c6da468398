"""Load and validate a reference set."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from backend.errors import InputError
from backend.reference.manifest import pixel_sha256, read_manifest

if TYPE_CHECKING:
    import torch

REMEDY = "restore it, or build or import the set again"


@dataclass(frozen=True)
class ReferenceSet:
    """The images that rewards compare with.

    Attributes:
        images: uint8 `[M, h, w, 3]`.
        captions: M captions; empty where the set came without.
        manifest: content of `manifest.json`: parameters, seeds, sources, licence.
        simulated: the images are renders, not photographs, and are to be labelled so wherever they are shown.
        folder: where the set lies.
    """

    images: np.ndarray
    captions: list[str]
    manifest: dict[str, Any]
    simulated: bool
    folder: Path

    def __len__(self) -> int:
        return len(self.images)

    @property
    def label(self) -> str:
        """One line for wherever the images are shown."""
        kind = "simulated" if self.simulated else "imported"
        return f"{self.manifest.get('name') or self.folder.name}: {len(self)} {kind} images"

    @property
    def digest(self) -> str:
        """SHA-256 over the images' own, in order: names the set in run records and caches."""
        return hashlib.sha256("".join(entry["sha256"] for entry in self.manifest["images"]).encode()).hexdigest()

    def tensor(self, size: int | None = None) -> torch.Tensor:
        """The images as float32 `[M, 3, h, w]` in [0, 1].

        Args:
            size: side to resize to (antialiased bilinear); the images' own where None.
        """
        import torch

        images = torch.from_numpy(self.images).permute(0, 3, 1, 2).float() / 255
        if size is None or images.shape[-2:] == (size, size):
            return images.contiguous()
        resized = torch.nn.functional.interpolate(images, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
        return resized.clamp(0, 1)


def load_reference(folder: str | Path = "reference_data", field: str | None = None) -> ReferenceSet:
    """Read a reference set and compare every image with the SHA-256 in the manifest.

    Args:
        folder: a folder with `manifest.json`.
        field: name of the `TrainConfig` field that named the folder, so that the page shows the error there.

    Raises:
        InputError: the folder, its manifest or an image is missing or damaged, or an image is not the one that the
            manifest names.
    """
    folder = Path(folder)
    try:
        return select_reference(folder, read_manifest(folder))
    except InputError as error:
        raise InputError(str(error), field=field) from error


def select_reference(folder: Path, manifest: dict[str, Any], chosen: Sequence[int] | None = None) -> ReferenceSet:
    """Some images of a set, each compared with its SHA-256.

    Args:
        folder: where the set lies.
        manifest: its manifest; that of the result names the chosen images alone.
        chosen: their positions; all where None.

    Raises:
        InputError: an image is missing, damaged, not the one that the manifest names, or of another size than the others.
    """
    entries = manifest["images"] if chosen is None else [manifest["images"][i] for i in chosen]
    images = [read_image(folder, entry) for entry in entries]
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        sizes = ", ".join(sorted(f"{w} x {h}" for h, w, _ in shapes))
        raise InputError(f"images of {str(folder)!r} have different sizes ({sizes}): import them, which brings them to one")
    captions = [entry["caption"] for entry in entries]
    return ReferenceSet(np.stack(images), captions, {**manifest, "images": entries}, bool(manifest.get("simulated", False)), folder)


def read_image(folder: Path, entry: dict[str, Any]) -> np.ndarray:
    """One image of a set as uint8 `[h, w, 3]`, checked against its entry in the manifest.

    Raises:
        InputError: missing, damaged, or other pixels than the manifest names.
    """
    path = folder / entry["file"]
    if not path.is_file():
        raise InputError(f"reference image {path} is missing: {REMEDY}")
    try:
        with Image.open(path, formats=["PNG"]) as image:
            pixels = np.asarray(image.convert("RGB"))
    except Exception as error:  # a damaged file makes decoders raise nearly anything; its name is what helps
        raise InputError(f"reference image {path} cannot be read ({type(error).__name__}): {REMEDY}") from error
    found = pixel_sha256(pixels)
    if found != entry["sha256"]:
        raise InputError(f"reference image {path} is not the one in the manifest (its pixels have sha256 {found[:12]}, expected {entry['sha256'][:12]}): {REMEDY}")
    return pixels


def validate_reference(folder: str | Path) -> list[str]:
    """Everything that is wrong with a reference set, one line each; nothing for a sound one.

    Raises:
        InputError: the folder or its manifest cannot be read at all.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    problems, shapes = [], set()
    for entry in manifest["images"]:
        try:
            shapes.add(read_image(folder, entry).shape)
        except InputError as error:
            problems.append(str(error))
    if len(shapes) > 1:
        problems.append(f"images have {len(shapes)} different sizes: import them, which brings them to one")
    named = [entry["file"] for entry in manifest["images"]]
    if len(set(named)) < len(named):
        problems.append("the manifest names an image twice")
    extra = sorted({path.relative_to(folder).as_posix() for path in (folder / "images").glob("*")} - set(named))
    problems.extend(f"{name} is not in the manifest: remove it, or import the folder again" for name in extra)
    return problems
