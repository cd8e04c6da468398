"""From a height field to light: slopes, cast shadows, Lunar–Lambert reflectance."""

from __future__ import annotations

import math

import numpy as np

from backend.reference.renderer.fields import Array

SHADOW_STEPS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 18, 22, 27, 33, 40, 48)


def gradient(height: Array, spacing: float) -> tuple[Array, Array]:
    """Slopes along x (right) and y (up); rows of the array run downward."""
    gx, gy = np.empty_like(height), np.empty_like(height)
    half = 0.5 / spacing
    gx[:, 1:-1] = (height[:, 2:] - height[:, :-2]) * half
    gx[:, 0], gx[:, -1] = gx[:, 1], gx[:, -2]
    gy[1:-1] = (height[:-2] - height[2:]) * half
    gy[0], gy[-1] = gy[1], gy[-2]
    return gx, gy


def cast_shadow(height: Array, spacing: float, azimuth: float, elevation: float) -> Array:
    """Share of the sun's disc hidden, [s, s] in [0, 1], by marching towards the sun in growing steps."""
    size = height.shape[0]
    dx, dy = math.cos(math.radians(azimuth)), -math.sin(math.radians(azimuth))
    swap = abs(dy) > abs(dx)
    h = height.T if swap else height
    major, minor = (dy, dx) if swap else (dx, dy)
    rise = math.tan(math.radians(elevation)) * spacing / abs(major)
    step, lateral = (1 if major > 0 else -1), minor / abs(major)
    relief = float(h.max() - h.min())
    reach = min(max(int(relief / rise) + 1, 1), int(48 * size / 128))
    pad = reach + 2
    padded = np.pad(h, ((pad, pad), (0, 0)), mode="edge")
    horizon = np.full_like(h, -np.inf)
    for raw in SHADOW_STEPS:
        k = max(1, round(raw * size / 128)) if size > 128 else raw
        if k > reach:
            break
        offset = lateral * k
        low = math.floor(offset)
        part = offset - low
        x0, x1 = (k, size) if step > 0 else (0, size - k)
        rows = padded[pad + low : pad + low + size, x0:x1] * (1.0 - part) + padded[pad + low + 1 : pad + low + 1 + size, x0:x1] * part
        rows -= k * rise
        target = horizon[:, : size - k] if step > 0 else horizon[:, k:]
        np.maximum(target, rows, out=target)
    shade = np.clip((horizon - h) / (1.2 * spacing * max(math.tan(math.radians(elevation)), 0.2)) + 0.35, 0.0, 1.0)
    return shade.T if swap else shade


def reflectance(height: Array, spacing: float, azimuth: float, elevation: float, ambient: float = 0.10, lommel: float = 0.55) -> Array:
    """Brightness relative to the flat plain under nadir view, Lunar–Lambert (McEwen 1991): 2 L μ0/(μ0+μ) + (1−L) μ0, with cast shadows and sky light.

    `azimuth` counter-clockwise from the right, towards the sun; degrees."""
    gx, gy = gradient(height, spacing)
    e = math.radians(elevation)
    sx, sy, sz = math.cos(e) * math.cos(math.radians(azimuth)), math.cos(e) * math.sin(math.radians(azimuth)), math.sin(e)
    mu = 1.0 / np.sqrt(1.0 + gx * gx + gy * gy)
    mu0 = np.maximum((sz - gx * sx - gy * sy) * mu, 0.0)
    light = 2.0 * lommel * mu0 / (mu0 + mu) + (1.0 - lommel) * mu0
    flat = 2.0 * lommel * sz / (sz + 1.0) + (1.0 - lommel) * sz
    light *= 1.0 - cast_shadow(height, spacing, azimuth, elevation)
    return (1.0 - ambient) * light / flat + ambient
