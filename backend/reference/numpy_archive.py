"""Images from an NPZ, its arrays' headers checked before any data is read."""

from __future__ import annotations

import zipfile
from math import prod
from pathlib import Path

import numpy as np

from backend.errors import InputError
from backend.reference.archives import Limits, check_zip
from backend.reference.decoding import stretch

IMAGE_KEYS = ("images", "arr_0", "x", "data")


def read_npz(path: Path, limits: Limits) -> tuple[np.ndarray, list[str], list[str]]:
    """Images and captions of an NPZ.

    The images are the array `images` (or the only one of three or four dimensions): `[N, h, w]`, `[N, h, w, C]` or
    `[N, C, h, w]` with C of 1, 3 or 4; uint8, bool, other integers, or floats in [0, 1], [-1, 1] or [0, 255]. Other
    ranges are stretched from their percentiles.

    Returns:
        uint8 `[N, h, w, 3]`, N captions (an empty list without an array `captions`), and remarks for the report.

    Raises:
        InputError: not an NPZ, pickled objects inside, too large, or no array of images.
    """
    check_zip(path, limits)
    try:
        headers = _headers(path)
    except InputError:
        raise
    except Exception as error:  # a damaged zip or header raises nearly anything; the file is what is at fault
        raise InputError(f"{path.name} cannot be read as an NPZ ({type(error).__name__}: {error}): save it again with numpy.savez") from error
    key = _image_key(headers, path.name)
    shape, dtype = headers[key]
    _check_size(path, shape, dtype, limits)
    try:
        with np.load(path, allow_pickle=False) as archive:
            values = archive[key]
            captions = [str(text) for text in archive["captions"].ravel()] if headers.get("captions", ((), np.dtype(float)))[1].kind == "U" else []
    except Exception as error:
        raise InputError(f"{path.name}: its arrays cannot be read ({type(error).__name__}: {error}): save it again with numpy.savez") from error
    notes: list[str] = []
    images = _channels_last(values, path.name, notes)
    images = _flatten_channels(_to_uint8(images, path.name, notes))
    if captions and len(captions) != len(images):
        raise InputError(f"{path.name} has {len(images)} images and {len(captions)} captions: give each image one")
    return images, captions, notes


def _headers(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    headers = {}
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if not entry.filename.endswith(".npy"):
                continue
            with archive.open(entry) as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(file)
            key = entry.filename.removesuffix(".npy")
            if dtype.hasobject:
                raise InputError(f"{path.name}: array {key!r} holds pickled Python objects, which could run code and are never read: save plain arrays")
            headers[key] = (shape, dtype)
    return headers


def _image_key(headers: dict[str, tuple[tuple[int, ...], np.dtype]], name: str) -> str:
    possible = [key for key, (shape, dtype) in headers.items() if len(shape) in {3, 4} and dtype.kind in "buif"]
    chosen = next((key for key in IMAGE_KEYS if key in possible), possible[0] if len(possible) == 1 else None)
    if chosen is None:
        found = ", ".join(f"{key} {list(shape)} {dtype}" for key, (shape, dtype) in headers.items()) or "nothing"
        raise InputError(f"{name} has no array 'images' of [N, h, w, 3] (it has {found[:200]}): save one under that name")
    return chosen


def _check_size(path: Path, shape: tuple[int, ...], dtype: np.dtype, limits: Limits) -> None:
    size = prod(shape) * dtype.itemsize
    if shape[0] > limits.files or size > limits.total_bytes or prod(shape[1:]) > 4 * limits.pixels:
        raise InputError(
            f"{path.name}: an array of {list(shape)} {dtype} ({size / 2**20:,.0f} MiB) is too large: at most {limits.files} images and {limits.total_bytes / 2**20:,.0f} MiB"
        )
    if size > limits.ratio * max(path.stat().st_size, 1):
        raise InputError(f"{path.name}: {size:,} bytes packed into {path.stat().st_size:,}, more than {limits.ratio:.0f} times: no set of pictures is")
    if shape[0] == 0:
        raise InputError(f"{path.name} holds no image: its array has the shape {list(shape)}")


def _channels_last(values: np.ndarray, name: str, notes: list[str]) -> np.ndarray:
    if values.ndim == 3:
        return values[..., None]
    if values.shape[-1] in {1, 3, 4}:
        return values
    if values.shape[1] in {1, 3, 4}:
        notes.append("channels moved from first to last place")
        return values.transpose(0, 2, 3, 1)
    raise InputError(f"{name}: images of the shape {list(values.shape)} have neither 1, 3 nor 4 channels: save [N, h, w, 3]")


def _to_uint8(values: np.ndarray, name: str, notes: list[str]) -> np.ndarray:
    if values.dtype == np.uint8:
        return values
    if values.dtype == bool:
        return values.astype(np.uint8) * 255
    numbers = values.astype(np.float64)
    if not np.isfinite(numbers).all():
        raise InputError(f"{name}: {(~np.isfinite(numbers)).mean():.1%} of the values are not finite: mend them or leave those images out")
    low, high = numbers.min(), numbers.max()
    if values.dtype.kind in "ui" and low >= 0 and high <= 255 and values.dtype.itemsize == 1:
        return values.astype(np.uint8)
    if values.dtype.kind == "f" and low >= 0 and high <= 1:
        notes.append("floats in 0..1 read as black..white")
        return np.round(numbers * 255).astype(np.uint8)
    if values.dtype.kind == "f" and low >= -1 and high <= 1:
        notes.append("floats in -1..1 read as black..white")
        return np.round((numbers + 1) * 127.5).astype(np.uint8)
    if low >= 0 and high <= 255:
        notes.append("values in 0..255 taken as they are")
        return np.round(numbers).astype(np.uint8)
    if low == high:
        raise InputError(f"{name}: every value is {low:g}: it holds no picture")
    return stretch(numbers, notes)


def _flatten_channels(images: np.ndarray) -> np.ndarray:
    if images.shape[-1] == 1:
        return np.repeat(images, 3, axis=-1)
    if images.shape[-1] == 3:
        return images
    alpha = images[..., 3:].astype(np.float64) / 255
    weight = np.maximum(alpha.sum((1, 2), keepdims=True), 1e-9)
    mean = (images[..., :3] * alpha).sum((1, 2), keepdims=True) / weight
    return np.round(images[..., :3] * alpha + mean * (1 - alpha)).astype(np.uint8)
