"""Images from an NPZ, its arrays' headers checked before any data is read."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, prod
from pathlib import Path

import numpy as np

from backend.errors import InputError
from backend.reference.archives import Limits, Refused, check_zip
from backend.reference.caption_files import MAX_CHARACTERS, tidy
from backend.reference.decoding import over_mean_colour, stretched, stretching

IMAGE_KEYS = ("images", "arr_0", "x", "data")
SEEN = 2**22  # values that percentiles are taken of; more are thinned out

Convert = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Array:
    """An array of the archive, of which only the header has been read."""

    entry: zipfile.ZipInfo
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def bytes(self) -> int:
        """Its size in memory."""
        return prod(self.shape) * self.dtype.itemsize


def read_npz(path: Path, limits: Limits) -> tuple[np.ndarray, list[str], list[str]]:
    """Images and captions of an NPZ.

    The images are the array `images` (or the only one of three or four dimensions): `[N, h, w]`, `[N, h, w, C]` or
    `[N, C, h, w]` with C of 1, 3 or 4; uint8, bool, other integers, or floats in [0, 1], [-1, 1] or [0, 255]. Other
    ranges are stretched from their percentiles.

    Returns:
        uint8 `[N, h, w, 3]`, N captions (an empty list without an array `captions`), and remarks for the report.

    Raises:
        InputError: not an NPZ, pickled objects inside, too large, no array of images, or one that is entirely transparent.
    """
    check_zip(path, limits)
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = _headers(archive, path.name)
            key = _image_key(arrays, path.name)
            _check_images(path, arrays[key], limits)
            words = arrays.get("captions")
            words = words if words is not None and words.dtype.kind == "U" else None
            if words is not None:
                _check_captions(path.name, words, limits)
            values = _read(archive, arrays[key])
            captions = [tidy(str(text)) for text in _read(archive, words).ravel()] if words is not None else []
    except InputError:
        raise
    except Exception as error:  # a damaged zip or header raises nearly anything; the file is what is at fault
        raise InputError(f"{path.name} cannot be read as an NPZ ({type(error).__name__}: {error}): save it again with numpy.savez") from error
    notes: list[str] = []
    values = _channels_last(values, path.name, notes)
    convert = _conversion(values, path.name, notes)
    images = np.empty((*values.shape[:3], 3), np.uint8)
    for index, image in enumerate(values):  # one by one: the whole in float64 is many times as large
        converted = convert(image)
        try:
            images[index] = over_mean_colour(converted) if converted.shape[-1] == 4 else converted  # one channel is repeated
        except Refused as error:
            raise InputError(f"{path.name}: image {index} (from 0) is {error}: leave it out, or save the images without an alpha channel") from error
    if captions and len(captions) != len(images):
        raise InputError(f"{path.name} has {len(images)} images and {len(captions)} captions: give each image one")
    return images, captions, notes


def _headers(archive: zipfile.ZipFile, name: str) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    for entry in archive.infolist():
        key = entry.filename.removesuffix(".npy")
        if key == entry.filename or key in arrays:
            raise InputError(f"{name}: {entry.filename[:100]!r} is {'no array' if key == entry.filename else 'there twice'}: save the arrays again with numpy.savez")
        with archive.open(entry) as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
        if dtype.hasobject:
            raise InputError(f"{name}: array {key!r} holds pickled Python objects, which could run code and are never read: save plain arrays")
        arrays[key] = Array(entry, shape, dtype)
    return arrays


def _read(archive: zipfile.ZipFile, array: Array) -> np.ndarray:
    with archive.open(array.entry) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _image_key(arrays: dict[str, Array], name: str) -> str:
    possible = [key for key, array in arrays.items() if len(array.shape) in {3, 4} and array.dtype.kind in "buif"]
    chosen = next((key for key in IMAGE_KEYS if key in possible), possible[0] if len(possible) == 1 else None)
    if chosen is None:
        found = ", ".join(f"{key} {list(array.shape)} {array.dtype}" for key, array in arrays.items()) or "nothing"
        raise InputError(f"{name} has no array 'images' of [N, h, w, 3] (it has {found[:200]}): save one under that name")
    return chosen


def _check_images(path: Path, array: Array, limits: Limits) -> None:
    shape = array.shape
    if shape[0] > limits.files or array.bytes > limits.total_bytes or prod(shape[1:]) > 4 * limits.pixels:
        raise InputError(
            f"{path.name}: an array of {list(shape)} {array.dtype} ({array.bytes / 2**20:,.0f} MiB) is too large: "
            f"at most {limits.files} images and {limits.total_bytes / 2**20:,.0f} MiB"
        )
    if array.bytes > limits.ratio * max(path.stat().st_size, 1):
        raise InputError(f"{path.name}: {array.bytes:,} bytes packed into {path.stat().st_size:,}, more than {limits.ratio:.0f} times: no set of pictures is")
    if shape[0] == 0:
        raise InputError(f"{path.name} holds no image: its array has the shape {list(shape)}")


def _check_captions(name: str, array: Array, limits: Limits) -> None:
    """NumPy stores text at four bytes a character, all as long as the longest."""
    count, characters = prod(array.shape), array.dtype.itemsize // 4
    if count > limits.files or characters > MAX_CHARACTERS:
        raise InputError(f"{name}: {count:,} captions of up to {characters:,} characters: at most {limits.files} of {MAX_CHARACTERS} are read")


def _channels_last(values: np.ndarray, name: str, notes: list[str]) -> np.ndarray:
    if values.ndim == 3:
        return values[..., None]
    if values.shape[-1] in {1, 3, 4}:
        return values
    if values.shape[1] in {1, 3, 4}:
        notes.append("channels moved from first to last place")
        return values.transpose(0, 2, 3, 1)
    raise InputError(f"{name}: images of the shape {list(values.shape)} have neither 1, 3 nor 4 channels: save [N, h, w, 3]")


def _conversion(values: np.ndarray, name: str, notes: list[str]) -> Convert:
    """How each image becomes uint8, decided by the values of all of them."""
    kind = values.dtype.kind
    if values.dtype == np.uint8:
        return lambda image: image
    if kind == "b":
        return lambda image: image.astype(np.uint8) * 255
    if kind == "f" and (missing := sum(int((~np.isfinite(image)).sum()) for image in values)):
        raise InputError(f"{name}: {missing / values.size:.1%} of the values are not finite: mend them or leave those images out")
    low, high = float(values.min()), float(values.max())
    if kind == "f" and low >= 0 and high <= 1:
        notes.append("floats in 0..1 read as black..white")
        return lambda image: np.round(image.astype(np.float64) * 255).astype(np.uint8)
    if kind == "f" and low >= -1 and high <= 1:
        notes.append("floats in -1..1 read as black..white")
        return lambda image: np.round((image.astype(np.float64) + 1) * 127.5).astype(np.uint8)
    if low >= 0 and high <= 255:
        if values.dtype.itemsize > 1:
            notes.append("values in 0..255 taken as they are")
        return lambda image: np.round(image).astype(np.uint8)
    if low == high:
        raise InputError(f"{name}: every value is {low:g}: it holds no picture")
    bounds = stretching(values.ravel(order="K")[:: ceil(values.size / SEEN)].astype(np.float64))
    low, high = bounds if bounds[0] < bounds[1] else (low, high)
    notes.append(f"stretched from {low:.6g}..{high:.6g}")
    return lambda image: stretched(image.astype(np.float64), low, high)
