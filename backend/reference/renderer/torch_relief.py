"""Crater relief of a batch of pictures in torch: the same formulas as `morphology.py`, [N, s, s] each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from backend.reference.renderer.torch_batch import Batch, Scenes, put, smooth_min, smoothstep, stairs, take
from backend.reference.renderer.torch_draws import Crater, Draws, map_diameter

PLAIN_ORDERS, SCALLOP_ORDERS = (2, 3, 4, 5, 6, 8), (2, 3, 4, 5, 7, 9, 13)


class Reliefs(NamedTuple):
    """See `morphology.Relief`; each [N, s, s]."""

    height: Tensor
    floor: Tensor
    wall: Tensor
    rim: Tensor
    ejecta: Tensor
    radius: Tensor
    angle: Tensor


def outline(batch: Batch, angle: Tensor, phases: Tensor) -> Tensor:
    """The rim's deviation from a circle, in units of the irregularity; `phases` [N, 7]."""
    total = torch.zeros_like(angle)
    scalloped = batch.flag(lambda p: p.rims == "scalloped") > 0.5
    for i in range(len(SCALLOP_ORDERS)):
        phase = phases[:, i, None, None]
        order = SCALLOP_ORDERS[i]
        weight = (1.0 if order < 10 else 0.6) * (0.6 + 0.4 * torch.cos(2.0 * angle + 3.0 * phase)) if order > 5 else torch.full_like(angle, 1.6 / order)
        wavy = weight * torch.cos(order * angle + phase)
        smooth = 1.6 / PLAIN_ORDERS[i] * torch.cos(PLAIN_ORDERS[i] * angle + phase) if i < len(PLAIN_ORDERS) else torch.zeros_like(angle)
        total = total + 0.7 * torch.where(scalloped, wavy, smooth)
    return total


def polar(scenes: Scenes, batch: Batch, craters: Sequence[Crater]) -> tuple[Tensor, Tensor]:
    """Distance in crater radii and azimuth, one crater per picture."""
    dx, dy = scenes.x - batch.column([c.x for c in craters]), scenes.y - batch.column([c.y for c in craters])
    turn = torch.deg2rad(batch.orientation)
    c, s = torch.cos(turn), torch.sin(turn)
    u, v = dx * c + dy * s, (dy * c - dx * s) / (1.0 - batch.ellipticity)
    angle = torch.atan2(v, u)
    phases = torch.tensor(np.stack([c.phases for c in craters]), dtype=torch.float32, device=batch.device)
    distance = torch.sqrt(u * u + v * v) / batch.column([c.width / 2.0 for c in craters])
    return distance / (1.0 + batch.irregularity * 0.7 * outline(batch, angle, phases) + 0.02 * scenes.noise_b), angle


def profile(r: Tensor, batch: Batch, diameter: Tensor, depth: Tensor, rim: Tensor, power: Tensor) -> Tensor:
    """Bowl and ejecta blanket with a rounded rim; see `morphology.profile`."""
    inner = -depth + rim + depth * r.clamp_max(1.6) ** power
    outer = rim * r.clamp_min(0.75) ** -3.0
    rounding = diameter * (0.006 + batch.flag(lambda p: p.kind == "ghost", 0.025, 0.05) * (1.0 - batch.freshness) ** 1.5)
    return smooth_min(inner, outer, rounding)


def terraces(r: Tensor, scenes: Scenes, batch: Batch, depth: Tensor) -> Tensor:
    """Slump blocks of the wall; see `morphology.terraces`."""
    count = batch.flag(lambda p: p.kind == "terraced", 3.2, 2.0)
    strength = batch.flag(lambda p: p.kind == "terraced", 1.1, 0.6)
    t = (r.clamp_max(1.05) - batch.infill) / (1.02 - batch.infill) * count + 0.22 * scenes.noise_b + 0.1 * scenes.fine_a
    step = (t - stairs(t, 0.4)) / count
    return -strength * depth * 0.7 * step * smoothstep(r, batch.infill * 0.9, batch.infill + 0.12)


def single(scenes: Scenes, batch: Batch, craters: Sequence[Crater]) -> Reliefs:
    """One crater per picture; see `morphology.single`."""
    r, angle = polar(scenes, batch, craters)
    diameter = batch.column([c.width for c in craters])
    power = 1.7 + 1.3 * batch.infill.clamp_max(0.6)
    steepness = 2.0 * power * (1.0 + 0.9 * batch.infill) * 0.85 ** (power - 1.0)
    held = torch.where(batch.repose < 90.0, torch.minimum(batch.depth_ratio, torch.tan(torch.deg2rad(batch.repose)) / steepness), batch.depth_ratio)
    many = ("chained", "clustered")
    depth = held * diameter * batch.flag(lambda p: p.kind in many, 0.8, 1.0)
    rim = batch.rim_ratio * diameter * batch.flag(lambda p: p.kind in many, 0.7, 1.0)
    bowl_depth = depth * (1.0 + 0.9 * batch.infill)
    z = profile(r, batch, diameter, bowl_depth, rim, power)
    inside = 1.0 - smoothstep(r, 0.9, 1.02)
    stepped = batch.flag(lambda p: p.kind == "terraced" or (p.kind == "complex" and p.freshness > 0.5))
    z = z + stepped * inside * terraces(r, scenes, batch, bowl_depth)
    floor_level = rim - depth + 0.03 * depth * scenes.noise_a
    z = -smooth_min(-z, -floor_level, depth * (0.12 + 0.15 * (1.0 - batch.freshness)))
    floor = 1.0 - smoothstep(r, batch.infill * 0.85, batch.infill * 1.15 + 0.02)
    rugged = (1.0 + 0.25 * scenes.fine_a + 0.3 * scenes.noise_b).clamp_min(0.0)
    z = z + batch.flag(lambda p: p.kind == "complex") * 0.55 * depth * rugged * torch.exp(-((r / 0.19) ** 2))
    pit = -0.5 * depth * (1.0 - smoothstep(r, 0.12, 0.24)) + 0.13 * depth * torch.exp(-(((r - 0.26) / 0.07) ** 2))
    z = z + batch.flag(lambda p: p.kind == "pitted") * pit
    ejecta = smoothstep(r, 0.95, 1.1) * torch.exp(-(r - 1.0).clamp_min(0.0) / 0.45)
    return Reliefs(z, floor, inside * (1.0 - floor), torch.exp(-(((r - 1.0) / 0.09) ** 2)), ejecta, r, angle)


def merge(first: Reliefs, second: Reliefs) -> Reliefs:
    """The second crater cuts the first; see `morphology.merge`."""
    cut = 1.0 - smoothstep(second.radius, 0.93, 1.05)
    nearer = second.radius < first.radius
    return Reliefs(
        first.height * (1.0 - cut) + second.height + cut * first.height.clamp_max(0.0) * 0.3,
        torch.maximum(first.floor * (1 - cut), second.floor),
        torch.maximum(first.wall * (1 - cut), second.wall),
        torch.maximum(first.rim * (1 - cut), second.rim),
        torch.maximum(first.ejecta, second.ejecta) * (1 - cut),
        torch.where(nearer, second.radius, first.radius),
        torch.where(nearer, second.angle, first.angle),
    )


def blanket(reliefs: Reliefs, scenes: Scenes, batch: Batch, diameter: Tensor, phases: Tensor) -> Tensor:
    """Ejecta relief outside the rim; see `morphology.blanket`. `phases` [N, 6]."""
    r, angle = reliefs.radius, reliefs.angle
    f = [phases[:, i, None, None] for i in range(6)]
    ridges = torch.cos(11 * angle + 1.5 * scenes.noise_a + f[0]) + torch.cos(23 * angle + 2.0 * scenes.noise_b + f[1]) + 0.8 * scenes.fine_a
    extra = 0.0045 * diameter * batch.ejecta * reliefs.ejecta * ridges
    lobes = torch.cos(3 * angle + f[2]) + 0.8 * torch.cos(5 * angle + f[3]) + 0.6 * torch.cos(8 * angle + f[4]) + 0.5 * torch.cos(13 * angle + f[5])
    edge = 1.95 + batch.flag(lambda p: p.kind == "rampart", 0.15, 0.05) * lobes + 0.04 * scenes.noise_b
    sheet = 0.014 * diameter * (1.0 - smoothstep(r, edge - 0.04, edge + 0.07))
    ridge = 0.02 * diameter * torch.exp(-(((r - edge + 0.09) / 0.08) ** 2))
    rampart = smoothstep(r, 0.9, 1.1) * (sheet + ridge)
    pedestal = 0.06 * diameter * (1.0 - smoothstep(r, edge - 0.06, edge + 0.1))
    return extra + batch.flag(lambda p: p.kind == "rampart") * rampart + batch.flag(lambda p: p.kind == "pedestal") * pedestal


def craters(scenes: Scenes, batch: Batch, draws: Sequence[Draws]) -> Reliefs:
    """All main craters of the pictures, their blankets and their old neighbours."""
    reliefs = single(scenes, batch, [d.craters[0] for d in draws])
    for i in range(1, max(len(d.craters) for d in draws)):
        members = [n for n, d in enumerate(draws) if len(d.craters) > i]
        index = torch.tensor(members, device=batch.device)
        younger = single(take(scenes, index), batch.take(index), [draws[n].craters[i] for n in members])
        reliefs = put(reliefs, index, merge(take(reliefs, index), younger))
    diameter = batch.column([map_diameter(p) for p in batch.params])
    phases = torch.tensor(np.stack([d.blanket for d in draws]), dtype=torch.float32, device=batch.device)
    reliefs = reliefs._replace(height=reliefs.height + blanket(reliefs, scenes, batch, diameter, phases))
    return with_old_neighbours(reliefs, scenes, batch, draws)


def with_old_neighbours(reliefs: Reliefs, scenes: Scenes, batch: Batch, draws: Sequence[Draws]) -> Reliefs:
    """Worn craters around the main one; see `morphology.with_old_neighbours`."""
    height = reliefs.height
    for i in range(max(len(d.old) for d in draws)):
        members = [n for n, d in enumerate(draws) if len(d.old) > i]
        index = torch.tensor(members, device=batch.device)
        worn = batch.take(index).replace(lambda p: p.replace(freshness=0.25 * p.freshness, depth_ratio=0.09, rim_ratio=0.012, infill=0.5, kind="degraded"))
        other = single(take(scenes, index), worn, [draws[n].old[i] for n in members])
        keep = smoothstep(reliefs.radius[index], 0.95, 1.25)
        height = height.index_add(0, index, keep * other.height)
    return reliefs._replace(height=height)


def hummocks(reliefs: Reliefs, scenes: Scenes, batch: Batch, spacing: float) -> Tensor:
    """Hummocky ejecta; see `terrain.hummocks`."""
    texture = scenes.fine_a + 0.6 * scenes.fine_b + 0.8 * scenes.noise_b
    reach = smoothstep(reliefs.radius, 0.85, 1.1) * torch.exp(-(reliefs.radius - 1.1).clamp_min(0.0) / 0.55)
    return texture * (batch.hummocks / rms_slope(texture, spacing)) * reach * smoothstep(scenes.noise_a, -1.6, 0.9)


def massifs(reliefs: Reliefs, scenes: Scenes, batch: Batch) -> Tensor:
    """Isolated rough hills; see `terrain.massifs`."""
    hill = smoothstep(scenes.noise_b + 0.06 * scenes.fine_a, 0.5, 2.0)
    return 2.0 * batch.massifs * hill * (1.0 + 0.1 * scenes.fine_b) * smoothstep(reliefs.radius, 0.9, 1.5)


def rms_slope(field: Tensor, spacing: float) -> Tensor:
    """Root mean square slope [N, 1, 1] of [N, s, s]."""
    step = ((field[:, :, 1:] - field[:, :, :-1]) ** 2).mean((1, 2), keepdim=True)
    return (torch.sqrt(step * 2.0) / spacing).clamp_min(1e-6)


def rays(scenes: Scenes, reliefs: Reliefs, batch: Batch, draws: Sequence[Draws]) -> Tensor:
    """Bright rays where the kind has them; see `terrain.rays`."""
    f = torch.tensor(np.stack([d.rays for d in draws]), dtype=torch.float32, device=batch.device)[:, :, None, None]
    a = reliefs.angle + 0.12 * scenes.noise_b
    pattern = torch.cos(5 * a + f[:, 0]) + torch.cos(8 * a + f[:, 1]) + torch.cos(13 * a + f[:, 2])
    reach = torch.exp(-(reliefs.radius - 1.0).clamp_min(0.0) / 1.1) * smoothstep(reliefs.radius, 0.85, 1.05)
    return batch.flag(lambda p: p.kind == "rayed") * (0.5 * reach * smoothstep(pattern, -0.4, 1.6) + 0.12 * reliefs.ejecta)
