"""Adversarial finish of the decoder: detail that the latents do not hold is drawn as renders have it, not averaged away.

A decoder trained by distances alone answers the mean of all pictures behind a latent, which is blurred; and a small denoiser's latents
are blurred themselves, so that regressors fitted on renders misread rims and freshness that its pictures do carry. Here a discriminator
(`critic`) compares whole decoded pictures with renders by the hinge loss. As in the autoencoders of latent diffusion (Rombach et al. 2022,
2112.10752) a perceptual distance holds decoded renders to their renders. Most of what is decoded are latents that the denoiser drew
itself; of those only the coarse picture has to stay. The encoder stays as it is, and with it every latent that the denoiser has learned.
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
from backend.base_model.critic import Discriminator, Sight, hinge, mean_score, perceptual_distance
from backend.base_model.data import Draw, alike
from backend.base_model.decoder import LATENT_NOISE, reconstruction_loss
from backend.base_model.progress import restore, save_progress

if TYPE_CHECKING:
    from diffusers import AutoencoderTiny, StableDiffusionPipeline

COARSE, OWN_COARSE = 4, 16  # pixels a side of the means that have to stay as they are, of renders and of the denoiser's pictures
FINE_WEIGHT = 0.5  # of the plain reconstruction, where there is a picture to reconstruct
ADVERSARIAL_WEIGHT = 4.0  # norm of the discriminator's gradient by the pictures, against that of the content
PERCEPTUAL_WEIGHT = 2.0  # the same of the perceptual distance's
KNOWN = 4  # every so many pictures of a batch is a render, the others are the denoiser's
SEEN = 64  # renders whose maps say what is usual
DECAY = 0.998  # of the moving average of the weights that is kept
STEPS, GUIDANCE, BATCH = (10, 20), 7.5, 32  # at which the denoiser draws for it: those of training and of the page, in turn


def sharpen_decoder(
    model: AutoencoderTiny,
    images: np.ndarray,
    drawn: torch.Tensor,
    steps: int,
    state_file: Path,
    seed: int,
    *,
    batch: int = 8,
    learning_rate: float = 1e-3,
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
        seed: of the batches and the noise.
        batch: pictures a step, every `KNOWN`th (at least one) a decoded render.
        learning_rate: of the decoder; the discriminator's is twice that.
        draw: picks the images; every image alike where None.
        log: called with a row every 100 steps.
        device: where to train.
        save_every: steps between two saves.
    """
    model.to(device)
    pick, plain = draw or alike(len(images)), copy.deepcopy(model.decoder).requires_grad_(False)
    duel = Duel(model.decoder, _as_tensor(images[:SEEN], device), learning_rate, seed)
    parts = {"plain": plain} | duel.parts()
    start, count = restore(state_file, parts), max(1, batch // KNOWN)
    began, means = time.time(), None

    def make(rng: np.random.Generator) -> tuple[np.ndarray, torch.Tensor]:
        return images[pick(rng, batch)], drawn[torch.from_numpy(rng.integers(0, len(drawn), batch - count))]

    for step, ((pictures, own), rng) in batches(make, (seed, 3), start, steps, workers_for(device)):
        x, own = _as_tensor(pictures, device), own.to(device)
        with torch.no_grad():
            latents = model.encoder(x[:count])
            latents = latents + LATENT_NOISE * torch.from_numpy(rng.standard_normal(latents.shape, dtype=np.float32)).to(device)
            latents, target = torch.cat([latents, own]), torch.cat([x[:count], plain(own)])
        found = np.array(duel.step(latents, target, x, count, step))
        means = found if means is None else 0.98 * means + 0.02 * found
        if (step + 1) % 100 == 0:
            row = dict(zip(("loss", "perceptual", "critic_loss", "margin"), (round(float(v), 5) for v in means), strict=True))
            log({"stage": "sharpen", "step": step + 1} | row | {"seconds": round(time.time() - began, 1)})
        if (step + 1) % save_every == 0 or step + 1 == steps:
            save_progress(state_file, step + 1, parts)
    model.decoder.load_state_dict(duel.average.state_dict())


def _as_tensor(images: np.ndarray, device: str) -> torch.Tensor:
    """uint8 [B, h, w, 3] to [B, 3, h, w] in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


class Duel:
    """Decoder against discriminator, each with its optimiser, and the moving average of the decoder.

    Args:
        decoder: trained in place.
        renders: [n, 3, h, w] in [-1, 1], on the decoder's device; see `Sight`.
        learning_rate: of the decoder.
        seed: of the discriminator's first weights.
    """

    def __init__(self, decoder: nn.Module, renders: torch.Tensor, learning_rate: float, seed: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.sight = Sight(renders)  # its weights are drawn before they are loaded
            self.critic = Discriminator([mean.shape[1] for mean in self.sight.mean]).to(renders.device)
        self.decoder, self.average = decoder, copy.deepcopy(decoder).requires_grad_(False)
        self.optimiser = torch.optim.Adam(decoder.parameters(), lr=learning_rate, betas=(0.5, 0.95))
        self.critic_optimiser = torch.optim.Adam(self.critic.parameters(), lr=2 * learning_rate, betas=(0.5, 0.95))

    def parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        """What has to be saved."""
        return {name: getattr(self, name) for name in ("decoder", "critic", "average", "optimiser", "critic_optimiser")}

    def step(self, latents: torch.Tensor, target: torch.Tensor, x: torch.Tensor, count: int, step: int) -> tuple[float, float, float, float]:
        """One step of both.

        Args:
            latents: [B, C, h / 8, w / 8], those of renders first.
            target: [B, 3, h, w] in [-1, 1], what they are held to.
            x: renders [B', 3, h, w] in [-1, 1], the first `count` of them the targets'.
            count: how many of the latents are renders'.
            step: number of the step.

        Returns:
            Content loss, perceptual distance of the renders, the discriminator's loss, and how far it holds both apart.
        """
        output = self.decoder(latents)
        seen = output.detach().requires_grad_()
        maps = self.sight(seen)
        with torch.no_grad():
            real = self.sight(x)
        content = _content(seen, target, count)
        unlike = perceptual_distance([m[:count] for m in maps], [m[:count] for m in real])
        against = -mean_score(self.critic(self.sight.standardised(maps)))
        wanted, coarse, away = (torch.autograd.grad(loss, seen, retain_graph=True)[0] for loss in (content, unlike, against))
        shares = ((PERCEPTUAL_WEIGHT, coarse), (ADVERSARIAL_WEIGHT, away))
        _step(self.optimiser, self.decoder, output, wanted + sum(g * (weight * wanted.norm() / (g.norm() + 1e-12)) for weight, g in shares))
        scores = [self.critic(self.sight.standardised([m.detach() for m in kind])) for kind in (real, maps)]
        caught = hinge(*scores)
        _step(self.critic_optimiser, self.critic, caught)
        self._follow(step)
        return content.item(), unlike.item(), caught.item(), (mean_score(scores[0]) - mean_score(scores[1])).item()

    @torch.no_grad()
    def _follow(self, step: int) -> None:
        """Move the average on."""
        for kept, new in zip(self.average.parameters(), self.decoder.parameters(), strict=True):
            kept.lerp_(new, 1 - min(DECAY, (step + 1) / (step + 10)))


def _content(seen: torch.Tensor, target: torch.Tensor, count: int) -> torch.Tensor:
    """What has to stay: means of `COARSE` pixels and, more or less, pixels of the first `count` pictures, means of `OWN_COARSE` of the others."""
    loss = F.l1_loss(F.avg_pool2d(seen[:count], COARSE), F.avg_pool2d(target[:count], COARSE)) + FINE_WEIGHT * reconstruction_loss(seen[:count], target[:count])
    return loss + F.l1_loss(F.avg_pool2d(seen[count:], OWN_COARSE), F.avg_pool2d(target[count:], OWN_COARSE))


def draw_latents(pipeline: StableDiffusionPipeline, prompts: Sequence[str], seed: int, size: Sequence[int]) -> np.ndarray:
    """Latents of pictures as the decoder gets them, float32 [P, C, h / 8, w / 8]: one prompt and one generator each."""
    pipeline.set_progress_bar_config(disable=True)
    parts = []
    for start in range(0, len(prompts), BATCH):
        words, steps = list(prompts[start : start + BATCH]), STEPS[start // BATCH % len(STEPS)]
        generators = [torch.Generator().manual_seed(seed * 1_000_000 + start + i) for i in range(len(words))]
        drawn = pipeline(words, height=size[0], width=size[1], num_inference_steps=steps, guidance_scale=GUIDANCE, generator=generators, output_type="latent")
        parts.append(drawn.images.float().cpu() / pipeline.vae.config.scaling_factor)
    return torch.cat(parts).numpy()


def _step(optimiser: torch.optim.Optimizer, model: nn.Module, result: torch.Tensor, gradient: torch.Tensor | None = None) -> None:
    """One step down a loss, or down the given gradient by the model's output."""
    optimiser.zero_grad(set_to_none=True)
    result.backward(gradient)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
