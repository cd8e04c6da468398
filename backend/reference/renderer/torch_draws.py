"""Random numbers of a picture, drawn in the order in which the NumPy renderer draws them, for the torch renderer."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from backend.reference.renderer import morphology
from backend.reference.renderer.fields import Array
from backend.reference.renderer.imaging import SENSOR_GREY
from backend.reference.renderer.parameters import CraterParameters
from backend.reference.renderer.scene import GROUND_MAP, GROUND_SHRINK


class Crater(NamedTuple):
    """Centre, diameter (half frames) and the phases [7] of the outline."""

    x: float
    y: float
    width: float
    phases: Array


class Draws(NamedTuple):
    """All random numbers of one picture; s is the map's side. `white` and `grain` are None where the device draws them."""

    white: Array | None  # [4, s, s]
    craters: list[Crater]
    blanket: Array  # [6]
    old: list[Crater]
    plain_stamps: Array  # [n, 6]
    stamps: Array  # [n, 6]
    rays: Array  # [3]
    column: Array  # [size]
    grain: Array | None  # [3, size, size]


def map_side(p: CraterParameters, size: int) -> int:
    """Pixels of the map that a picture of `size` pixels is made from."""
    return int(size * GROUND_MAP) if p.view == "ground" else size


def map_diameter(p: CraterParameters) -> float:
    """Diameter of the main crater on the map, half frames."""
    return 2.0 * p.size * (GROUND_SHRINK if p.view == "ground" else 1.0)


def _phases(rng: np.random.Generator, count: int) -> Array:
    return rng.uniform(0.0, 2.0 * math.pi, count)


def _old(p: CraterParameters, diameter: float, rng: np.random.Generator) -> list[Crater]:
    found = []
    for _ in range(int(rng.poisson(p.old_craters))):
        bearing, width = rng.uniform(0.0, 2.0 * math.pi), diameter * rng.uniform(0.4, 1.8)
        gap = 0.5 * diameter + width * rng.uniform(0.1, 0.6)
        found.append(Crater(2.0 * p.centre_x + gap * math.cos(bearing), 2.0 * p.centre_y + gap * math.sin(bearing), width, _phases(rng, 7)))
    return found


def _stamps(p: CraterParameters, rng: np.random.Generator) -> Array:
    return rng.random((int(rng.poisson(p.small_craters)), 6))


def draw(p: CraterParameters, seed: int, size: int, fields: bool = True) -> Draws:
    """The random numbers of `render(p, seed, size)`; without `fields` the large noise fields are left to the device."""
    rng = np.random.default_rng(seed)
    s, diameter, ground = map_side(p, size), map_diameter(p), p.view == "ground"
    white = np.concatenate([rng.standard_normal((2, s, s), dtype=np.float32) for _ in range(2)]) if fields else None
    places = morphology.layout(p, diameter, rng)
    craters = [Crater(*place, _phases(rng, 7)) for place in places]
    blanket = _phases(rng, 6)
    old = _old(p, diameter, rng) if p.old_craters > 0.0 else []
    plain_stamps = _stamps(p, rng) if ground else np.zeros((0, 6))
    stamps = _stamps(p, rng)
    rays = _phases(rng, 3) if p.kind == "rayed" else np.zeros(3)
    column = rng.standard_normal((1, size, 1), dtype=np.float32)[0, :, 0] if p.column_noise > 0.0 else np.zeros(size, np.float32)
    grain = None
    if fields:
        grain = rng.standard_normal((size, size, 1 if p.sensor in SENSOR_GREY else 3), dtype=np.float32).transpose(2, 0, 1)
        grain = np.broadcast_to(grain, (3, size, size))
    return Draws(white, craters, blanket, old, plain_stamps, stamps, rays, column, grain)
