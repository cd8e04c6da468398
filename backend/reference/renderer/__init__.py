"""Pictures of Martian craters from named parameters.

rng = np.random.default_rng(0)
parameters = [sample_parameters(rng) for _ in range(8)]
images = render_batch(parameters, seeds=range(8))  # uint8 [8, 128, 128, 3]
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backend.errors import InputError
from backend.reference.renderer.parameters import INTERIORS, KINDS, RIMS, SENSORS, TERRAINS, VIEWS, CraterParameters
from backend.reference.renderer.sampling import sample_parameters
from backend.reference.renderer.scene import render

__all__ = ["CraterParameters", "INTERIORS", "KINDS", "RIMS", "SENSORS", "TERRAINS", "VIEWS", "render", "render_batch", "sample_parameters"]


def render_batch(params: Sequence[CraterParameters], seeds: Sequence[int], size: int = 128) -> np.ndarray:
    """Render N pictures, uint8 [N, size, size, 3]. Each depends on its own parameters and seed only.

    Raises InputError if the two lists differ in length or `size` is below 32."""
    if len(params) != len(seeds):
        raise InputError(f"{len(params)} parameter sets but {len(seeds)} seeds; give one seed per picture")
    negative = [int(s) for s in seeds if int(s) < 0]
    if negative:
        raise InputError(f"seed {negative[0]} is negative; give seeds from 0 up")
    if size < 32:
        raise InputError(f"size is {size}; the smallest picture is 32 pixels wide")
    out = np.empty((len(params), size, size, 3), np.uint8)
    for i, (p, seed) in enumerate(zip(params, seeds, strict=True)):
        out[i] = render(p, int(seed), size)
    return out
