"""A reference set on disk: `manifest.json` beside `images/*.png`, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from backend.errors import InputError

FORMAT = "crater-reference"
VERSION = 1
MANIFEST = "manifest.json"


def pixel_sha256(pixels: np.ndarray) -> str:
    """SHA-256 of an image's size and pixels uint8 `[h, w, 3]`: independent of how its file is compressed."""
    digest = hashlib.sha256(f"{pixels.shape[0]}x{pixels.shape[1]}x{pixels.shape[2]}:".encode())
    digest.update(np.ascontiguousarray(pixels, dtype=np.uint8).tobytes())
    return digest.hexdigest()


def save_png(pixels: np.ndarray, path: Path) -> None:
    """Write uint8 `[h, w, 3]` as a PNG without metadata."""
    Image.fromarray(pixels).save(path, format="PNG", optimize=True)


def write_manifest(folder: Path, header: dict[str, Any], entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Write `manifest.json` into a folder and return its content.

    Args:
        folder: where the `images/` folder is.
        header: name, simulated, source, licence, citation and whatever tells how the set was made.
        entries: one a picture: file, caption, sha256 and more.
    """
    manifest = {"format": FORMAT, "version": VERSION, **header, "count": len(entries), "images": entries}
    temporary = folder / f".{MANIFEST}.partial"
    temporary.write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, folder / MANIFEST)
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a reference folder, its form checked.

    Raises:
        InputError: no folder, no manifest, or one that is damaged or names a file outside the folder.
    """
    if not folder.is_dir():
        raise InputError(f"reference folder {str(folder)!r} does not exist: name one, or make it with `python -m backend reference build`")
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(f"{str(folder)!r} has no {MANIFEST}: turn a folder of images into a reference set with `python -m backend reference import {folder} NEW_FOLDER`")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}): build or import the set again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or not isinstance(manifest.get("images"), list):
        raise InputError(f"{path} is no reference manifest (its format is not {FORMAT!r}): build or import the set again")
    if manifest.get("version") != VERSION:
        raise InputError(f"{path} has version {manifest.get('version')!r}, this program reads {VERSION}: build or import the set again")
    if not manifest["images"]:
        raise InputError(f"{path} lists no image: build or import the set again")
    for entry in manifest["images"]:
        _check_entry(entry, path)
    return manifest


def _check_entry(entry: Any, path: Path) -> None:
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("file", "caption", "sha256")):
        raise InputError(f"{path}: an image lacks file, caption or sha256: build or import the set again")
    file = Path(entry["file"])
    if file.is_absolute() or ".." in file.parts or "\\" in entry["file"]:
        raise InputError(f"{path}: {entry['file']!r} is outside the reference folder: build or import the set again")


@contextmanager
def new_reference_folder(target: Path, overwrite: bool) -> Iterator[Path]:
    """A temporary folder beside `target` that takes its place when the block ends without an error.

    Args:
        target: the folder to make.
        overwrite: replace a reference set that is there already; other folders are never replaced. Files in it that
            are not part of the set (notes, built features) are kept, except features and plots of the old images.

    Raises:
        InputError: the target is there and may not be replaced, or cannot be written.
    """
    _check_target(target, overwrite)
    temporary = target.parent / f".{target.name}.partial-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    _remove_leftovers(target)
    try:
        (temporary / "images").mkdir(parents=True)
    except OSError as error:
        raise InputError(f"{str(target)!r} cannot be written ({error.strerror}): choose another folder") from error
    try:
        yield temporary
        _swap(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_target(target: Path, overwrite: bool) -> None:
    if target.is_symlink() or target.exists() and not target.is_dir():
        raise InputError(f"{str(target)!r} is not a folder: choose another target")
    if not target.exists() or not any(target.iterdir()):
        return
    if not (target / MANIFEST).is_file():
        raise InputError(f"{str(target)!r} holds other files: choose a new folder for the reference set")
    if not overwrite:
        raise InputError(f"{str(target)!r} holds a reference set already: choose a new folder, or pass --overwrite")


def _remove_leftovers(target: Path) -> None:
    """Remove temporary folders of processes that are gone."""
    for leftover in target.parent.glob(f".{target.name}.partial-*"):
        owner = leftover.name.removeprefix(f".{target.name}.partial-").partition("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(leftover)


def _swap(temporary: Path, target: Path) -> None:
    if not target.exists():
        os.replace(temporary, target)
        return
    derived = {MANIFEST, "images", "import_report.json", "plots"}
    for path in target.iterdir():
        if path.name not in derived and path.suffix != ".npz":
            destination = temporary / path.name
            if path.is_dir():
                shutil.copytree(path, destination, symlinks=True)
            else:
                shutil.copy2(path, destination, follow_symlinks=False)
    old = temporary.with_name(f"{temporary.name}-old")
    os.replace(target, old)
    try:
        os.replace(temporary, target)
    except OSError:
        os.replace(old, target)
        raise
    shutil.rmtree(old)
