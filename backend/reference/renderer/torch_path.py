"""Renders a batch on a torch device: the physics of the NumPy renderer, for pictures that are needed on a GPU as one trains.

`base-model train`, which shows each of its pictures dozens of times, renders them once, by all of the host's processors.
With the NumPy random numbers the pictures are those of `render_batch` up to rounding (tested); with a torch generator the large noise fields
are drawn on the device, which is faster and gives other pictures of the same distribution."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from backend.errors import InputError
from backend.reference.renderer import torch_imaging, torch_relief, torch_terrain
from backend.reference.renderer.imaging import SENSOR_GREY
from backend.reference.renderer.parameters import CraterParameters
from backend.reference.renderer.torch_batch import Batch, make_scenes
from backend.reference.renderer.torch_draws import Draws, draw, map_diameter, map_side
from backend.reference.renderer.torch_terrain import Ground


def render_batch_on(
    params: Sequence[CraterParameters], seeds: Sequence[int], size: int = 128, device: str | torch.device = "cpu", generator: torch.Generator | None = None
) -> Tensor:
    """Render N pictures on a device, uint8 [N, size, size, 3].

    Args:
        params: parameters of the N pictures.
        seeds: one seed ≥ 0 per picture.
        size: side of the pictures in pixels, ≥ 32.
        device: where to render.
        generator: on the same device; draws the noise fields there instead of from the seeds.

    Raises:
        InputError: lists of different length, a negative seed or a size below 32.
    """
    if len(params) != len(seeds):
        raise InputError(f"{len(params)} parameter sets but {len(seeds)} seeds; give one seed per picture")
    if any(int(s) < 0 for s in seeds):
        raise InputError(f"seed {min(int(s) for s in seeds)} is negative; give seeds from 0 up")
    if size < 32:
        raise InputError(f"size is {size}; the smallest picture is 32 pixels wide")
    device = torch.device(device)
    out = torch.empty((len(params), size, size, 3), dtype=torch.uint8, device=device)
    for view in ("aerial", "ground"):
        members = [i for i, p in enumerate(params) if p.view == view]
        if members:
            batch = Batch.of([params[i] for i in members], device)
            draws = [draw(params[i], int(seeds[i]), size, fields=generator is None) for i in members]
            out[torch.tensor(members, device=device)] = _render_view(batch, draws, size, generator)
    return out


def _fields(batch: Batch, draws: Sequence[Draws], size: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """White noise [N, 4, s, s] and grain [N, 3, size, size]."""
    if generator is None:
        return tuple(torch.from_numpy(np.stack([getattr(d, name) for d in draws])).to(batch.device) for name in ("white", "grain"))
    side = map_side(batch.params[0], size)
    white = torch.randn((len(draws), 4, side, side), device=batch.device, generator=generator)
    grain = torch.randn((len(draws), 3, size, size), device=batch.device, generator=generator)
    grey = batch.flag(lambda p: p.sensor in SENSOR_GREY)[:, None] > 0.5
    return white, torch.where(grey, grain[:, :1].expand_as(grain), grain)


def _render_view(batch: Batch, draws: Sequence[Draws], size: int, generator: torch.Generator | None) -> Tensor:
    """Pictures that share a view, uint8 [N, size, size, 3]; the order of `scene.render`."""
    white, grain = _fields(batch, draws, size, generator)
    spacing = 2.0 / white.shape[-1]
    main, plain = _surfaces(batch, draws, white, spacing)
    image = torch_imaging.colourise(torch_imaging.reflectance(main.height, spacing, batch), main, batch)
    if plain is not None:
        far = torch_imaging.colourise(torch_imaging.reflectance(plain.height, spacing, batch), plain, batch)
        image = torch_imaging.perspective(main.height, image, plain.height, far, batch, size)
    column = torch.from_numpy(np.stack([d.column for d in draws])).to(batch.device)
    return torch_imaging.expose(image, batch, column, grain)


def _surfaces(batch: Batch, draws: Sequence[Draws], white: Tensor, spacing: float) -> tuple[Ground, Ground | None]:
    """The maps with craters and, for the ground view, without; see `scene.surfaces`."""
    scenes = make_scenes(batch, white)
    reliefs = torch_relief.craters(scenes, batch, draws)
    base = torch_terrain.plain(scenes, batch, spacing)
    plain = None
    if batch.params[0].view == "ground":
        plain = base._replace(height=torch_terrain.add_small_craters(base.height, batch, [d.plain_stamps for d in draws], spacing))
    diameter = batch.column([map_diameter(p) for p in batch.params])
    outside = (1.0 - reliefs.floor - 0.6 * reliefs.wall).clamp(0.12, 1.0)
    inner = torch_terrain.interior(scenes, batch, reliefs, diameter)
    ghostly = batch.flag(lambda p: p.kind in ("ghost", "degraded")) > 0.5
    height = reliefs.height + base.height * torch.where(ghostly, outside.clamp_min(0.6), outside) + inner.height
    height = height + torch_relief.hummocks(reliefs, scenes, batch, spacing) + torch_relief.massifs(reliefs, scenes, batch)
    clear = torch.where(ghostly, torch.zeros_like(outside), 0.9 * (reliefs.floor + reliefs.wall))
    height = torch_terrain.add_small_craters(height, batch, [d.stamps for d in draws], spacing, clear)
    albedo = base.albedo * outside + inner.albedo + torch_relief.rays(scenes, reliefs, batch, draws)
    return Ground(height, albedo, torch.maximum(base.sand * outside, inner.sand), inner.frost), plain
