"""Relief and albedo of the plain and of what lies inside a crater. Lengths in half frames."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from backend.reference.renderer.fields import Array, smoothstep, stairs
from backend.reference.renderer.morphology import Relief, Scene
from backend.reference.renderer.parameters import CraterParameters


def dunes(scene: Scene, angle: float, wavelength: float, height: float) -> Array:
    """Asymmetric transverse dunes (gentle windward, steep lee side) of a wavelength, with wandering crests."""
    c, s = math.cos(angle), math.sin(angle)
    phase = (scene.x * c + scene.y * s + 0.05 * scene.noise_a + 0.2 * wavelength * scene.noise_b) / wavelength
    t = phase - np.floor(phase)
    wave = np.where(t < 0.7, smoothstep(t, 0.0, 0.7), 1.0 - smoothstep(t, 0.7, 1.0))
    return height * wave * (0.75 + 0.25 * np.clip(scene.noise_b, -1.5, 1.5))


def plain(scene: Scene, p: CraterParameters, spacing: float) -> tuple[Array, Array, Array]:
    """Height, albedo change and dark sand cover of the plain without craters, each [s, s]; `spacing` is the pixel in half frames."""
    base = scene.noise_a * 0.35 + scene.fine_a * 0.07
    slope = math.sqrt(float(np.mean((base[:, 1:] - base[:, :-1]) ** 2)) * 2.0) / spacing
    patchy = 0.6 + 0.5 * smoothstep(scene.noise_b, -0.6, 1.4)
    height = base * (p.roughness / max(slope, 1e-6)) * patchy
    albedo = p.albedo_contrast * (0.6 * scene.noise_b + 0.3 * scene.fine_b)
    sand = np.zeros_like(height)
    angle = math.radians(p.orientation)
    if p.terrain == "dune fields":
        height = height * 0.5 + dunes(scene, angle, 0.21 * p.dune_spacing, 0.013 * p.dune_height)
        sand = np.full_like(height, 0.55)
    elif p.terrain == "layered terrain":
        level = 1.3 * scene.noise_a + 1.6 * (scene.x * math.cos(angle) + scene.y * math.sin(angle))
        height = height * 0.5 + 2.0 * p.layer_height * stairs(level, 0.4)
        albedo = albedo + 0.1 * np.sin(2.0 * math.pi * level)
    elif p.terrain == "fractured terrain":
        warp = 0.12 * scene.noise_a
        sets = [math.cos(angle + t) * scene.x + math.sin(angle + t) * scene.y for t in (0.0, 1.15, 2.2)]
        lines = [np.abs(np.mod(f * v + 1.4 * warp * f + 0.2 * scene.noise_b, 1.0) - 0.5) / f for f, v in zip((1.5, 1.2, 0.9), sets, strict=True)]
        cracks = sum(np.exp(-((line / 0.03) ** 2)) for line in lines)
        height = height - 0.011 * np.minimum(cracks, 1.2)
        albedo = albedo - 0.06 * np.minimum(cracks, 1.0)
    elif p.terrain == "rocky plains":
        rocks = smoothstep(scene.fine_b, 0.7, 2.2)
        height = height + 0.015 * rocks
    elif p.terrain == "dusty plains":
        albedo = albedo * 0.5 + 0.04
    elif p.terrain == "streaked plains":
        albedo = albedo + streaks(scene, angle, p.streaks)
    return height, albedo, sand


def streaks(scene: Scene, angle: float, contrast: float) -> Array:
    """Wind streaks: albedo stretched along the wind."""
    c, s = math.cos(angle), math.sin(angle)
    across = -scene.x * s + scene.y * c + 0.05 * scene.noise_a
    pattern = np.sin(9.0 * across + 1.2 * scene.noise_b) + 0.7 * np.sin(17.0 * across + 1.5 * scene.noise_a) + 0.5 * np.sin(31.0 * across)
    return contrast * np.clip(pattern, -1.6, 1.6) * (0.7 + 0.3 * scene.noise_b)


def hummocks(relief: Relief, scene: Scene, p: CraterParameters, spacing: float) -> Array:
    """Hummocky ejecta: rough relief from the rim outward, fading over one crater radius."""
    texture = scene.fine_a + 0.6 * scene.fine_b + 0.8 * scene.noise_b
    slope = math.sqrt(float(np.mean((texture[:, 1:] - texture[:, :-1]) ** 2)) * 2.0) / spacing
    reach = smoothstep(relief.radius, 0.85, 1.1) * np.exp(-np.maximum(relief.radius - 1.1, 0.0) / 0.55)
    return texture * (p.hummocks / max(slope, 1e-6)) * reach * smoothstep(scene.noise_a, -1.6, 0.9)


def massifs(relief: Relief, scene: Scene, p: CraterParameters) -> Array:
    """Isolated rough hills where a long-wave field is high, outside the crater."""
    hill = smoothstep(scene.noise_b + 0.06 * scene.fine_a, 0.5, 2.0)
    return 2.0 * p.massifs * hill * (1.0 + 0.1 * scene.fine_b) * smoothstep(relief.radius, 0.9, 1.5)


@lru_cache(maxsize=512)
def stamp_height(radius: int, age: int, sub: int) -> Array:
    """Height of a small crater of `radius` quarter pixels, in units of its diameter; side 2m + 1; `age` 0 to 3, `sub` 4 × 4 subpixel shifts."""
    reach = radius / 4.0
    m = int(math.ceil(2.2 * reach)) + 1
    axis = np.arange(-m, m + 1, dtype=np.float32)
    r = np.hypot(axis[:, None] - (sub // 4) / 4, axis[None] - (sub % 4) / 4) / reach
    depth, rim = 0.2 / (1 + 0.9 * age), 0.035 / (1 + 0.7 * age)
    inner, outer = -depth + rim + depth * r**2.2, rim * np.maximum(r, 0.8) ** -3.0
    width = 0.02 + 0.03 * age
    h = np.clip(0.5 + 0.5 * (outer - inner) / width, 0, 1)
    z = outer + (inner - outer) * h - width * h * (1 - h)
    return (z * (1.0 - smoothstep(r, 1.7, 2.2))).astype(np.float32)


def small_craters(height: Array, p: CraterParameters, rng: np.random.Generator, spacing: float, keep_clear: Array | None = None) -> Array:
    """Add a population of small craters, cumulative number ∝ D^-2 (a surface in equilibrium, Moore et al. 1980; fresh production is steeper), in place.

    `keep_clear` [s, s] in [0, 1]: where it is near 1 (young floors) fewer are stamped."""
    size = height.shape[0]
    count = int(rng.poisson(p.small_craters))
    draws = rng.random((count, 6))
    smallest, largest = (2.8 if p.terrain == "cratered highlands" else 1.5) * size / 128, 11.0 * size / 128
    for u, fy, fx, a, o, keep in draws:
        radius = min(smallest * (1.0 - u) ** -0.5, largest)
        cy, cx = fy * size, fx * size
        iy, ix = int(cy), int(cx)
        if keep_clear is not None and keep < keep_clear[min(iy, size - 1), min(ix, size - 1)]:
            continue
        stamp = stamp_height(int(round(radius * 4)), int(a * 4) if p.terrain == "cratered highlands" else int(a * a * 4), int((cy - iy) * 4) * 4 + int((cx - ix) * 4))
        m = stamp.shape[0] // 2
        y0, y1, x0, x1 = max(iy - m, 0), min(iy + m + 1, size), max(ix - m, 0), min(ix + m + 1, size)
        if y1 <= y0 or x1 <= x0:
            continue
        scale = 2.0 * radius * spacing * (0.8 + 0.3 * o)
        height[y0:y1, x0:x1] += scale * stamp[y0 - iy + m : y1 - iy + m, x0 - ix + m : x1 - ix + m]
    return height


def interior(scene: Scene, p: CraterParameters, relief: Relief, diameter: float) -> tuple[Array, Array, Array, Array]:
    """Height change, albedo change, dark sand cover and frost cover inside the crater, each [s, s]."""
    zero = np.zeros_like(relief.height)
    height, albedo, sand, frost = zero, zero, zero, zero
    depth = p.depth_ratio * diameter
    scale = max(diameter, 0.5)
    if p.interiors == "dune floors":
        sand = relief.floor
        spacing = (0.13 * scale + 0.04) * p.dune_spacing
        height = relief.floor * dunes(scene, math.radians(p.orientation + 40.0), spacing, 0.012 * scale * p.dune_height)
    elif p.interiors == "rocky floors":
        height = relief.floor * 0.011 * scale * smoothstep(scene.fine_a + 0.5 * scene.fine_b, 0.2, 2.0)
    elif p.interiors == "frosted floors":
        frost = relief.floor * smoothstep(scene.noise_b + 0.4 * scene.fine_a, -1.2, -0.2)
    elif p.interiors == "layered walls":
        level = relief.height / max(depth, 1e-4) * p.wall_layers + 0.25 * scene.noise_b
        height = relief.wall * 0.08 * depth * (stairs(level, 0.4) - level)
        albedo = relief.wall * 0.16 * np.sin(2.0 * math.pi * level)
    elif p.interiors == "gullied walls":
        spokes = np.abs(np.cos(relief.angle * (p.gullies / 2.0) + 1.2 * scene.noise_b + 0.5 * scene.fine_a))
        cut = relief.wall * smoothstep(relief.radius, 0.4, 0.7) * smoothstep(1.0 - spokes, 0.2, 0.85)
        height = -p.gully_depth * scale * cut
        albedo = -0.1 * cut
    elif p.interiors == "smooth floors":
        albedo = -0.04 * relief.floor
    if p.rims == "frosted":
        frost = np.maximum(frost, relief.rim**1.5 * smoothstep(scene.noise_b + 0.5 * scene.fine_b, -1.2, 0.4))
    return height, albedo, sand, frost


def rays(scene: Scene, relief: Relief, p: CraterParameters, rng: np.random.Generator) -> Array:
    """Bright rays and ejecta of a young crater: albedo change [s, s]."""
    phases = rng.uniform(0.0, 2.0 * math.pi, 3)
    a = relief.angle + 0.12 * scene.noise_b
    pattern = np.cos(5 * a + phases[0]) + np.cos(8 * a + phases[1]) + np.cos(13 * a + phases[2])
    reach = np.exp(-np.maximum(relief.radius - 1.0, 0.0) / 1.1) * smoothstep(relief.radius, 0.85, 1.05)
    return 0.5 * reach * smoothstep(pattern, -0.4, 1.6) + 0.12 * relief.ejecta
