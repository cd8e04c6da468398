"""Random fields and small helpers on arrays."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import fft

Array = np.ndarray


@lru_cache(maxsize=64)
def wavenumber(size: int) -> Array:
    """Wavenumber in cycles per frame, [size, size]; the mean's entry is infinite so that its power vanishes."""
    k = fft.fftfreq(size) * size
    radius = np.hypot(k[:, None], k[None]).astype(np.float32)
    radius[0, 0] = np.inf
    return radius


@lru_cache(maxsize=256)
def spectral_filter(size: int, beta: float, low: float, high: float) -> Array:
    k = wavenumber(size)
    amplitude = np.maximum(k, low) ** (-beta / 2) * np.exp(-((k / high) ** 2))
    amplitude[0, 0] = 0.0
    return (amplitude / np.sqrt((amplitude**2).sum()) * size).astype(np.float32)


def noise_pair(rng: np.random.Generator, size: int, beta: float, low: float = 1.0, high: float = 1e4) -> tuple[Array, Array]:
    """Two independent periodic Gaussian fields [size, size] of unit variance with power ∝ k^-beta between `low` and `high` cycles per frame.

    One complex transform yields both (its real and imaginary parts)."""
    white = rng.standard_normal((2, size, size), dtype=np.float32)
    spectrum = (white[0] + 1j * white[1]) * spectral_filter(size, round(beta, 1), low, high)
    field = fft.ifft2(spectrum, overwrite_x=True) * size
    return np.ascontiguousarray(field.real), np.ascontiguousarray(field.imag)


def smoothstep(x: Array, low: float | Array, high: float | Array) -> Array:
    """0 below `low`, 1 above `high`, cubic between."""
    t = np.clip((x - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def smooth_min(a: Array, b: Array, width: float | Array) -> Array:
    """Minimum with its corner rounded over `width` (polynomial)."""
    h = np.clip(0.5 + 0.5 * (b - a) / width, 0.0, 1.0)
    return b + (a - b) * h - width * h * (1.0 - h)


def smooth_max(a: Array, b: Array, width: float | Array) -> Array:
    """Maximum with its corner rounded over `width`."""
    return -smooth_min(-a, -b, width)


def stairs(x: Array, sharpness: float = 0.35) -> Array:
    """Continuous staircase: flat treads, steep risers, slope 1 on average."""
    base = np.floor(x)
    return base + smoothstep(x - base, 0.5 - sharpness / 2, 0.5 + sharpness / 2)
