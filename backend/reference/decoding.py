"""From the bytes of any image file to 8-bit RGB."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, ImageOps

from backend.reference.archives import Limits, Refused

EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".gif")
FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF")
MIN_SIDE = 32  # below this a crater has no visible structure left
MAX_ASPECT = 8.0
GDAL_NODATA, BITS_PER_SAMPLE = 42113, 258  # TIFF tags
ISIS_SPECIAL = -1e38  # below it ISIS stores why a pixel has no value (null is -3.4e38), and GDAL's usual no-data value lies
LOWEST_INTEGERS = (-(2**15), -(2**31))  # no-data of elevation models in signed integers
BLANK = "blank: every pixel is the same"


def decode_image(data: bytes, limits: Limits) -> tuple[np.ndarray, list[str]]:
    """Decode an image of any mode to uint8 `[h, w, 3]`.

    EXIF rotation is applied; grey becomes three equal channels; transparent parts take the mean colour of the opaque
    ones; 16-bit, 32-bit and float images are stretched from their 0.5 and 99.5 percentiles, because their range is not
    that of a screen (a 12-bit camera stores 0-4095 in 16 bits). What has no data (not finite, the value of GDAL's tag, ISIS's special
    pixels, the lowest signed integer) takes the median. Colour is read with 8 bits a channel.

    Returns:
        The image, and remarks for the report on what was changed.

    Raises:
        Refused: not an image, damaged, too large, too small, too narrow, blank.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Refused(f"more than {limits.pixels:,} pixels ({error})") from error
    except Exception as error:  # decoders meet hostile bytes: whatever they raise, the file is what is at fault
        raise Refused(f"not an image that can be read ({type(error).__name__}); use {', '.join(FORMATS)}") from error
    _check_size(*image.size, limits)
    notes = []
    try:
        if getattr(image, "n_frames", 1) > 1:
            notes.append(f"first of {image.n_frames} frames")
            image.seek(0)
        image.load()
        deep, no_data = _has_deep_colour(image, data), _no_data(image)
        if image.getexif().get(0x0112, 1) != 1:
            notes.append("turned upright by its EXIF tag")
            image = ImageOps.exif_transpose(image)
        pixels = _to_rgb(image, notes, no_data)
        if deep:
            _check_depth(pixels, notes)
    except Refused:
        raise
    except Exception as error:
        raise Refused(f"damaged or of an unknown kind ({type(error).__name__}: {error})") from error
    if is_blank(pixels):
        raise Refused(BLANK)
    return pixels, notes


def is_blank(pixels: np.ndarray) -> bool:
    """Whether every pixel of an image [h, w, C] has the same colour."""
    return bool((pixels == pixels[:1, :1]).all())


def _check_size(width: int, height: int, limits: Limits) -> None:
    if width * height > limits.pixels:
        raise Refused(f"{width} x {height} pixels, more than {limits.pixels:,} in all: make it smaller")
    if min(width, height) < MIN_SIDE:
        raise Refused(f"{width} x {height} pixels: each side needs at least {MIN_SIDE}")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise Refused(f"{width} x {height} pixels: longer than {MAX_ASPECT:.0f} times its width, a square crop would lose nearly all of it")


def _no_data(image: Image.Image) -> float | None:
    """The value that a TIFF's GDAL_NODATA tag says stands where nothing was measured."""
    tag = getattr(image, "tag_v2", {}).get(GDAL_NODATA)
    try:
        return None if tag is None else float(str(tag).strip("\0 "))
    except ValueError:
        return None


def _has_deep_colour(image: Image.Image, data: bytes) -> bool:
    """Whether an image of several channels has more than 8 bits in each, of which Pillow reads the upper 8."""
    if image.format == "PNG":
        return data[24] == 16 and data[25] in {2, 4, 6}  # IHDR: bit depth, and colour, grey with alpha or both
    bits = getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (8,))
    return len(bits) > 1 and max(bits) > 8


def _check_depth(pixels: np.ndarray, notes: list[str]) -> None:
    if pixels.max() < 64:
        raise Refused(f"more than 8 bits a channel, of which the upper two are never used (brightest level {pixels.max()} of 255): stretch it, or save it as 16-bit grey")
    notes.append("upper 8 bits of each channel taken")


def _to_rgb(image: Image.Image, notes: list[str], no_data: float | None) -> np.ndarray:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        missing = (values < ISIS_SPECIAL) | np.isin(values, LOWEST_INTEGERS) if no_data is None else (values == no_data) | (values < ISIS_SPECIAL)
        return np.repeat(stretch(np.where(missing, np.nan, values), notes)[..., None], 3, axis=2)
    if image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in image.info:
        return _flatten(np.asarray(image.convert("RGBA")), notes)
    return np.asarray(image.convert("RGB"))


def _flatten(rgba: np.ndarray, notes: list[str]) -> np.ndarray:
    """`over_mean_colour`, with a note that says how much was filled."""
    hidden = (rgba[..., 3] < 255).mean()
    if hidden:
        notes.append(f"{hidden:.0%} of it transparent: filled with the mean colour")
    return over_mean_colour(rgba)


def over_mean_colour(rgba: np.ndarray) -> np.ndarray:
    """Lay a transparent image uint8 `[h, w, 4]` over the mean colour of its opaque parts: uint8 `[h, w, 3]`.

    Raises:
        Refused: nothing of it is opaque.
    """
    alpha, colour = rgba[..., 3:].astype(np.float64) / 255, rgba[..., :3].astype(np.float64)
    if alpha.max() == 0:
        raise Refused("entirely transparent")
    mean = (colour * alpha).sum((0, 1)) / alpha.sum()
    return np.round(colour * alpha + mean * (1 - alpha)).astype(np.uint8)


def stretch(values: np.ndarray, notes: list[str]) -> np.ndarray:
    """Map an image of any range to uint8 between its 0.5 and 99.5 percentiles; no-data (non-finite) takes the median.

    Args:
        values: float64, any shape.
        notes: a remark with the range is appended.

    Raises:
        Refused: more than half of it has no data, or it is constant.
    """
    finite = np.isfinite(values)
    if finite.mean() < 0.5:
        raise Refused(f"{1 - finite.mean():.0%} of it has no data")
    low, high = stretching(values[finite])
    if high <= low:
        raise Refused(BLANK)
    notes.append(f"stretched from {low:.6g}..{high:.6g}")
    if not finite.all():
        notes.append(f"{1 - finite.mean():.1%} without data: filled with the median")
    return stretched(np.where(finite, values, np.median(values[finite])), low, high)


def stretching(values: np.ndarray) -> tuple[float, float]:
    """What becomes black and white: the 0.5 and 99.5 percentiles of finite values, or the extremes where these are one."""
    low, high = np.percentile(values, [0.5, 99.5])
    return (float(low), float(high)) if low < high else (float(values.min()), float(values.max()))


def stretched(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values as uint8, `low` and below black, `high` and above white."""
    return np.round(np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def fit_square(pixels: np.ndarray, size: int, notes: list[str] | None = None) -> np.ndarray:
    """Crop uint8 `[h, w, 3]` to its central square and resize it (Lanczos) to `[size, size, 3]`."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = np.ascontiguousarray(pixels[top : top + side, left : left + side])
    if notes is not None and side < size:
        notes.append(f"enlarged from {side} to {size} pixels")
    if side == size:
        return square
    return np.asarray(Image.fromarray(square).resize((size, size), Image.Resampling.LANCZOS))
