"""Plain, interior and small craters of a batch of pictures in torch: the same formulas as `terrain.py`, [N, s, s] each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from backend.reference.renderer.parameters import CraterParameters
from backend.reference.renderer.terrain import stamp_height
from backend.reference.renderer.torch_batch import Batch, Scenes, put, smoothstep, stairs, take
from backend.reference.renderer.torch_relief import Reliefs, rms_slope

Angle = Tensor | float


class Ground(NamedTuple):
    """Height, albedo change, sand and frost cover, each [N, s, s]."""

    height: Tensor
    albedo: Tensor
    sand: Tensor
    frost: Tensor


def update(ground: Ground, scenes: Scenes, batch: Batch, test: Callable[[CraterParameters], bool], change: Callable[[Ground, Scenes, Batch, Tensor], Ground]) -> Ground:
    """Apply a change to the pictures that pass a test."""
    index = batch.where(test)
    if len(index) == 0:
        return ground
    return put(ground, index, change(take(ground, index), take(scenes, index), batch.take(index), index))


def dunes(scenes: Scenes, angle: Tensor, wavelength: Angle, height: Angle) -> Tensor:
    """See `terrain.dunes`."""
    phase = (scenes.x * torch.cos(angle) + scenes.y * torch.sin(angle) + 0.05 * scenes.noise_a + 0.2 * wavelength * scenes.noise_b) / wavelength
    t = phase - torch.floor(phase)
    wave = torch.where(t < 0.7, smoothstep(t, 0.0, 0.7), 1.0 - smoothstep(t, 0.7, 1.0))
    return height * wave * (0.75 + 0.25 * scenes.noise_b.clamp(-1.5, 1.5))


def dune_field(g: Ground, s: Scenes, b: Batch, _: Tensor) -> Ground:
    """Dunes over the whole plain."""
    return g._replace(height=g.height * 0.5 + dunes(s, torch.deg2rad(b.orientation), 0.21 * b.dune_spacing, 0.013 * b.dune_height), sand=torch.full_like(g.height, 0.55))


def layers(g: Ground, s: Scenes, b: Batch, _: Tensor) -> Ground:
    """Stepped, banded plain."""
    turn = torch.deg2rad(b.orientation)
    level = 1.3 * s.noise_a + 1.6 * (s.x * torch.cos(turn) + s.y * torch.sin(turn))
    return g._replace(height=g.height * 0.5 + 2.0 * b.layer_height * stairs(level, 0.4), albedo=g.albedo + 0.1 * torch.sin(2.0 * math.pi * level))


def fractures(g: Ground, s: Scenes, b: Batch, _: Tensor) -> Ground:
    """Three sets of cracks."""
    turn, warp = torch.deg2rad(b.orientation), 0.12 * s.noise_a
    cracks = torch.zeros_like(g.height)
    for t, f in ((0.0, 1.5), (1.15, 1.2), (2.2, 0.9)):
        across = torch.cos(turn + t) * s.x + torch.sin(turn + t) * s.y
        line = (torch.remainder(f * across + 1.4 * warp * f + 0.2 * s.noise_b, 1.0) - 0.5).abs() / f
        cracks = cracks + torch.exp(-((line / 0.03) ** 2))
    return g._replace(height=g.height - 0.011 * cracks.clamp_max(1.2), albedo=g.albedo - 0.06 * cracks.clamp_max(1.0))


def streaks(g: Ground, s: Scenes, b: Batch, _: Tensor) -> Ground:
    """Wind streaks."""
    turn = torch.deg2rad(b.orientation)
    across = -s.x * torch.sin(turn) + s.y * torch.cos(turn) + 0.05 * s.noise_a
    pattern = torch.sin(9.0 * across + 1.2 * s.noise_b) + 0.7 * torch.sin(17.0 * across + 1.5 * s.noise_a) + 0.5 * torch.sin(31.0 * across)
    return g._replace(albedo=g.albedo + b.streaks * pattern.clamp(-1.6, 1.6) * (0.7 + 0.3 * s.noise_b))


def rocks(g: Ground, s: Scenes, b: Batch, _: Tensor) -> Ground:
    """Boulders."""
    return g._replace(height=g.height + 0.015 * smoothstep(s.fine_b, 0.7, 2.2))


def dust(g: Ground, s: Scenes, b: Batch, _: Tensor) -> Ground:
    """Bright, even cover."""
    return g._replace(albedo=g.albedo * 0.5 + 0.04)


PLAINS = (("dune fields", dune_field), ("layered terrain", layers), ("fractured terrain", fractures), ("rocky plains", rocks), ("dusty plains", dust), ("streaked plains", streaks))


def plain(scenes: Scenes, batch: Batch, spacing: float) -> Ground:
    """The plain without craters; see `terrain.plain`."""
    base = scenes.noise_a * 0.35 + scenes.fine_a * 0.07
    height = base * (batch.roughness / rms_slope(base, spacing)) * (0.6 + 0.5 * smoothstep(scenes.noise_b, -0.6, 1.4))
    zero = torch.zeros_like(height)
    ground = Ground(height, batch.albedo_contrast * (0.6 * scenes.noise_b + 0.3 * scenes.fine_b), zero, zero)
    for name, change in PLAINS:
        ground = update(ground, scenes, batch, lambda p, name=name: p.terrain == name, change)
    return ground


def interior(scenes: Scenes, batch: Batch, reliefs: Reliefs, diameter: Tensor) -> Ground:
    """What lies inside the crater; see `terrain.interior`."""
    zero = torch.zeros_like(reliefs.height)
    scale_all, depth_all = diameter.clamp_min(0.5), batch.depth_ratio * diameter

    def dune(g: Ground, s: Scenes, b: Batch, i: Tensor) -> Ground:
        scale, floor = scale_all[i], reliefs.floor[i]
        spacing = (0.13 * scale + 0.04) * b.dune_spacing
        return g._replace(sand=floor, height=floor * dunes(s, torch.deg2rad(b.orientation + 40.0), spacing, 0.012 * scale * b.dune_height))

    def rocky(g: Ground, s: Scenes, b: Batch, i: Tensor) -> Ground:
        return g._replace(height=reliefs.floor[i] * 0.011 * scale_all[i] * smoothstep(s.fine_a + 0.5 * s.fine_b, 0.2, 2.0))

    def frosty(g: Ground, s: Scenes, b: Batch, i: Tensor) -> Ground:
        return g._replace(frost=reliefs.floor[i] * smoothstep(s.noise_b + 0.4 * s.fine_a, -1.2, -0.2))

    def layered(g: Ground, s: Scenes, b: Batch, i: Tensor) -> Ground:
        level = reliefs.height[i] / depth_all[i].clamp_min(1e-4) * b.wall_layers + 0.25 * s.noise_b
        wall = reliefs.wall[i]
        return g._replace(height=wall * 0.08 * depth_all[i] * (stairs(level, 0.4) - level), albedo=wall * 0.16 * torch.sin(2.0 * math.pi * level))

    def gullied(g: Ground, s: Scenes, b: Batch, i: Tensor) -> Ground:
        spokes = torch.cos(reliefs.angle[i] * (b.gullies / 2.0) + 1.2 * s.noise_b + 0.5 * s.fine_a).abs()
        cut = reliefs.wall[i] * smoothstep(reliefs.radius[i], 0.4, 0.7) * smoothstep(1.0 - spokes, 0.2, 0.85)
        return g._replace(height=-b.gully_depth * scale_all[i] * cut, albedo=-0.1 * cut)

    def smooth(g: Ground, s: Scenes, b: Batch, i: Tensor) -> Ground:
        return g._replace(albedo=-0.04 * reliefs.floor[i])

    def frosted_rim(g: Ground, s: Scenes, b: Batch, i: Tensor) -> Ground:
        return g._replace(frost=torch.maximum(g.frost, reliefs.rim[i] ** 1.5 * smoothstep(s.noise_b + 0.5 * s.fine_b, -1.2, 0.4)))

    ground = Ground(zero, zero, zero, zero)
    named = {"dune floors": dune, "rocky floors": rocky, "frosted floors": frosty, "layered walls": layered, "gullied walls": gullied, "smooth floors": smooth}
    for name, change in named.items():
        ground = update(ground, scenes, batch, lambda p, name=name: p.interiors == name, change)
    return update(ground, scenes, batch, lambda p: p.rims == "frosted", frosted_rim)


def stamp_table(batch: Batch, stamps: Sequence[np.ndarray], side: int, spacing: float) -> np.ndarray:
    """One row per small craters of the batch: picture, row, column, radius in quarter pixels, age, subpixel shift, height scale, keep, [n, 8] float64."""
    tables = []
    for n, (p, drawn) in enumerate(zip(batch.params, stamps, strict=True)):
        highlands = p.terrain == "cratered highlands"
        u, fy, fx, a, o, keep = drawn.T
        radius = np.minimum((2.8 if highlands else 1.5) * side / 128 * (1.0 - u) ** -0.5, 11.0 * side / 128)
        cy, cx = fy * side, fx * side
        iy, ix = np.floor(cy), np.floor(cx)
        age = np.floor(a * 4) if highlands else np.floor(a * a * 4)
        sub = np.floor((cy - iy) * 4) * 4 + np.floor((cx - ix) * 4)
        tables.append(np.stack([np.full_like(cy, n), iy, ix, np.round(radius * 4), age, sub, 2.0 * radius * spacing * (0.8 + 0.3 * o), keep], 1))
    return np.concatenate(tables)


def add_small_craters(height: Tensor, batch: Batch, stamps: Sequence[np.ndarray], spacing: float, clear: Tensor | None = None) -> Tensor:
    """Stamp the population of small craters of every picture onto [N, s, s]; see `terrain.small_craters`."""
    n, side, _ = height.shape
    table = stamp_table(batch, stamps, side, spacing)
    flat = height.reshape(-1).clone()
    reach = np.array([stamp_height(int(r), 0, 0).shape[0] // 2 for r in table[:, 3]])
    for low, high in ((0, 6), (6, 12), (12, 24), (24, 1000)):
        rows = table[(reach > low) & (reach <= high)]
        if len(rows) == 0:
            continue
        m = int(reach[(reach > low) & (reach <= high)].max())
        patch = np.zeros((len(rows), 2 * m + 1, 2 * m + 1), np.float32)
        for i, row in enumerate(rows):
            stamp = stamp_height(int(row[3]), int(row[4]), int(row[5]))
            k = stamp.shape[0] // 2
            patch[i, m - k : m + k + 1, m - k : m + k + 1] = stamp * row[6]
        at = torch.from_numpy(rows[:, :3]).to(height.device, torch.int64)
        values = torch.from_numpy(patch).to(height.device)
        if clear is not None:
            keep = torch.from_numpy(rows[:, 7]).to(height.device)
            values = values * (keep >= clear[at[:, 0], at[:, 1], at[:, 2]])[:, None, None]
        offsets = torch.arange(-m, m + 1, device=height.device)
        y, x = at[:, 1, None, None] + offsets[None, :, None], at[:, 2, None, None] + offsets[None, None, :]
        inside = (y >= 0) & (y < side) & (x >= 0) & (x < side)
        where = at[:, 0, None, None] * side * side + y.clamp(0, side - 1) * side + x.clamp(0, side - 1)
        flat = flat.index_add(0, where.reshape(-1), (values * inside).reshape(-1))
    return flat.reshape(n, side, side)
