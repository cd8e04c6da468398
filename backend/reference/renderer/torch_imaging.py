"""Light, colour, camera and sensor of a batch of pictures in torch: the same formulas as `photometry.py` and `imaging.py`."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from backend.reference.renderer.imaging import FROST, SAND, SENSOR_GREY, SKY, ground_colour, pitch_rows
from backend.reference.renderer.photometry import SHADOW_STEPS
from backend.reference.renderer.torch_batch import Batch, blur, smoothstep
from backend.reference.renderer.torch_terrain import Ground


def cast_shadow(height: Tensor, spacing: float, azimuth: Tensor, elevation: Tensor) -> Tensor:
    """Share of the sun's disc hidden, [N, s, s]; see `photometry.cast_shadow`. Angles in degrees, [N, 1, 1].

    Pictures are transposed and mirrored so that the sun stands beyond the last column and no more than 45 degrees aside."""
    size = height.shape[-1]
    dx, dy = torch.cos(torch.deg2rad(azimuth)), -torch.sin(torch.deg2rad(azimuth))
    swap = dy.abs() > dx.abs()
    h = torch.where(swap, height.transpose(1, 2), height)
    major, minor = torch.where(swap, dy, dx), torch.where(swap, dx, dy)
    back = major < 0
    h = torch.where(back, h.flip(2), h)
    rise = torch.tan(torch.deg2rad(elevation)) * spacing / major.abs()
    lateral = minor / major.abs()
    relief = h.amax((1, 2), keepdim=True) - h.amin((1, 2), keepdim=True)
    reach = (torch.floor(relief / rise) + 1.0).clamp(1.0, float(int(48 * size / 128)))
    horizon = torch.full_like(h, -torch.inf)
    rows = torch.arange(size, device=h.device)[None, :, None]
    for raw in SHADOW_STEPS:
        k = max(1, round(raw * size / 128)) if size > 128 else raw
        if k > int(48 * size / 128):
            break
        offset = lateral * k
        low = torch.floor(offset)
        part = offset - low
        near, far = (rows + low.long()).clamp(0, size - 1), (rows + low.long() + 1).clamp(0, size - 1)
        ahead = h[:, :, k:]
        shape = ahead.shape
        value = ahead.gather(1, near.expand(-1, -1, shape[2])) * (1.0 - part) + ahead.gather(1, far.expand(-1, -1, shape[2])) * part - k * rise
        value = torch.where(reach >= k, value, torch.full_like(value, -torch.inf))
        horizon = torch.cat([torch.maximum(horizon[:, :, : size - k], value), horizon[:, :, size - k :]], 2)
    shade = ((horizon - h) / (1.2 * spacing * torch.tan(torch.deg2rad(elevation)).clamp_min(0.2)) + 0.35).clamp(0.0, 1.0)
    shade = torch.where(back, shade.flip(2), shade)
    return torch.where(swap, shade.transpose(1, 2), shade)


def reflectance(height: Tensor, spacing: float, batch: Batch) -> Tensor:
    """Lunar–Lambert brightness relative to the flat plain, [N, s, s]; see `photometry.reflectance`."""
    half = 0.5 / spacing
    gx = (height[:, :, 2:] - height[:, :, :-2]) * half
    gx = torch.cat([gx[:, :, :1], gx, gx[:, :, -1:]], 2)
    gy = (height[:, :-2] - height[:, 2:]) * half
    gy = torch.cat([gy[:, :1], gy, gy[:, -1:]], 1)
    e, a = torch.deg2rad(batch.sun_elevation), torch.deg2rad(batch.sun_azimuth)
    sx, sy, sz = torch.cos(e) * torch.cos(a), torch.cos(e) * torch.sin(a), torch.sin(e)
    mu = 1.0 / torch.sqrt(1.0 + gx * gx + gy * gy)
    mu0 = ((sz - gx * sx - gy * sy) * mu).clamp_min(0.0)
    light = 2.0 * batch.lommel * mu0 / (mu0 + mu) + (1.0 - batch.lommel) * mu0
    flat = 2.0 * batch.lommel * sz / (sz + 1.0) + (1.0 - batch.lommel) * sz
    light = light * (1.0 - cast_shadow(height, spacing, batch.sun_azimuth, batch.sun_elevation))
    return (1.0 - batch.ambient) * light / flat + batch.ambient


def colourise(light: Tensor, ground: Ground, batch: Batch) -> Tensor:
    """RGB [N, 3, s, s]; see `imaging.colourise`."""

    def rgb(values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.asarray(values, np.float32)).to(batch.device)[..., None, None]

    base = rgb(np.stack([ground_colour(p.colour) for p in batch.params]))
    albedo = batch.albedo[:, None]
    surface = 2.0 * albedo * (1.0 + ground.albedo[:, None]) * base
    sand, frost = 0.75 * ground.sand[:, None], batch.frost[:, None] * ground.frost[:, None]
    surface = surface * (1.0 - sand) + sand * (2.0 * albedo * 0.72) * (0.55 * rgb(SAND) + 0.45 * base)
    surface = surface * (1.0 - frost) + frost * (rgb(FROST) * (0.45 + albedo))
    return surface * (1.0 + batch.contrast * (light - 1.0)).clamp_min(0.08)[:, None]


def sample(field: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """Bilinear look-up with wrap-around of [N, C, s, s] at [N, a, b], giving [N, C, a, b]."""
    n, c, s, _ = field.shape
    r0, c0 = torch.floor(rows), torch.floor(cols)
    fr, fc = (rows - r0)[:, None], (cols - c0)[:, None]
    i0, j0 = torch.remainder(r0.long(), s), torch.remainder(c0.long(), s)
    i1, j1 = (i0 + 1) % s, (j0 + 1) % s
    flat = field.reshape(n, c, s * s)

    def at(i: Tensor, j: Tensor) -> Tensor:
        return flat.gather(2, (i * s + j).reshape(n, 1, -1).expand(-1, c, -1)).reshape(n, c, *rows.shape[1:])

    return (at(i0, j0) * (1 - fc) + at(i0, j1) * fc) * (1 - fr) + (at(i1, j0) * (1 - fc) + at(i1, j1) * fc) * fr


def perspective(height: Tensor, rgb: Tensor, far_height: Tensor, far_rgb: Tensor, batch: Batch, size: int) -> Tensor:
    """Oblique view [N, 3, size, size] of maps [N, s, s]; see `imaging.perspective`."""
    s, device = height.shape[-1], batch.device
    elevation = torch.deg2rad(batch.camera_elevation)
    cy, cz = -0.1 - 2.0 * torch.cos(elevation), 2.0 * torch.sin(elevation)
    half_width, steps = math.tan(math.radians(19.0)), int(1.25 * size)
    near = (cz / torch.tan(elevation + math.radians(21.0))).clamp_min(0.35)
    fraction = (torch.arange(steps, device=device, dtype=torch.float32) / (steps - 1))[None, :, None]
    d = near * (6.5 / near) ** fraction
    u = (((torch.arange(size, device=device, dtype=torch.float32) + 0.5) / size * 2.0 - 1.0) * half_width)[None, None]
    gx = (d * u + 1.0) * (s / 2.0) - 0.5
    gy = ((1.0 - (cy + d)) * (s / 2.0) - 0.5).expand_as(gx)
    z, far_z = sample(height[:, None], gy, gx)[:, 0], sample(far_height[:, None], gy, gx)[:, 0]
    z = z + (far_z - z) * smoothstep(cy + d, 0.8, 0.98)
    visible = torch.atan2(z - cz, d.expand_as(z)).cummax(1).values.transpose(1, 2).contiguous()
    angles = torch.from_numpy(np.stack([pitch_rows(size, math.radians(p.camera_elevation - 1.5), half_width) for p in batch.params])).to(device)
    rows = angles[:, None].expand(-1, size, -1).contiguous()
    index = torch.searchsorted(visible, rows)
    k = index.clamp(1, steps - 1)
    a, b = visible.gather(2, k - 1), visible.gather(2, k)
    part = ((rows - a) / (b - a).clamp_min(1e-6)).clamp(0.0, 1.0)
    line = d.transpose(1, 2).expand(-1, size, -1)
    before, after = line.gather(2, k - 1), line.gather(2, k)
    depth = (before + (after - before) * part).transpose(1, 2)
    at = ((1.0 - (cy + depth)) * (s / 2.0) - 0.5, (depth * u + 1.0) * (s / 2.0) - 0.5)
    out = sample(rgb, *at)
    out = out + (sample(far_rgb, *at) - out) * smoothstep(cy + depth, 0.8, 0.98)[:, None]
    fog = (batch.haze * smoothstep(depth, 1.5, 7.0))[:, None]
    air = (0.45 + 0.75 * batch.albedo)[:, None] * torch.from_numpy(SKY).to(device)[None, :, None, None]
    glow = torch.linspace(0.93, 1.04, size, device=device)[None, None, :, None]
    sky = (index >= steps).transpose(1, 2)[:, None]
    return torch.where(sky, (air * glow).expand_as(out), out * (1.0 - fog) + fog * air)


def expose(image: Tensor, batch: Batch, column: Tensor, grain: Tensor) -> Tensor:
    """Sensor: uint8 [N, size, size, 3] from [N, 3, size, size]; `column` [N, size], `grain` [N, 3, size, size]; see `imaging.expose`."""
    size = image.shape[-1]
    sigma = batch.blur[:, 0, 0] * size / 128.0
    grey = batch.flag(lambda p: p.sensor in SENSOR_GREY)[:, None] > 0.5
    image = torch.where(grey, image.mean(1, keepdim=True).expand_as(image), image)
    image = blur(image, sigma)
    if bool((batch.sharpening > 0).any()):
        image = image + batch.sharpening[:, None] * (image - blur(image, 2.0 * sigma))
    image = image + batch.column_noise[:, None] * column[:, None, None, :]
    if bool((batch.grain > 0).any()):
        soft = blur(grain, batch.grain[:, 0, 0], mode="circular")
        soft = soft / soft.std((1, 2, 3), unbiased=False, keepdim=True).clamp_min(1e-6)
        grain = torch.where(batch.grain[:, None] > 0, soft, grain)
    image = image + batch.noise[:, None] * grain
    toned = torch.where(image > 0.75, 0.75 + 0.25 * torch.tanh((image - 0.75) / 0.25), image.clamp_min(0.0))
    return (toned * 255.0 + 0.5).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
