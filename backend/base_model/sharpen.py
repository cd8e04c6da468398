"""Adversarial finish of the decoder: detail that the latents do not hold is drawn as renders have it, not averaged away.

A decoder trained by distances alone answers the mean of all pictures behind a latent, which is blurred. Here a discriminator
of small patches (Isola et al. 2017, arXiv 1611.07004) compares decoded pictures with renders, as in the autoencoders of latent
diffusion (Rombach et al. 2022, 2112.10752), with the hinge loss and a penalty of its gradient at renders (Mescheder et al. 2018,
1801.04406). As there, a perceptual distance (Zhang et al. 2018, 1801.03924, on EfficientNet-Lite0) holds decoded renders to their
renders: what a network sees of texture is neither averaged away nor made up.
Half of what is decoded are latents that the denoiser drew itself, so that its own blur is met too. The encoder stays as it is,
and with it every latent that the denoiser has learned.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from backend.base_model.batches import batches, workers_for
from backend.base_model.data import Draw, alike
from backend.base_model.decoder import CROP, LATENT_NOISE, random_crops, reconstruction_loss
from backend.base_model.progress import restore, save_progress
from backend.features.efficientnet_lite import lite0
from backend.rewards.lpips import LITE_BLOCKS, perceptual_rows

if TYPE_CHECKING:
    from diffusers import AutoencoderTiny, StableDiffusionPipeline

COARSE = 4  # pixels a side of the means that have to stay as they are
FINE_WEIGHT = 0.25  # of the plain reconstruction, where there is a picture to reconstruct
ADVERSARIAL_WEIGHT = 1.0  # norm of the discriminator's gradient by the pictures, against that of the content
PERCEPTUAL_WEIGHT = 2.0  # the same of the perceptual distance's
PENALTY, PENALTY_EVERY = 1.0, 8  # of the discriminator's squared gradient at renders, and the steps between two
AMPLIFIED = 8.0  # what a small mean leaves of a picture is shown so much larger beside it: blur is told by it alone
DECAY = 0.998  # of the moving average of the weights that is kept
WIDTH = 48  # of the discriminator
STEPS, GUIDANCE, BATCH = 10, 7.5, 32  # at which the denoiser draws for it: those of the page and of training


class Discriminator(nn.Module):
    """Patches of 18 pixels: [B, 3, h, w] in [-1, 1] -> [B, 1, h / 4, w / 4], above 0 for renders."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(6, WIDTH, 3, padding=1), nn.LeakyReLU(0.2)]
        for _ in range(2):
            layers += [nn.Conv2d(WIDTH, WIDTH, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(WIDTH, 1, 3, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        mean = F.avg_pool2d(x, 5, stride=1, padding=2, count_include_pad=False)
        return self.layers(torch.cat([x, AMPLIFIED * (x - mean)], dim=1))


def perceptual_distance(trunk: nn.Module, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Mean perceptual distance between pictures of two sets in their order, [B, 3, h, w] in [-1, 1], at the size that they have."""
    first, second = (perceptual_rows(trunk(x, LITE_BLOCKS)) for x in (a, b))
    return (first - second).pow(2).sum(1).mean()


def sharpen_decoder(
    model: AutoencoderTiny,
    images: np.ndarray,
    drawn: torch.Tensor,
    steps: int,
    state_file: Path,
    seed: int,
    *,
    batch: int = 16,
    learning_rate: float = 3e-4,
    draw: Draw | None = None,
    log: Callable[[dict], None] = print,
    device: str = "cpu",
    save_every: int = 100,
) -> None:
    """Train `model.decoder` in place against a discriminator; resumes from `state_file`.

    Args:
        model: autoencoder whose encoder is fixed and whose decoder is trained.
        images: uint8 [N, h, w, 3].
        drawn: latents of the denoiser's own pictures, unscaled, [M, C, h / 8, w / 8].
        steps: optimiser steps in all.
        state_file: where progress is kept.
        seed: of crops and noise.
        batch: crops a step, half of them of `drawn`.
        learning_rate: of the decoder; the discriminator's is twice that.
        draw: picks the images of crops; every image alike where None.
        log: called with a row every 100 steps.
        device: where to train.
        save_every: steps between two saves.
    """
    model.to(device)
    pick, plain = draw or alike(len(images)), copy.deepcopy(model.decoder).requires_grad_(False)
    duel = Duel(model.decoder, learning_rate, seed, device)
    parts = {"plain": plain} | duel.parts()
    start = restore(state_file, parts)
    began, means = time.time(), None
    for step, (crops, rng) in batches(lambda rng: random_crops(images, batch, rng, pick), (seed, 3), start, steps, workers_for(device)):
        x = torch.from_numpy(crops).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        known, own = x[: batch - batch // 2], random_latents(drawn, batch // 2, rng).to(device)
        with torch.no_grad():
            latents = model.encoder(known)
            latents = latents + LATENT_NOISE * torch.from_numpy(rng.standard_normal(latents.shape, dtype=np.float32)).to(device)
            latents, target = torch.cat([latents, own]), torch.cat([known, plain(own)])
        content, unlike, made = duel.decoder_step(latents, target, len(known))
        caught, margin = duel.critic_step(x, made, penalised=step % PENALTY_EVERY == 0)
        duel.follow(step)
        found = np.array([content, unlike, caught, margin])
        means = found if means is None else 0.98 * means + 0.02 * found
        if (step + 1) % 100 == 0:
            row = dict(zip(("loss", "perceptual", "critic_loss", "margin"), (round(float(v), 5) for v in means), strict=True))
            log({"stage": "sharpen", "step": step + 1} | row | {"seconds": round(time.time() - began, 1)})
        if (step + 1) % save_every == 0 or step + 1 == steps:
            save_progress(state_file, step + 1, parts)
    model.decoder.load_state_dict(duel.average.state_dict())


class Duel:
    """Decoder against discriminator, each with its optimiser, and the moving average of the decoder."""

    def __init__(self, decoder: nn.Module, learning_rate: float, seed: int, device: str) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.critic = Discriminator().to(device)
            self.trunk = lite0(device).trunk  # its weights are drawn before they are loaded
        self.decoder, self.average = decoder, copy.deepcopy(decoder).requires_grad_(False)
        self.optimiser = torch.optim.Adam(decoder.parameters(), lr=learning_rate, betas=(0.5, 0.95))
        self.critic_optimiser = torch.optim.Adam(self.critic.parameters(), lr=2 * learning_rate, betas=(0.5, 0.95))

    def parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        """What has to be saved."""
        return {name: getattr(self, name) for name in ("decoder", "critic", "average", "optimiser", "critic_optimiser")}

    def decoder_step(self, latents: torch.Tensor, target: torch.Tensor, known: int) -> tuple[float, float, torch.Tensor]:
        """One step of the decoder; the first `known` targets are renders and held pixel by pixel too.

        Returns:
            Content loss, perceptual distance of the renders, pictures.
        """
        output = self.decoder(latents)
        seen = output.detach().requires_grad_()
        content = F.l1_loss(F.avg_pool2d(seen, COARSE), F.avg_pool2d(target, COARSE)) + FINE_WEIGHT * reconstruction_loss(seen[:known], target[:known])
        self.critic.requires_grad_(False)
        unlike = perceptual_distance(self.trunk, seen[:known], target[:known])
        wanted, coarse, against = (torch.autograd.grad(loss, seen)[0] for loss in (content, unlike, -self.critic(seen).mean()))
        self.critic.requires_grad_(True)
        shares = ((PERCEPTUAL_WEIGHT, coarse), (ADVERSARIAL_WEIGHT, against))
        _step(self.optimiser, self.decoder, output, wanted + sum(g * (weight * wanted.norm() / (g.norm() + 1e-12)) for weight, g in shares))
        return content.item(), unlike.item(), seen.detach()

    def critic_step(self, x: torch.Tensor, made: torch.Tensor, penalised: bool) -> tuple[float, float]:
        """One step of the discriminator on renders and decoded pictures. Returns its loss and how far it holds them apart."""
        x.requires_grad_(penalised)
        real, fake = self.critic(x), self.critic(made)
        caught = F.relu(1 - real).mean() + F.relu(1 + fake).mean()
        if penalised:
            slope = torch.autograd.grad(real.mean((1, 2, 3)).sum(), x, create_graph=True)[0]
            caught = caught + PENALTY * PENALTY_EVERY / 2 * slope.pow(2).sum((1, 2, 3)).mean()
        _step(self.critic_optimiser, self.critic, caught)
        return caught.item(), (real.mean() - fake.mean()).item()

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Move the average on."""
        for kept, new in zip(self.average.parameters(), self.decoder.parameters(), strict=True):
            kept.lerp_(new, 1 - min(DECAY, (step + 1) / (step + 10)))


def draw_latents(pipeline: StableDiffusionPipeline, prompts: Sequence[str], seed: int, size: Sequence[int]) -> np.ndarray:
    """Latents of pictures as the decoder gets them, float32 [P, C, h / 8, w / 8]: one prompt and one generator each."""
    pipeline.set_progress_bar_config(disable=True)
    parts = []
    for start in range(0, len(prompts), BATCH):
        words = list(prompts[start : start + BATCH])
        generators = [torch.Generator().manual_seed(seed * 1_000_000 + start + i) for i in range(len(words))]
        drawn = pipeline(words, height=size[0], width=size[1], num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=generators, output_type="latent")
        parts.append(drawn.images.float().cpu() / pipeline.vae.config.scaling_factor)
    return torch.cat(parts).numpy()


def random_latents(drawn: torch.Tensor, count: int, rng: np.random.Generator) -> torch.Tensor:
    """Random crops of latents [M, C, h, w], not mirrored, since a latent's mirror is not the mirror's latent: [count, C, 9, 9]."""
    rows, columns = (side - CROP + 1 for side in drawn.shape[2:])
    out = []
    for _ in range(count):
        i, y, x = int(rng.integers(len(drawn))), int(rng.integers(rows)), int(rng.integers(columns))
        out.append(drawn[i, :, y : y + CROP, x : x + CROP])
    return torch.stack(out)


def _step(optimiser: torch.optim.Optimizer, model: nn.Module, result: torch.Tensor, gradient: torch.Tensor | None = None) -> None:
    """One step down a loss, or down the given gradient by the model's output."""
    optimiser.zero_grad(set_to_none=True)
    result.backward(gradient)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
