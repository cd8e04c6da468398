"""Images between run directories and the page: cut grids, PNG files, data addresses, nearest neighbours."""

from __future__ import annotations

import base64
import io
import tempfile
from collections.abc import Sequence

import numpy as np
from PIL import Image

from backend.errors import InputError
from components.scratch import scratch_folder


def data_address(image: np.ndarray, side: int | None = None, quality: int | None = None) -> str:
    """An image uint8 [h, w, 3] as a data address; PNG, or JPEG where a quality is given (small previews only).

    Args:
        image: the pixels.
        side: side to resize to.
        quality: JPEG quality of a preview.
    """
    picture = Image.fromarray(image)
    if side is not None and picture.size != (side, side):
        picture = picture.resize((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if quality is None:
        picture.save(buffer, "PNG")
    else:
        picture.save(buffer, "JPEG", quality=quality)
    kind = "png" if quality is None else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def write_pngs(images: Sequence[np.ndarray], names: Sequence[str], side: int | None = None) -> list[str]:
    """Lossless files in a temporary folder of our own, for components that would otherwise recompress.

    Args:
        images: uint8 [h, w, 3] each.
        names: plain file names without ending.
        side: enlarge small images to this side without smoothing away pixels.

    Raises:
        InputError: the temporary folder cannot be written.
    """
    paths = []
    try:
        folder = scratch_folder()
        for image, name in zip(images, names, strict=True):
            picture = Image.fromarray(image)
            if side is not None and picture.width < side:
                picture = picture.resize((side, side), Image.Resampling.BICUBIC)
            path = folder / f"{name}.png"
            picture.save(path, "PNG")
            paths.append(str(path))
    except OSError as error:
        raise InputError(f"temporary folder {tempfile.gettempdir()} cannot be written ({error.strerror}): free space there, or set TMPDIR to another folder") from error
    return paths


def plain_features(images: np.ndarray) -> np.ndarray:
    """Features without a network: wavelet statistics and measured crater attributes, uint8 [N, h, w, 3] -> [N, D]."""
    from backend.evaluation.image_statistics import crater_attributes, wavelet_statistics

    levels = max(1, min(5, int(np.log2(min(images.shape[1:3])))))
    return np.concatenate([wavelet_statistics(images, levels), crater_attributes(images)], axis=1)


def nearest(features: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nearest reference image of each image, in standard deviations of the reference set.

    Args:
        features: [N, D].
        reference: [M, D].

    Returns:
        Index [N] and distance [N], the root mean square over features.
    """
    mean, std = reference.mean(0), reference.std(0)
    std = np.where(std > 1e-9, std, 1.0)
    a, b = (features - mean) / std, (reference - mean) / std
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    index = squared.argmin(1)
    return index, np.sqrt(np.maximum(squared[np.arange(len(a)), index], 0) / a.shape[1])


def same_size(images: np.ndarray, side: int) -> np.ndarray:
    """uint8 [N, h, w, 3] -> [N, side, side, 3]."""
    if images.shape[1:3] == (side, side):
        return images
    return np.stack([np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS)) for image in images])
