"""Height field of craters: bowl, rim, floor, peak, terraces, ejecta. Lengths in half frames."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from backend.reference.renderer.fields import Array, smooth_max, smooth_min, smoothstep, stairs
from backend.reference.renderer.parameters import CraterParameters


class Scene(NamedTuple):
    """Coordinates and random fields of one picture, each [s, s]; `x` to the right, `y` up, in half frames of the map."""

    x: Array
    y: Array
    noise_a: Array  # unit variance, red
    noise_b: Array
    fine_a: Array  # unit variance, short waves
    fine_b: Array


class Relief(NamedTuple):
    """Height [s, s] and where floor, wall and ejecta lie, each in [0, 1]."""

    height: Array
    floor: Array
    wall: Array
    rim: Array
    ejecta: Array
    radius: Array  # distance from the main centre in crater radii, warped by the rim's shape
    angle: Array


def polar(scene: Scene, p: CraterParameters, cx: float, cy: float, radius: float, phases: Array) -> tuple[Array, Array]:
    """Distance in crater radii (rim's irregular outline at 1) and azimuth."""
    dx, dy = scene.x - cx, scene.y - cy
    c, s = math.cos(math.radians(p.orientation)), math.sin(math.radians(p.orientation))
    u, v = dx * c + dy * s, (dy * c - dx * s) / (1.0 - p.ellipticity)
    angle = np.arctan2(v, u)
    outline = np.zeros_like(angle)
    orders = (2, 3, 4, 5, 7, 9, 13) if p.rims == "scalloped" else (2, 3, 4, 5, 6, 8)
    for order, phase in zip(orders, phases, strict=False):
        weight = (1.0 if order < 10 else 0.6) * (0.6 + 0.4 * np.cos(2.0 * angle + 3.0 * phase)) if p.rims == "scalloped" and order > 5 else 1.6 / order
        outline += 0.7 * weight * np.cos(order * angle + phase)
    distance = np.sqrt(u * u + v * v) / radius
    return distance / (1.0 + p.irregularity * 0.7 * outline + 0.02 * scene.noise_b), angle


def wall_power(p: CraterParameters) -> float:
    """Exponent of the cavity's profile: near 2 (paraboloid) for bowls, steeper walls for wide floors; power functions as in Garvin & Frawley 1998."""
    return 1.7 + 1.3 * min(p.infill, 0.6)


def profile(r: Array, p: CraterParameters, diameter: float, depth: float, rim: float) -> Array:
    """Radial profile: paraboloid bowl meeting an ejecta blanket that falls as r^-3 (McGetchin et al. 1973), corner rounded with age."""
    inner = -depth + rim + depth * np.minimum(r, 1.6) ** wall_power(p)
    outer = rim * np.maximum(r, 0.75) ** -3.0
    rounding = diameter * (0.006 + (0.025 if p.kind == "ghost" else 0.05) * (1.0 - p.freshness) ** 1.5)
    return smooth_min(inner, outer, rounding)


def standing_depth(p: CraterParameters) -> float:
    """Depth / diameter that the wall can hold: the profile's slope at 0.85 of the radius stays below `repose`."""
    if p.repose >= 90.0:
        return p.depth_ratio
    power = wall_power(p)
    steepness = 2.0 * power * (1.0 + 0.9 * p.infill) * 0.85 ** (power - 1.0)
    return min(p.depth_ratio, math.tan(math.radians(p.repose)) / steepness)


def single(scene: Scene, p: CraterParameters, cx: float, cy: float, diameter: float, rng: np.random.Generator) -> Relief:
    """One crater of `diameter` half frames at (cx, cy), with floor, peak, pit and terraces of its kind."""
    phases = rng.uniform(0.0, 2.0 * math.pi, 7)
    r, angle = polar(scene, p, cx, cy, diameter / 2.0, phases)
    depth, rim = standing_depth(p) * diameter, p.rim_ratio * diameter
    if p.kind in ("chained", "clustered"):
        depth, rim = depth * 0.8, rim * 0.7
    bowl_depth = depth * (1.0 + 0.9 * p.infill)
    z = profile(r, p, diameter, bowl_depth, rim)
    inside = 1.0 - smoothstep(r, 0.9, 1.02)
    if p.kind == "terraced" or (p.kind == "complex" and p.freshness > 0.5):
        z = z + inside * terraces(r, scene, p, bowl_depth, strong=p.kind == "terraced")
    floor_level = rim - depth + 0.03 * depth * scene.noise_a
    z = smooth_max(z, floor_level, depth * (0.12 + 0.15 * (1.0 - p.freshness)))
    floor = 1.0 - smoothstep(r, p.infill * 0.85, p.infill * 1.15 + 0.02)
    wall = inside * (1.0 - floor)
    if p.kind == "complex":
        rugged = np.maximum(0.0, 1.0 + 0.25 * scene.fine_a + 0.3 * scene.noise_b)
        z = z + 0.55 * depth * rugged * np.exp(-((r / 0.19) ** 2))
    if p.kind == "pitted":
        z = z - 0.5 * depth * (1.0 - smoothstep(r, 0.12, 0.24)) + 0.13 * depth * np.exp(-(((r - 0.26) / 0.07) ** 2))
    rim_zone = np.exp(-(((r - 1.0) / 0.09) ** 2))
    ejecta = smoothstep(r, 0.95, 1.1) * np.exp(-np.maximum(r - 1.0, 0.0) / 0.45)
    return Relief(z, floor, wall, rim_zone, ejecta, r, angle)


def terraces(r: Array, scene: Scene, p: CraterParameters, depth: float, strong: bool) -> Array:
    """Slump blocks of the wall: steps in the radial profile, broken by noise."""
    count = 3.2 if strong else 2.0
    t = (np.minimum(r, 1.05) - p.infill) / (1.02 - p.infill) * count + 0.22 * scene.noise_b + 0.1 * scene.fine_a
    step = (t - stairs(t, 0.4)) / count
    return -(1.1 if strong else 0.6) * depth * 0.7 * step * smoothstep(r, p.infill * 0.9, p.infill + 0.12)


def blanket(relief: Relief, scene: Scene, p: CraterParameters, diameter: float, rng: np.random.Generator) -> Array:
    """Extra ejecta relief outside the rim: radial texture, rampart lobes, pedestal."""
    r, angle = relief.radius, relief.angle
    phases = rng.uniform(0.0, 2.0 * math.pi, 6)
    ridges = np.cos(11 * angle + 1.5 * scene.noise_a + phases[0]) + np.cos(23 * angle + 2.0 * scene.noise_b + phases[1]) + 0.8 * scene.fine_a
    extra = 0.0045 * diameter * p.ejecta * relief.ejecta * ridges
    if p.kind in ("rampart", "pedestal"):
        lobes = np.cos(3 * angle + phases[2]) + 0.8 * np.cos(5 * angle + phases[3]) + 0.6 * np.cos(8 * angle + phases[4]) + 0.5 * np.cos(13 * angle + phases[5])
        edge = 1.95 + (0.15 if p.kind == "rampart" else 0.05) * lobes + 0.04 * scene.noise_b
        outside = smoothstep(r, 0.9, 1.1)
        if p.kind == "rampart":
            sheet = 0.014 * diameter * (1.0 - smoothstep(r, edge - 0.04, edge + 0.07))
            ridge = 0.02 * diameter * np.exp(-(((r - edge + 0.09) / 0.08) ** 2))
            extra = extra + outside * (sheet + ridge)
        else:
            extra = extra + 0.06 * diameter * (1.0 - smoothstep(r, edge - 0.06, edge + 0.1))
    return extra


def merge(first: Relief, second: Relief) -> Relief:
    """Two craters side by side: the younger (second) cuts the older one."""
    cut = 1.0 - smoothstep(second.radius, 0.93, 1.05)
    height = first.height * (1.0 - cut) + second.height + cut * np.minimum(first.height, 0.0) * 0.3
    nearer = second.radius < first.radius
    return Relief(
        height,
        np.maximum(first.floor * (1 - cut), second.floor),
        np.maximum(first.wall * (1 - cut), second.wall),
        np.maximum(first.rim * (1 - cut), second.rim),
        np.maximum(first.ejecta, second.ejecta) * (1 - cut),
        np.where(nearer, second.radius, first.radius),
        np.where(nearer, second.angle, first.angle),
    )


def with_old_neighbours(relief: Relief, scene: Scene, p: CraterParameters, diameter: float, rng: np.random.Generator) -> Relief:
    """Worn craters of half to twice the diameter whose centres lie outside the main one, which cuts them."""
    old = p.replace(freshness=0.25 * p.freshness, depth_ratio=0.09, rim_ratio=0.012, infill=0.5, kind="degraded")
    for _ in range(int(rng.poisson(p.old_craters))):
        bearing, width = rng.uniform(0.0, 2.0 * math.pi), diameter * rng.uniform(0.4, 1.8)
        gap = 0.5 * diameter + width * rng.uniform(0.1, 0.6)
        other = single(scene, old, 2.0 * p.centre_x + gap * math.cos(bearing), 2.0 * p.centre_y + gap * math.sin(bearing), width, rng)
        keep = smoothstep(relief.radius, 0.95, 1.25)
        relief = relief._replace(height=relief.height + keep * other.height)
    return relief


def layout(p: CraterParameters, diameter: float, rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """Centres and diameters (half frames) of the craters of a kind: one, a pair, a chain or a cluster."""
    cx, cy = 2.0 * p.centre_x, 2.0 * p.centre_y
    c, s = math.cos(math.radians(p.orientation)), math.sin(math.radians(p.orientation))
    if p.kind == "double":
        gap = diameter * rng.uniform(0.33, 0.45)
        return [(cx - gap * c, cy - gap * s, diameter), (cx + gap * c, cy + gap * s, diameter * rng.uniform(0.75, 1.0))]
    if p.kind == "chained":
        count, step = int(rng.integers(4, 7)), diameter * 0.78
        return [
            (cx + (i - (count - 1) / 2) * step * c + rng.normal(0, 0.02), cy + (i - (count - 1) / 2) * step * s + rng.normal(0, 0.02), diameter * rng.uniform(0.75, 1.0))
            for i in range(count)
        ]
    if p.kind == "clustered":
        return [(cx + rng.normal(0, 0.42), cy + rng.normal(0, 0.42), diameter * rng.uniform(0.45, 1.0)) for _ in range(int(rng.integers(6, 10)))]
    return [(cx, cy, diameter)]


def craters(scene: Scene, p: CraterParameters, diameter: float, rng: np.random.Generator) -> Relief:
    """The main crater or group of craters."""
    relief: Relief | None = None
    for cx, cy, width in layout(p, diameter, rng):
        new = single(scene, p, cx, cy, width, rng)
        relief = new if relief is None else merge(relief, new)
    return relief._replace(height=relief.height + blanket(relief, scene, p, diameter, rng))
