"""One picture: fields, relief, light, colour, camera, sensor, in this order."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from backend.reference.renderer import imaging, morphology, photometry, terrain
from backend.reference.renderer.fields import Array, noise_pair
from backend.reference.renderer.parameters import CraterParameters

GROUND_MAP = 1.25  # resolution of the map relative to the picture
GROUND_SHRINK = 0.7  # crater diameter on the map relative to that in the frame


def make_scene(p: CraterParameters, size: int, rng: np.random.Generator) -> morphology.Scene:
    """Coordinates and random fields [size, size]."""
    axis = ((np.arange(size, dtype=np.float32) + 0.5) / size) * 2.0 - 1.0
    noise_a, noise_b = noise_pair(rng, size, p.spectrum, low=1.0, high=36.0)
    fine_a, fine_b = noise_pair(rng, size, 2.6, low=7.0, high=24.0)
    return morphology.Scene(axis[None] + np.zeros((size, 1), np.float32), -axis[:, None] + np.zeros((1, size), np.float32), noise_a, noise_b, fine_a, fine_b)


class Surface(NamedTuple):
    """Height, albedo change, sand and frost cover of a map, each [s, s]; lengths in half frames."""

    height: Array
    albedo: Array
    sand: Array
    frost: Array


def surfaces(p: CraterParameters, size: int, rng: np.random.Generator) -> tuple[Surface, Surface | None, float]:
    """The map with its craters, the plain without them (ground view only), and the pixel spacing in half frames."""
    ground = p.view == "ground"
    s = int(size * GROUND_MAP) if ground else size
    spacing = 2.0 / s
    scene = make_scene(p, s, rng)
    diameter = 2.0 * p.size * (GROUND_SHRINK if ground else 1.0)
    relief = morphology.craters(scene, p, diameter, rng)
    if p.old_craters > 0.0:
        relief = morphology.with_old_neighbours(relief, scene, p, diameter, rng)
    base, albedo, sand = terrain.plain(scene, p, spacing)
    plain = Surface(terrain.small_craters(base.copy(), p, rng, spacing), albedo, sand, np.zeros_like(base)) if ground else None
    outside = np.clip(1.0 - relief.floor - 0.6 * relief.wall, 0.12, 1.0)
    inner_height, inner_albedo, inner_sand, frost = terrain.interior(scene, p, relief, diameter)
    ghostly = p.kind in ("ghost", "degraded")
    height = relief.height + base * (np.maximum(outside, 0.6) if ghostly else outside) + inner_height
    height = extras(height, relief, scene, p, diameter, spacing)
    height = terrain.small_craters(height, p, rng, spacing, None if ghostly else 0.9 * (relief.floor + relief.wall))
    albedo = albedo * outside + inner_albedo
    if p.kind == "rayed":
        albedo = albedo + terrain.rays(scene, relief, p, rng)
    return Surface(height, albedo, np.maximum(sand * outside, inner_sand), frost), plain, spacing


def extras(height: Array, relief: morphology.Relief, scene: morphology.Scene, p: CraterParameters, diameter: float, spacing: float) -> Array:
    """Relief that only some instruments' scenes have: hummocky ejecta, isolated hills, old neighbours. Its random numbers are its own."""
    if p.hummocks > 0.0:
        height = height + terrain.hummocks(relief, scene, p, spacing)
    if p.massifs > 0.0:
        height = height + terrain.massifs(relief, scene, p)
    return height


def shade(surface: Surface, p: CraterParameters, spacing: float) -> Array:
    """RGB [s, s, 3] of a map under the picture's sun, seen from above."""
    light = photometry.reflectance(surface.height, spacing, p.sun_azimuth, p.sun_elevation, p.ambient, p.lommel)
    return imaging.colourise(light, surface.albedo, surface.sand, surface.frost, p)


def render(p: CraterParameters, seed: int, size: int = 128) -> Array:
    """One picture, uint8 [size, size, 3]; the same parameters and seed give the same bytes."""
    rng = np.random.default_rng(seed)
    main, plain, spacing = surfaces(p, size, rng)
    image = shade(main, p, spacing)
    if plain is not None:
        image = imaging.perspective(main.height, image, plain.height, shade(plain, p, spacing), p, size)
    return imaging.expose(image.astype(np.float32), p, rng)
