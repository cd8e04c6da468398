"""Training of the autoencoder's decoder on crops of rendered images."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from backend.base_model.batches import batches, workers_for
from backend.base_model.data import Draw, alike
from backend.base_model.linear_code import PATCH
from backend.base_model.precision import mixed_precision
from backend.base_model.progress import restore, save_progress

if TYPE_CHECKING:
    from diffusers import AutoencoderTiny

CROP = 9  # latents a side: one more than a 64 px crop's 8, so that most outputs see no border
LATENT_NOISE = 0.03  # share of the latents' scale; the denoiser's latents are never perfect
LEARNING_RATE = 2e-3


def as_tensor(images: np.ndarray, device: str) -> torch.Tensor:
    """uint8 [B, h, w, 3] to [B, 3, h, w] in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def reconstruction_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """L1 of values plus L1 of horizontal and vertical differences (edges), both [B, 3, h, w] in [-1, 1]."""
    loss = F.l1_loss(output, target)
    for axis in (2, 3):
        loss = loss + 0.5 * F.l1_loss(output.diff(dim=axis), target.diff(dim=axis))
    return loss


def train_decoder(
    model: AutoencoderTiny,
    images: np.ndarray,
    steps: int,
    state_file: Path,
    seed: int,
    *,
    batch: int = 32,
    learning_rate: float = LEARNING_RATE,
    draw: Draw | None = None,
    log: Callable[[dict], None] = print,
    device: str = "cpu",
    save_every: int = 100,
) -> None:
    """Train `model.decoder` in place; resumes exactly from `state_file`.

    Args:
        model: autoencoder whose encoder is fixed.
        images: uint8 [N, h, w, 3].
        steps: optimiser steps in all; the learning rate falls to zero over them.
        state_file: where progress is kept.
        seed: of crops and noise.
        batch: crops a step.
        learning_rate: its peak.
        draw: picks the images of crops; every image alike where None.
        log: called with a row every 100 steps.
        device: where to train.
        save_every: steps between two saves.
    """
    model.to(device)
    decoder = model.decoder
    optimiser = torch.optim.AdamW(decoder.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
    schedule = one_cycle(optimiser, learning_rate, steps)
    start = restore(state_file, {"decoder": decoder, "optimiser": optimiser, "schedule": schedule})
    pick, began, mean = draw or alike(len(images)), time.time(), None
    for step, (crops, rng) in batches(lambda rng: random_crops(images, batch, rng, pick), (seed, 1), start, steps, workers_for(device)):
        x = as_tensor(crops, device)
        with torch.no_grad():
            latents = model.encoder(x)
            noise = torch.from_numpy(rng.standard_normal(latents.shape, dtype=np.float32)).to(device)
            latents = latents + LATENT_NOISE * noise
        with mixed_precision(device):
            output = decoder(latents)
        loss = reconstruction_loss(output.float(), x)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
        if (step + 1) % 100 == 0:
            rmse = (output.detach().float() - x).div(2).pow(2).mean().sqrt().item()
            log({"stage": "decoder", "step": step + 1, "loss": round(mean, 5), "batch_rmse": round(rmse, 5), "seconds": round(time.time() - began, 1)})
        if (step + 1) % save_every == 0 or step + 1 == steps:
            save_progress(state_file, step + 1, {"decoder": decoder, "optimiser": optimiser, "schedule": schedule})


def one_cycle(optimiser: torch.optim.Optimizer, peak: float, steps: int) -> torch.optim.lr_scheduler.OneCycleLR:
    """Learning rate that rises over a twentieth of the steps, where that is more than one, and falls to zero."""
    warmup = 0.05 if steps >= 20 else 0.0  # OneCycleLR divides by the warm-up's length less one: by zero at 19 steps
    return torch.optim.lr_scheduler.OneCycleLR(optimiser, peak, total_steps=steps + 1, pct_start=warmup)


def random_crops(images: np.ndarray, batch: int, rng: np.random.Generator, draw: Draw) -> np.ndarray:
    """Random crops aligned to the patch grid, mirrored at random: uint8 [batch, 72, 72, 3]."""
    side = CROP * PATCH
    places = (images.shape[1] - side) // PATCH + 1
    out = np.empty((batch, side, side, 3), np.uint8)
    for b in range(batch):
        i, y, x = int(draw(rng, 1)[0]), PATCH * int(rng.integers(places)), PATCH * int(rng.integers(places))
        crop = images[i, y : y + side, x : x + side]
        out[b] = crop[:, ::-1] if rng.random() < 0.5 else crop
    return out
