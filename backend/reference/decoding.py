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


def decode_image(data: bytes, limits: Limits) -> tuple[np.ndarray, list[str]]:
    """Decode an image of any mode to uint8 `[h, w, 3]`.

    EXIF rotation is applied; grey becomes three equal channels; transparent parts take the mean colour of the opaque
    ones; 16-bit, 32-bit and float images are stretched from their 0.5 and 99.5 percentiles, because their range is not
    that of a screen (a 12-bit camera stores 0-4095 in 16 bits).

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
        if image.getexif().get(0x0112, 1) != 1:
            notes.append("turned upright by its EXIF tag")
            image = ImageOps.exif_transpose(image)
        pixels = _to_rgb(image, notes)
    except Refused:
        raise
    except Exception as error:
        raise Refused(f"damaged or of an unknown kind ({type(error).__name__}: {error})") from error
    if pixels.min() == pixels.max():
        raise Refused("blank: every pixel is the same")
    return pixels, notes


def _check_size(width: int, height: int, limits: Limits) -> None:
    if width * height > limits.pixels:
        raise Refused(f"{width} x {height} pixels, more than {limits.pixels:,} in all: make it smaller")
    if min(width, height) < MIN_SIDE:
        raise Refused(f"{width} x {height} pixels: each side needs at least {MIN_SIDE}")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise Refused(f"{width} x {height} pixels: longer than {MAX_ASPECT:.0f} times its width, a square crop would lose nearly all of it")


def _to_rgb(image: Image.Image, notes: list[str]) -> np.ndarray:
    if image.mode.startswith("I") or image.mode == "F":
        return np.repeat(stretch(np.asarray(image, dtype=np.float64), notes)[..., None], 3, axis=2)
    if image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in image.info:
        return _flatten(np.asarray(image.convert("RGBA")), notes)
    return np.asarray(image.convert("RGB"))


def _flatten(rgba: np.ndarray, notes: list[str]) -> np.ndarray:
    """Lay a transparent image uint8 `[h, w, 4]` over the mean colour of its opaque parts."""
    alpha = rgba[..., 3:].astype(np.float64) / 255
    if alpha.max() == 0:
        raise Refused("entirely transparent")
    colour = rgba[..., :3].astype(np.float64)
    if alpha.min() < 1:
        notes.append(f"{(alpha < 1).mean():.0%} of it transparent: filled with the mean colour")
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
        raise Refused(f"{1 - finite.mean():.0%} of its values are not finite")
    low, middle, high = np.percentile(values[finite], [0.5, 50, 99.5])
    if high <= low:
        low, high = float(values[finite].min()), float(values[finite].max())
    if high <= low:
        raise Refused("blank: every pixel is the same")
    notes.append(f"stretched from {low:.6g}..{high:.6g}")
    if not finite.all():
        notes.append(f"{1 - finite.mean():.1%} without data: filled with the median")
    filled = np.where(finite, values, middle)
    return np.round(np.clip((filled - low) / (high - low), 0, 1) * 255).astype(np.uint8)


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
