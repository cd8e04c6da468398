"""From light and albedo to the picture: colour, perspective, sensor."""

from __future__ import annotations

import math

import numpy as np
from scipy.ndimage import gaussian_filter

from backend.reference.renderer.fields import Array, smoothstep
from backend.reference.renderer.parameters import CraterParameters

PALETTE = np.array([[0.50, 0.50, 0.50], [0.585, 0.495, 0.41], [0.64, 0.475, 0.34], [0.68, 0.43, 0.29]], np.float32)  # grey, tan, ochre, red at equal luminance 0.5
SAND = np.array([0.40, 0.45, 0.52], np.float32)
FROST = np.array([0.92, 0.95, 1.0], np.float32)
SKY = np.array([0.80, 0.68, 0.55], np.float32)
SENSOR_GREY = ("themis", "ctx", "hirise")


def ground_colour(colour: float) -> Array:
    """RGB of mean 0.5 luminance at a position 0 (grey) to 1 (red) of the palette."""
    t = min(max(colour, 0.0), 1.0) * (len(PALETTE) - 1)
    i = min(int(t), len(PALETTE) - 2)
    return PALETTE[i] + (PALETTE[i + 1] - PALETTE[i]) * (t - i)


def colourise(light: Array, albedo: Array, sand: Array, frost: Array, p: CraterParameters) -> Array:
    """RGB [s, s, 3] of a lit surface with dark sand and frost covers."""
    base = ground_colour(p.colour)
    surface = (2.0 * p.albedo * (1.0 + albedo))[..., None] * base
    if sand.any():
        s = (0.75 * sand)[..., None]
        surface = surface * (1.0 - s) + s * (2.0 * p.albedo * 0.72) * (0.55 * SAND + 0.45 * base)
    if frost.any():
        f = (p.frost * frost)[..., None]
        surface = surface * (1.0 - f) + f * (FROST * (0.45 + p.albedo))
    lit = np.maximum(1.0 + p.contrast * (light - 1.0), 0.08)
    return surface * lit[..., None]


def tone(image: Array) -> Array:
    """Soft shoulder above 0.8 so that sunlit walls keep their shape."""
    return np.where(image > 0.75, 0.75 + 0.25 * np.tanh((image - 0.75) / 0.25), np.maximum(image, 0.0))


def perspective(height: Array, rgb: Array, far_height: Array, far_rgb: Array, p: CraterParameters, size: int) -> Array:
    """Oblique view [size, size, 3] of a map [s, s] (half extent 1) from a low camera south of it; columns are marched outward, the nearest surface wins.

    Beyond the map's far edge the plain without the crater (`far_height`, `far_rgb`) repeats to the horizon."""
    s = height.shape[0]
    elevation = math.radians(p.camera_elevation)
    distance, centre = 2.0, -0.1
    cy, cz = centre - distance * math.cos(elevation), distance * math.sin(elevation)
    half_width = math.tan(math.radians(19.0))
    pitch = elevation - math.radians(1.5)
    steps = int(1.25 * size)
    near = max(cz / math.tan(elevation + math.radians(21.0)), 0.35)
    d = (near * (6.5 / near) ** (np.arange(steps) / (steps - 1))).astype(np.float32)
    u = ((np.arange(size) + 0.5) / size * 2.0 - 1.0).astype(np.float32) * half_width
    gx = (d[:, None] * u[None] + 1.0) * (s / 2.0) - 0.5
    gy = np.broadcast_to((1.0 - (cy + d)) * (s / 2.0) - 0.5, (size, steps)).T
    beyond = smoothstep(cy + d, 0.8, 0.98)[:, None]
    z = sample(height, gy, gx)
    z = z + (sample(far_height, gy, gx) - z) * beyond
    angle = np.arctan2(z - cz, d[:, None])
    visible = np.maximum.accumulate(angle, axis=0)
    rows = pitch_rows(size, pitch, half_width)
    columns = np.arange(size, dtype=np.float32) * 8.0
    flat = (visible + columns).T.ravel()
    index = np.searchsorted(flat, (rows[None] + columns[:, None]).ravel()).reshape(size, size) - np.arange(size)[:, None] * steps
    sky = steps <= index.T
    k = np.clip(index, 1, steps - 1)
    cols = np.arange(size)[:, None]
    a, b = visible[k - 1, cols], visible[k, cols]
    part = np.clip((rows[None] - a) / np.maximum(b - a, 1e-6), 0.0, 1.0)
    depth = (d[k - 1] + (d[k] - d[k - 1]) * part).T
    at = ((1.0 - (cy + depth)) * (s / 2.0) - 0.5, (depth * u[None] + 1.0) * (s / 2.0) - 0.5)
    out = sample(rgb, *at)
    out = out + (sample(far_rgb, *at) - out) * smoothstep(cy + depth, 0.8, 0.98)[..., None]
    fog = (p.haze * smoothstep(depth, 1.5, 7.0))[..., None]
    air = (0.45 + 0.75 * p.albedo) * SKY
    out = out * (1.0 - fog) + fog * air
    glow = np.linspace(0.93, 1.04, size, dtype=np.float32)[:, None, None]
    return np.where(sky[..., None], air * glow, out)


def pitch_rows(size: int, pitch: float, half_width: float) -> Array:
    """Elevation angle of each screen row (top first) of a camera that looks down by `pitch`."""
    v = (1.0 - (np.arange(size) + 0.5) / size * 2.0) * half_width
    return (np.arctan(v) - pitch).astype(np.float32)


def sample(field: Array, rows: Array, cols: Array) -> Array:
    """Bilinear look-up with wrap-around; `field` is [s, s] or [s, s, c]."""
    s = field.shape[0]
    r0, c0 = np.floor(rows), np.floor(cols)
    fr, fc = rows - r0, cols - c0
    i0, j0 = r0.astype(np.int32) % s, c0.astype(np.int32) % s
    i1, j1 = (i0 + 1) % s, (j0 + 1) % s
    if field.ndim == 3:
        fr, fc = fr[..., None], fc[..., None]
    return (field[i0, j0] * (1 - fc) + field[i0, j1] * fc) * (1 - fr) + (field[i1, j0] * (1 - fc) + field[i1, j1] * fc) * fr


def expose(image: Array, p: CraterParameters, rng: np.random.Generator) -> Array:
    """Sensor: blur, grey conversion where the instrument has one band, noise, eight bits."""
    size = image.shape[0]
    sigma = p.blur * size / 128.0
    if p.sensor in SENSOR_GREY:
        image = image.mean(2, keepdims=True)
    image = gaussian_filter(image, (sigma, sigma, 0.0), mode="nearest", truncate=3.0)
    if p.sharpening > 0.0:
        image = image + p.sharpening * (image - gaussian_filter(image, (2.0 * sigma, 2.0 * sigma, 0.0), mode="nearest", truncate=3.0))
    if p.column_noise > 0.0:
        image = image + p.column_noise * rng.standard_normal((1, size, 1), dtype=np.float32)
    grain = rng.standard_normal(image.shape, dtype=np.float32)
    if p.grain > 0.0:
        grain = gaussian_filter(grain, (p.grain, p.grain, 0.0), mode="wrap", truncate=3.0)
        grain *= 1.0 / max(float(grain.std()), 1e-6)
    image = image + p.noise * grain
    image = np.clip(tone(image) * 255.0 + 0.5, 0, 255).astype(np.uint8)
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image
