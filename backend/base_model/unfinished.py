"""The denoiser's own pictures before their last steps, and those steps: what the adversarial finish trains on."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from backend.base_model.precision import mixed_precision
from backend.base_model.text import tokenise
from backend.reference.captions import ATTRIBUTES, caption_targets

if TYPE_CHECKING:
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

SAMPLERS, GUIDANCE, BATCH = (10, 20), 7.5, 32  # DDIM steps of training and of the page, taken in turn
FROM = 299  # timestep from which the last steps are trained (three of ten, six of twenty); a timestep of either sampler
COARSE = 16  # pixels a side of the means of finished pictures that are kept


def draw_unfinished(pipeline: StableDiffusionPipeline, prompts: Sequence[str], seed: int, size: Sequence[int], log: Callable[[dict], None]) -> dict[str, np.ndarray]:
    """Noisy latents at timestep `FROM`, for each sampler those of a share of the prompts.

    Args:
        pipeline: the model so far.
        prompts: P of them, each drawn once; what is over after dividing by the samplers is left out.
        seed: of the noise; each picture has a generator of its own.
        size: height and width of the pictures in pixels.
        log: called with a row of the stage `draw` after every batch.

    Returns:
        `latents` float32 [S, P / S, C, h / 8, w / 8], `tokens` int64 [S, P / S, L], what the prompts `said` float32 [S, P / S, A], and what the
        latents become now: `finished` latents of the same shape, as the decoder gets them, and `coarse` float32 [S, P / S, 3, h / 16, w / 16],
        means of their pictures in [-1, 1].
    """
    pipeline.set_progress_bar_config(disable=True)
    share, out = len(prompts) // len(SAMPLERS), {"latents": [], "tokens": [], "said": [], "finished": [], "coarse": []}
    null, began = embed(pipeline.text_encoder, tokenise(pipeline.tokenizer, [""])), time.time()
    for index, steps in enumerate(SAMPLERS):
        scheduler = last_steps(pipeline.scheduler, steps)
        for start in range(0, share, BATCH):
            first = index * share + start
            words = list(prompts[first : index * share + min(start + BATCH, share)])
            generators = [torch.Generator().manual_seed(seed * 1_000_000 + first + i) for i in range(len(words))]
            latents = pipeline(
                words, height=size[0], width=size[1], num_inference_steps=steps, guidance_scale=GUIDANCE, generator=generators, output_type="latent",
                callback_on_step_end=_stop_before_the_last,
            ).images.float()  # fmt: skip
            tokens = tokenise(pipeline.tokenizer, words)
            with torch.inference_mode():
                finished = finish(pipeline.unet, scheduler, latents, embed(pipeline.text_encoder, tokens), null) / pipeline.vae.config.scaling_factor
                coarse = F.avg_pool2d(pipeline.vae.decode(finished).sample, COARSE)
            for name, value in (("latents", latents), ("tokens", tokens), ("said", said(words)), ("finished", finished), ("coarse", coarse)):
                out[name].append(value.cpu().numpy())
            log({"stage": "draw", "images": first + len(words), "seconds": round(time.time() - began, 1)})
    return {name: np.stack(np.split(np.concatenate(parts), len(SAMPLERS))) for name, parts in out.items()}


def _stop_before_the_last(pipeline: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
    """diffusers' way to end a call early, with the latents as they are."""
    following = pipeline.scheduler.timesteps[step + 1 : step + 2]
    pipeline._interrupt = bool((following <= FROM).all())
    return values


def said(captions: Sequence[str]) -> torch.Tensor:
    """What captions imply for each attribute, [N, A] float32; NaN where they are silent."""
    return torch.tensor([[caption_targets(text)[name] for name in ATTRIBUTES] for text in captions])


@torch.no_grad()
def embed(text_encoder: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """Embeddings [P, L, E] of token ids [P, L], on the text encoder's device."""
    return text_encoder(tokens.to(text_encoder.device)).last_hidden_state


def last_steps(scheduler: DDIMScheduler, steps: int) -> DDIMScheduler:
    """A copy of the scheduler, set to so many steps."""
    own = type(scheduler).from_config(scheduler.config)
    own.set_timesteps(steps)
    return own


def finish(unet: UNet2DConditionModel, scheduler: DDIMScheduler, latents: torch.Tensor, text: torch.Tensor, null: torch.Tensor) -> torch.Tensor:
    """The steps from `FROM` on, with guidance: noisy latents [B, C, h, w] to clean ones, differentiable.

    Args:
        unet: of v-prediction.
        scheduler: of `last_steps`.
        latents: at `FROM`.
        text: [B, L, E].
        null: [1, L, E], of the empty prompt.
    """
    both = torch.cat([null.expand(len(latents), -1, -1), text])
    for timestep in itertools.dropwhile(lambda t: t > FROM, scheduler.timesteps):
        with mixed_precision(latents.device, wanted=torch.is_grad_enabled()):
            without, given = unet(torch.cat([latents, latents]), timestep, both).sample.float().chunk(2)
        latents = scheduler.step(without + GUIDANCE * (given - without), timestep, latents).prev_sample
    return latents
