"""Adversarial finish of the decoder and of the denoiser's last steps: pictures get the texture that renders have.

A decoder trained by distances alone answers the mean of all pictures behind a latent, and a small denoiser the mean of all latents behind
noise: both are blurred, and regressors fitted on renders misread rims and freshness that such pictures do carry. Here a discriminator
(`critic`) compares decoded pictures with renders by the hinge loss. A few of them are renders through the autoencoder; as in the
autoencoders of latent diffusion (Rombach et al. 2022, 2112.10752) a perceptual distance holds them to their renders. The others are the
denoiser's own; of those the coarse picture has to stay. First the decoder learns, then, where steps are given to it, the denoiser,
through its last sampler steps (as in adversarial diffusion distillation, Sauer et al. 2023, 2311.17042) and the decoder, which stays then:
both at once agree on a pattern that no render has. Beside the discriminator it has a `Teacher` of captions. Meanwhile it goes on with its own
loss at all timesteps, so that it stays one of diffusion. The encoder and the text encoder stay as they are.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import get_total_norm

from backend.base_model.batches import batches, workers_for
from backend.base_model.critic import Captions, Discriminator, Sight, hinge, hinge_of_wrong, mean_score, perceptual_distance
from backend.base_model.data import alike
from backend.base_model.decoder import LATENT_NOISE, as_tensor, reconstruction_loss
from backend.base_model.denoiser import Denoiser, Pairs, build_scheduler, make_batch, step_loss, with_plain_attention
from backend.base_model.linear_code import read_code
from backend.base_model.progress import restore, save_progress
from backend.base_model.teacher import BATCH, CALIBRATED, Teacher, Usual, cell_pattern
from backend.base_model.text import tokenise
from backend.base_model.unfinished import COARSE, SAMPLERS, embed, finish, last_steps, said

if TYPE_CHECKING:
    from pathlib import Path

    from diffusers import AutoencoderTiny
    from transformers import CLIPTokenizer

LOOSE = 2  # `COARSE` means a side that are one for the denoiser, which has to change more than texture
KNOWN_COARSE = 4  # pixels a side of the means that decoded renders keep
FINE_WEIGHT = 0.5  # of their plain reconstruction
ADVERSARIAL_WEIGHT = 4.0  # norm of the discriminator's gradient, against that of the content
PERCEPTUAL_WEIGHT = 2.0  # the same of the perceptual distance's
TAUGHT = {"unlike": 3.0, "slopes": 3.0, "typical": 6.0, "pattern": 0.75}  # of the denoiser's latents' gradient: the `Teacher`'s and `cell_pattern`'s, in units of `Usual`
FINISH_WEIGHT = 2.0  # norm of the UNet's gradient by its finished pictures, against that of its own loss
DENOISER_SHARE = 0.04  # of the decoder's learning rate
MISMATCH = 0.5  # weight of renders beside a wrong caption, which the discriminator has to tell too (Reed et al. 2016, 1605.05396)
KNOWN = 4  # every so many pictures of a batch is a render, the others are the denoiser's
SEEN = 64  # renders whose maps say what is usual
DECAY = 0.99  # of the moving averages of the weights that are kept


def sharpen_model(
    vae: AutoencoderTiny,
    denoiser: Denoiser,
    tokenizer: CLIPTokenizer,
    pairs: Pairs,
    drawn: dict[str, np.ndarray],
    steps: int,
    finish_steps: int,
    state_file: Path,
    seed: int,
    *,
    batch: int = 8,
    learning_rate: float = 1e-3,
    log: Callable[[dict], None] = print,
    device: str = "cpu",
    save_every: int = 100,
) -> None:
    """Train `vae.decoder` and `denoiser.unet` in place against a discriminator; resumes exactly from `state_file`.

    Args:
        vae: autoencoder whose encoder is fixed.
        denoiser: whose text encoder is fixed.
        tokenizer: of the captions.
        pairs: renders and their captions.
        drawn: of `draw_unfinished`.
        steps: optimiser steps of the decoder.
        finish_steps: those of the UNet, after them.
        state_file: where progress is kept.
        seed: of the batches and the noise.
        batch: pictures a step, every `KNOWN`th (at least one) of the decoder's a render; 2 or more.
        learning_rate: of the decoder; the discriminator's too, the denoiser's `DENOISER_SHARE` of it.
        log: called with a row every 100 steps, of the stage `sharpen` or `finish`.
        device: where to train.
        save_every: steps between two saves.
    """
    code, rng, pick = read_code(vae.to("cpu")), np.random.default_rng([seed, 5]), pairs.draw or alike(len(pairs.images))
    usual = pick(rng, CALIBRATED)
    captions = [pairs.caption(int(i), rng) for i in usual]
    duel = Duel(vae.to(device), denoiser.to(device), as_tensor(pairs.images[usual], device), captions, tokenizer, learning_rate, seed)
    start, count = restore(state_file, duel.parts()), max(1, batch // KNOWN)
    began, means, end = time.time(), {}, steps + finish_steps

    def make(rng: np.random.Generator) -> tuple[np.ndarray, torch.Tensor, np.ndarray, tuple[torch.Tensor, torch.Tensor]]:
        index, own = pick(rng, batch), rng.integers(0, drawn["latents"].shape[1], batch - count)
        return pairs.images[index], tokenise(tokenizer, [pairs.caption(int(i), rng) for i in index]), own, make_batch(pairs, code, tokenizer, rng, batch)

    for step, ((pictures, words, own, pair), rng) in batches(make, (seed, 3), start, end, workers_for(device)):
        x, sampler = as_tensor(pictures, device), step % len(SAMPLERS)
        chosen = {name: torch.from_numpy(values[sampler, own]).to(device) for name, values in drawn.items()} | {"scheduler": duel.schedulers[sampler]}
        if step == steps:
            began, means = time.time(), {}
            duel.turn_to_denoiser(drawn)
        found = duel.decoder_step(step, x, words, count, chosen, rng) if step < steps else duel.denoiser_step(step - steps, x, words, chosen, pair, rng)
        means = {name: 0.98 * means.get(name, value) + 0.02 * value for name, value in found.items()}
        if (step + 1) % 100 == 0:
            row = {"stage": "sharpen" if step < steps else "finish", "step": step + 1, "seconds": round(time.time() - began, 1)}
            log(row | {name: round(value, 5) for name, value in means.items()})
        if (step + 1) % save_every == 0 or step + 1 == end:
            save_progress(state_file, step + 1, duel.parts())
    duel.settle()


class Duel:
    """Decoder and UNet against the discriminator, each with its optimiser, and the moving averages of the first two.

    Args:
        vae, denoiser: decoder and UNet are trained in place; on the same device.
        renders: [n, 3, h, w] in [-1, 1], on that device; see `Sight` and `Teacher`.
        captions: n, theirs; see `Captions`.
        tokenizer: of the captions.
        learning_rate: of the decoder.
        seed: of the discriminator's first weights.
    """

    def __init__(self, vae: AutoencoderTiny, denoiser: Denoiser, renders: torch.Tensor, captions: list[str], tokenizer: CLIPTokenizer, learning_rate: float, seed: int) -> None:
        self.vae, self.denoiser, self.device = vae, denoiser, renders.device
        self.decoder, self.unet = vae.decoder.train(), denoiser.unet.train()
        denoiser.requires_grad_(False)
        self.decoder_average, self.unet_average = (copy.deepcopy(part).requires_grad_(False) for part in (self.decoder, self.unet))
        self.unet.requires_grad_(True)
        with_plain_attention(self.unet)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.sight = Sight(renders[:SEEN])  # its weights are drawn before they are loaded
        self.captions = Captions(denoiser.text_encoder, tokenise(tokenizer, captions[:SEEN]))
        self.teacher = Teacher(self.sight, renders, said(captions))
        self.units = nn.ModuleDict({name: Usual() for name in TAUGHT}).to(self.device)
        self.rate, self.seed = learning_rate, seed
        self.decoder_optimiser = torch.optim.Adam(self.decoder.parameters(), lr=self.rate, betas=(0.5, 0.95))
        self.unet_optimiser = torch.optim.Adam(self.unet.parameters(), lr=DENOISER_SHARE * self.rate, betas=(0.5, 0.99))
        self._new_critic()
        scheduler = build_scheduler()
        self.schedulers, self.abar = [last_steps(scheduler, steps) for steps in SAMPLERS], scheduler.alphas_cumprod.to(self.device)
        self.null = embed(denoiser.text_encoder, tokenise(tokenizer, [""]))

    def _new_critic(self) -> None:
        """A discriminator that knows nothing yet."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)
            self.critic = Discriminator([mean.shape[1] for mean in self.sight.mean], self.captions.length).to(self.device)
        self.critic_optimiser = torch.optim.Adam(self.critic.parameters(), lr=self.rate, betas=(0.5, 0.95))

    def parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        """What has to be saved."""
        names = ("decoder", "unet", "critic", "decoder_average", "unet_average", "decoder_optimiser", "unet_optimiser", "critic_optimiser", "teacher", "units")
        return {name: getattr(self, name) for name in names}

    def settle(self) -> None:
        """Decoder and UNet become their averages."""
        self.decoder.load_state_dict(self.decoder_average.state_dict())
        self.unet.load_state_dict(self.unet_average.state_dict())
        self.denoiser.requires_grad_(False)

    def decoder_step(self, step: int, x: torch.Tensor, words: torch.Tensor, count: int, own: dict[str, Any], rng: np.random.Generator) -> dict[str, float]:
        """One step of decoder and discriminator.

        Args:
            step: its number.
            x: renders [B, 3, h, w] in [-1, 1]; the first `count` go through the autoencoder, all are shown to the discriminator.
            words: token ids [B, L] of their captions.
            count: see `x`.
            own: `finished` latents, `tokens` and `coarse` of B - count of the denoiser's pictures.
            rng: of the noise.

        Returns:
            Content loss `loss`, `perceptual` distance of the renders, the discriminator's `critic_loss`, and the `margin` by which it holds both apart.
        """
        with torch.no_grad():
            known = self.vae.encoder(x[:count])
            known = known + LATENT_NOISE * torch.from_numpy(rng.standard_normal(known.shape, dtype=np.float32)).to(self.device)
            real, latents = self.sight(x), torch.cat([known, own["finished"]])
        of_real = self.captions(words)
        captions = torch.cat([of_real[:count], self.captions(own["tokens"])])
        output = self.decoder(latents)
        seen = output.detach().requires_grad_()
        maps = self.sight(seen)
        content = _content(seen, x[:count], own["coarse"])
        unlike = perceptual_distance([m[:count] for m in maps], [m[:count] for m in real])
        wanted, coarse, away = (torch.autograd.grad(loss, seen, retain_graph=True)[0] for loss in (content, unlike, self._against(maps, captions)))
        shares = ((PERCEPTUAL_WEIGHT, coarse), (ADVERSARIAL_WEIGHT, away))
        self.decoder_optimiser.zero_grad(set_to_none=True)
        output.backward(wanted + sum(g * (weight * wanted.norm() / (g.norm() + 1e-12)) for weight, g in shares))
        _descend(self.decoder_optimiser, self.decoder)
        follow(self.decoder_average, self.decoder, step)
        return {"loss": content.item(), "perceptual": unlike.item()} | self._critic_step(real, of_real, maps, captions)

    def denoiser_step(
        self, step: int, x: torch.Tensor, words: torch.Tensor, own: dict[str, Any], pair: tuple[torch.Tensor, torch.Tensor], rng: np.random.Generator
    ) -> dict[str, float]:
        """One step of UNet and discriminator; the decoder stays as it is.

        Args:
            step: its number among those after `turn_to_denoiser`.
            x: renders [B, 3, h, w] in [-1, 1] for the discriminator.
            words: token ids [B, L] of their captions.
            own: `latents`, `tokens`, `said`, `coarse` and `scheduler` of unfinished pictures.
            pair: latents and tokens for the denoiser's own loss.
            rng: of the noise.

        Returns:
            Content loss `loss`, those of `TAUGHT`, the denoiser's own `denoiser_loss`, the discriminator's `critic_loss`, and the `margin` by which it
            holds both apart.
        """
        finished = self._finish(own)
        latents = finished.detach().requires_grad_()
        seen = self.decoder(latents)
        maps, captions = self.sight(seen), self.captions(own["tokens"])
        content = F.l1_loss(F.avg_pool2d(seen, LOOSE * COARSE), F.avg_pool2d(own["coarse"], LOOSE))
        taught = self.teacher(maps, own["said"]) | {"pattern": cell_pattern(seen)}
        wanted, away, *rest = (torch.autograd.grad(loss, latents, retain_graph=True)[0] for loss in (content, self._against(maps, captions), *taught.values()))
        gradient = wanted / (wanted.norm() + 1e-12) + ADVERSARIAL_WEIGHT * away / (away.norm() + 1e-12)
        gradient = gradient + sum(TAUGHT[name] * self.units[name](part) for name, part in zip(taught, rest, strict=True))
        weights = list(self.unet.parameters())
        by_finish = torch.autograd.grad(finished, weights, gradient)
        plain = step_loss(self.denoiser, pair[0].to(self.device), pair[1].to(self.device), self.abar, rng, str(self.device))
        by_itself = torch.autograd.grad(plain, weights)
        share = FINISH_WEIGHT * get_total_norm(by_itself) / (get_total_norm(by_finish) + 1e-12)
        for weight, first, second in zip(weights, by_itself, by_finish, strict=True):
            weight.grad = first + share * second
        _descend(self.unet_optimiser, self.unet)
        with torch.no_grad():
            real = self.sight(x)
        follow(self.unet_average, self.unet, step)
        losses = {"loss": content, "denoiser_loss": plain} | taught
        return {name: loss.item() for name, loss in losses.items()} | self._critic_step(real, self.captions(words), maps, captions)

    @torch.no_grad()
    def turn_to_denoiser(self, drawn: dict[str, np.ndarray]) -> None:
        """From here on the decoder is its average, the discriminator learns anew, and the teacher knows what the denoiser has drawn so far (`draw_unfinished`)."""
        self.decoder.load_state_dict(self.decoder_average.state_dict())
        self._new_critic()
        for start in range(0, min(CALIBRATED, drawn["finished"].shape[1]), BATCH):
            finished, words = (torch.from_numpy(np.concatenate(drawn[name][:, start : start + BATCH])) for name in ("finished", "said"))
            self.teacher.start_from(self.sight(self.decoder(finished.to(self.device))), words)

    def _finish(self, own: dict[str, Any]) -> torch.Tensor:
        """Latents as the decoder gets them, differentiable."""
        text = embed(self.denoiser.text_encoder, own["tokens"])
        return finish(self.unet, own["scheduler"], own["latents"], text, self.null) / self.vae.config.scaling_factor

    def _against(self, maps: list[torch.Tensor], captions: torch.Tensor) -> torch.Tensor:
        """What falls as the discriminator takes pictures for renders of their captions."""
        return -mean_score(self.critic(self.sight.standardised(maps), captions))

    def _critic_step(self, real: list[torch.Tensor], of_real: torch.Tensor, maps: list[torch.Tensor], captions: torch.Tensor) -> dict[str, float]:
        """The discriminator's loss and how far it holds both apart; a render beside another's caption counts as half a drawn picture."""
        seen, drawn = (self.sight.standardised([m.detach() for m in kind]) for kind in (real, maps))
        scores = [self.critic(seen, of_real), self.critic(drawn, captions)]
        caught = hinge(*scores) + MISMATCH * hinge_of_wrong(self.critic(seen, of_real.roll(1, 0)))
        self.critic_optimiser.zero_grad(set_to_none=True)
        caught.backward()
        _descend(self.critic_optimiser, self.critic)
        return {"critic_loss": caught.item(), "margin": (mean_score(scores[0]) - mean_score(scores[1])).item()}


@torch.no_grad()
def follow(average: nn.Module, part: nn.Module, step: int) -> None:
    """Move a moving average on."""
    torch._foreach_lerp_(list(average.parameters()), list(part.parameters()), 1 - min(DECAY, (step + 1) / (step + 10)))


def _content(seen: torch.Tensor, known: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
    """What has to stay: means of `KNOWN_COARSE` pixels and, more or less, pixels of the renders, which come first; means of `COARSE` of the others."""
    decoded, own = seen[: len(known)], seen[len(known) :]
    loss = F.l1_loss(F.avg_pool2d(decoded, KNOWN_COARSE), F.avg_pool2d(known, KNOWN_COARSE)) + FINE_WEIGHT * reconstruction_loss(decoded, known)
    return loss + F.l1_loss(F.avg_pool2d(own, COARSE), coarse)


def _descend(optimiser: torch.optim.Optimizer, model: nn.Module) -> None:
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
