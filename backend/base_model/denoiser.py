"""Training of the UNet and the text encoder on latents of rendered images (v-prediction, caption dropout)."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from backend.base_model.batches import batches, workers_for
from backend.base_model.data import Draw, alike, augment
from backend.base_model.linear_code import LinearCode, encode
from backend.base_model.precision import mixed_precision
from backend.base_model.progress import restore, save_progress
from backend.base_model.text import EMBED_DIM, tokenise, with_unknown_words

if TYPE_CHECKING:
    from diffusers import DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

CAPTION_DROPOUT = 0.1  # as in classifier-free guidance, 2207.12598
EMA_DECAY = 0.999
WIDTHS = (64, 128, 128)  # channels of the UNet at 16x16, 8x8 and 4x4
WARMUP = 200  # steps, in a short training a fifth of it
DECAY_SHARE = 0.8  # of the steps: the learning rate falls linearly to zero, which is where a short training gains most


@dataclass(frozen=True)
class Pairs:
    """Training data.

    Attributes:
        images: uint8 [N, h, w, 3].
        aerial: bool [N].
        caption: words the caption of an image anew.
        draw: indices int [B] of a batch; every image alike unless `mixture` or another is given.
    """

    images: np.ndarray
    aerial: np.ndarray
    caption: Callable[[int, np.random.Generator], str]
    draw: Draw | None = None


def build_unet(channels: int) -> UNet2DConditionModel:
    """A UNet of about 7 M parameters for 16x16 latents; attention at 8x8 and 4x4 only, where it is cheap.

    The pooled caption is added to the time embedding too (as DeepFloyd IF does), so that words about texture and light
    reach the 16x16 blocks, which attend to nothing. It starts silent.
    """
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=1,
        block_out_channels=WIDTHS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=EMBED_DIM,
        attention_head_dim=4,
        norm_num_groups=32,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )
    torch.nn.init.zeros_(unet.add_embedding.norm2.weight)
    return unet


def with_pooled_caption(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """The same UNet built anew, with the layers that an earlier recipe did not have; they start silent, so it draws the same."""
    extended = build_unet(unet.config.in_channels)
    extended.load_state_dict(extended.state_dict() | unet.state_dict())
    return extended


def with_plain_attention(unet: UNet2DConditionModel) -> None:
    """On a CPU, for training: the fused kernel's backward pass takes a quarter of a step there, this one's 2 %."""
    from diffusers.models.attention_processor import AttnProcessor

    if unet.device.type == "cpu":
        unet.set_attn_processor(AttnProcessor())


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion's scaled-linear schedule with v-prediction and trailing spacing."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        steps_offset=1,  # unused with trailing spacing; Stable Diffusion's value, which diffusers warns about otherwise
    )


class Denoiser(torch.nn.Module):
    """UNet and text encoder as one module, so that one optimiser and one moving average hold both."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

    def forward(self, latents: torch.Tensor, timesteps: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """v [B, C, H, W] from latents [B, C, H, W], timesteps [B] and token ids [B, L]."""
        return self.unet(latents, timesteps, self.text_encoder(tokens).last_hidden_state).sample


def make_batch(pairs: Pairs, code: LinearCode, tokenizer: CLIPTokenizer, rng: np.random.Generator, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents [B, C, H, W] of augmented images and token ids [B, L] of freshly worded captions, some dropped."""
    index = (pairs.draw or alike(len(pairs.images)))(rng, batch)
    latents = encode(code, augment(pairs.images[index], pairs.aerial[index], rng))
    captions = ["" if rng.random() < CAPTION_DROPOUT else with_unknown_words(pairs.caption(int(i), rng), rng) for i in index]
    return latents, tokenise(tokenizer, captions)


def learning_rate_factor(step: int, steps: int) -> float:
    """Warm-up, plateau, linear fall."""
    return min(1.0, (step + 1) / min(WARMUP, max(1, steps // 5)), max(0.0, (steps - step) / max(1.0, DECAY_SHARE * steps)))


def train_denoiser(
    model: Denoiser,
    pairs: Pairs,
    code: LinearCode,
    tokenizer: CLIPTokenizer,
    steps: int,
    state_file: Path,
    seed: int,
    *,
    batch: int = 64,
    learning_rate: float = 1e-3,
    log: Callable[[dict], None] = print,
    device: str = "cpu",
    save_every: int = 250,
) -> Denoiser:
    """Train in place; resumes exactly from `state_file`, since each step's random numbers follow from its number.

    Returns:
        The moving average of the weights, which is the model that is shipped.
    """
    ema = copy.deepcopy(model).requires_grad_(False).to(device)
    model.to(device).train()
    with_plain_attention(model.unet)
    optimiser = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    start = restore(state_file, {"model": model, "ema": ema, "optimiser": optimiser})
    abar = build_scheduler().alphas_cumprod.to(device)
    began, mean = time.time(), None
    for step, ((latents, tokens), rng) in batches(lambda rng: make_batch(pairs, code, tokenizer, rng, batch), (seed, 2), start, steps, workers_for(device)):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * learning_rate_factor(step, steps)
        loss = step_loss(model, latents.to(device), tokens.to(device), abar, rng, device)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        _update_ema(ema, model, min(EMA_DECAY, (1 + step) / (10 + step)))
        mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
        if (step + 1) % 50 == 0:
            log({"stage": "denoiser", "step": step + 1, "loss": round(mean, 5), "seconds": round(time.time() - began, 1)})
        if (step + 1) % save_every == 0 or step + 1 == steps:
            save_progress(state_file, step + 1, {"model": model, "ema": ema, "optimiser": optimiser})
    return ema.to("cpu")


def step_loss(model: Denoiser, latents: torch.Tensor, tokens: torch.Tensor, abar: torch.Tensor, rng: np.random.Generator, device: str) -> torch.Tensor:
    """Mean squared error of v (2202.00512) at random timesteps."""
    count = len(latents)
    timesteps = torch.from_numpy(((rng.permutation(count) + rng.random(count)) / count * 1000).astype(np.int64)).to(device)  # stratified
    noise = torch.from_numpy(rng.standard_normal(latents.shape, dtype=np.float32)).to(device)
    a = abar[timesteps].sqrt()[:, None, None, None]
    s = (1 - abar[timesteps]).sqrt()[:, None, None, None]
    with mixed_precision(device):
        v = model(a * latents + s * noise, timesteps, tokens)
    return F.mse_loss(v.float(), a * noise - s * latents)


@torch.no_grad()
def _update_ema(ema: Denoiser, model: Denoiser, decay: float) -> None:
    averages, values = list(ema.parameters()), list(model.parameters())
    torch._foreach_lerp_(averages, values, 1 - decay)
