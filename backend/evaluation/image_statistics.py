"""Measurements of images without any network: wavelet statistics and crater attributes. The judge that no reward can flatter."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

ATTRIBUTE_NAMES = ("brightness", "contrast", "redness", "sharpness", "blob_scale", "blob_count", "axis_cos", "axis_sin", "vertical_light", "vertical_texture")
LEVELS = 5
SCALES = np.geomspace(1.5, 14.0, 7)  # blob radii in pixels of a 64-pixel image: craters from a twentieth of the frame to two thirds


def luminance(images: np.ndarray) -> np.ndarray:
    """Rec. 709 luma in [0, 1]: uint8 [N, h, w, 3] -> float32 [N, h, w]."""
    return (images.astype(np.float32) / 255) @ np.array([0.2126, 0.7152, 0.0722], dtype=np.float32)


def haar(plane: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """One level of the orthonormal two-dimensional Haar transform.

    Args:
        plane: [N, h, w] with even h and w.

    Returns:
        The approximation [N, h/2, w/2] and the horizontal, vertical and diagonal details of the same shape. The sum of
        squares is kept.
    """
    a, b, c, d = plane[:, ::2, ::2], plane[:, ::2, 1::2], plane[:, 1::2, ::2], plane[:, 1::2, 1::2]
    return (a + b + c + d) / 2, ((a - b + c - d) / 2, (a + b - c - d) / 2, (a - b - c + d) / 2)


def wavelet_statistics(images: np.ndarray, levels: int = LEVELS) -> np.ndarray:
    """Energy and sparsity of each wavelet band, and colour.

    Args:
        images: uint8 [N, h, w, 3]; cropped to a multiple of 2^levels pixels.
        levels: depth of the transform.

    Returns:
        [N, 6 levels + 4] float64: per level and orientation log10 of the root mean square and of the ratio of mean
        absolute value to root mean square (0.8 dB for Gaussian texture, lower for isolated edges); then mean and
        standard deviation of log(red / blue) and of log(green / blue).

    Raises:
        ValueError: the images are smaller than 2^levels pixels.
    """
    step = 2**levels
    height, width = (side // step * step for side in images.shape[1:3])
    if not height or not width:
        raise ValueError(f"images of {images.shape[1]}x{images.shape[2]} pixels are smaller than {step}: use fewer wavelet levels")
    plane = luminance(images[:, :height, :width])
    columns = []
    for _ in range(levels):
        plane, details = haar(plane)
        for band in details:
            rms = np.sqrt((band**2).mean(axis=(1, 2))) + 1e-5
            columns += [np.log10(rms), np.log10((np.abs(band).mean(axis=(1, 2)) + 1e-6) / rms)]
    logs = np.log(images.astype(np.float32) + 8)  # 8 of 255: noise in black shadow is no colour
    for channel in (0, 1):
        ratio = (logs[..., channel] - logs[..., 2]).reshape(len(images), -1)
        columns += [ratio.mean(axis=1), ratio.std(axis=1)]
    return np.stack(columns, axis=1).astype(np.float64)


def resize_area(plane: np.ndarray, size: int = 64) -> np.ndarray:
    """Area-averaged (or linearly enlarged) copy: [N, h, w] -> [N, size, size]."""
    height, width = plane.shape[1:]
    if height % size == 0 and width % size == 0:
        return plane.reshape(len(plane), size, height // size, size, width // size).mean(axis=(2, 4))
    return ndimage.zoom(plane, (1, size / height, size / width), order=1, grid_mode=True, mode="nearest")


def crater_attributes(images: np.ndarray) -> np.ndarray:
    """Measured attributes of each image, in the order of `ATTRIBUTE_NAMES`.

    Brightness and contrast are mean and standard deviation of luma; redness is log(red / blue); sharpness is log10 of
    the share of gradient energy between neighbouring pixels; blob scale (log2 pixels of a 64-pixel image) and count come
    from the scale-normalised Laplacian of Gaussian (Lindeberg 1998), which answers most to a crater of its own radius;
    axis is the structure tensor's double angle times its coherence (light direction and lineation); the vertical terms
    compare the upper with the lower third (a ground view has sky and far terrain above).

    Args:
        images: uint8 [N, h, w, 3].

    Returns:
        [N, 10] float64.
    """
    full = luminance(images)
    small = resize_area(full)
    scale, count = _blobs(small)
    cosine, sine = _axis(small)
    mean_colour = images.reshape(len(images), -1, 3).mean(axis=1)
    gradient = np.abs(np.diff(full, axis=2)).mean(axis=(1, 2)) + 1e-4
    texture = np.abs(np.diff(small, axis=2))
    third = small.shape[1] // 3
    columns = [
        full.mean(axis=(1, 2)),
        full.std(axis=(1, 2)),
        np.log((mean_colour[:, 0] + 8) / (mean_colour[:, 2] + 8)),
        np.log10(gradient / (full.std(axis=(1, 2)) + 1e-3)),
        scale,
        count,
        cosine,
        sine,
        small[:, :third].mean(axis=(1, 2)) - small[:, -third:].mean(axis=(1, 2)),
        np.log10((texture[:, :third].mean(axis=(1, 2)) + 1e-3) / (texture[:, -third:].mean(axis=(1, 2)) + 1e-3)),
    ]
    return np.stack(columns, axis=1).astype(np.float64)


def _blobs(small: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log2 of the radius of the strongest blobs, and log2(1 + number of distinct blobs): [N], [N].

    At its own scale a disc answers with 2/e of its contrast, a straight edge at every scale with at most a third of that.
    """
    responses = np.stack([scale**2 * np.abs(_laplacian(small, scale)) for scale in SCALES], axis=1)
    strength = responses.max(axis=(2, 3)) ** 8
    radius = np.sqrt(2) * SCALES  # a disc of radius r answers most at sigma = r / sqrt(2)
    weights = strength / strength.sum(axis=1, keepdims=True).clip(1e-30)
    scale = weights @ np.log2(radius)
    peaks = ndimage.maximum_filter(responses, size=(1, 3, 5, 5), mode="nearest")
    strong = responses >= np.maximum(0.5 * responses.max(axis=(1, 2, 3), keepdims=True), 0.02)
    count = ((responses == peaks) & strong).sum(axis=(1, 2, 3))
    return scale, np.log2(1 + count)


def _laplacian(small: np.ndarray, scale: float) -> np.ndarray:
    """Laplacian of the Gaussian-smoothed images [N, h, w], over the last two axes only."""
    return sum(ndimage.gaussian_filter(small, (0, scale, scale), order=order, mode="nearest") for order in ((0, 2, 0), (0, 0, 2)))


def _axis(small: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coherence times cosine and sine of the doubled angle of the structure tensor's main axis: [N], [N]."""
    smooth = ndimage.gaussian_filter(small, (0, 1, 1))
    vertical, horizontal = np.gradient(smooth, axis=(1, 2))
    xx, yy, xy = ((p * q).mean(axis=(1, 2)) for p, q in ((horizontal, horizontal), (vertical, vertical), (horizontal, vertical)))
    trace = np.maximum(xx + yy, 1e-12)
    return (xx - yy) / trace, 2 * xy / trace
