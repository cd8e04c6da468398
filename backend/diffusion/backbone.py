"""The frozen diffusion model: a pipeline folder or hub id of the kind of Stable Diffusion 1 and 2, conditioned by text alone."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch

from backend.diffusion.kernel import PREDICTIONS
from backend.diffusion.schedule import Schedule, stock_schedule
from backend.errors import InputError

LOADING = threading.Lock()  # while it loads, the library swaps functions of torch for the whole process: two at once would meet weightless tensors
ENCODE_CHUNK = 64
# Pixels that the autoencoder meets at once; Stable Diffusion's takes 0.75 GiB for each image of 512 x 512, in float32.
# On a CPU the decoder's maps of few images stay in its cache: four of 128 x 128 were measured nearly twice as fast as 16.
CODED_PIXELS, CODED_PIXELS_CPU = 32 * 128**2, 4 * 128**2


@dataclass
class Backbone:
    """The parts of a latent diffusion pipeline, frozen and in evaluation mode.

    Attributes:
        unet: noise predictor, `unet(latents [b,C,H,W], t [b], encoder_hidden_states [b,L,E])`.
        vae: AutoencoderKL, AutoencoderTiny or another with `decode(latents).sample` and a scaling factor.
        scheduler: a DDIMScheduler of the pipeline's own noise schedule and timestep spacing.
        latent_shape: (C, H, W).
        alphas_cumprod: float64 [levels].
        prediction_type: `epsilon`, `v_prediction` or `sample`.
        null_embedding: [L, E] of the empty prompt.
        source: the folder or hub id it was loaded from.
        sliced: the autoencoder meets one image at a time.
    """

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    latent_shape: tuple[int, int, int]
    alphas_cumprod: torch.Tensor
    prediction_type: str
    device: torch.device
    dtype: torch.dtype
    source: str
    null_embedding: torch.Tensor = None
    sliced: bool = False

    @property
    def image_size(self) -> tuple[int, int]:
        """(h, w) of the images in pixels."""
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        return factor * self.latent_shape[1], factor * self.latent_shape[2]

    def images_within(self, pixels: int) -> int:
        """How many images have together at most so many pixels; at least one, and no more where they are sliced."""
        return 1 if self.sliced else max(1, pixels // math.prod(self.image_size))

    @property
    def _coded_at_once(self) -> int:
        return self.images_within(CODED_PIXELS_CPU if self.device.type == "cpu" else CODED_PIXELS)

    def schedule(self, steps: int) -> Schedule:
        """The stock DDIM schedule of T steps, on the backbone's device."""
        return stock_schedule(self.scheduler, steps, self.device)

    def save_memory(self) -> None:
        """From now on UNet and autoencoder recompute their activations in the backward pass, instead of holding them."""
        for part in (self.unet, self.vae):
            if part._supports_gradient_checkpointing:  # diffusers has no public question, and enabling raises where there is none
                part.enable_gradient_checkpointing()

    def encode(self, prompts: Sequence[str]) -> torch.Tensor:
        """Text embeddings [P, L, E] float32; longer prompts than the encoder's L tokens are cut, as in diffusers."""
        rows = []
        with torch.no_grad():
            for start in range(0, len(prompts), ENCODE_CHUNK):
                tokens = self.tokenizer(
                    list(prompts[start : start + ENCODE_CHUNK]), padding="max_length", max_length=self.tokenizer.model_max_length, truncation=True, return_tensors="pt"
                )
                uses_mask = getattr(self.text_encoder.config, "use_attention_mask", False)
                mask = tokens.attention_mask.to(self.device) if uses_mask else None
                rows.append(self.text_encoder(tokens.input_ids.to(self.device), attention_mask=mask)[0].float())
        if not rows:
            raise InputError("no prompts to encode: give at least one", field="train_prompts")
        return torch.cat(rows)

    def cut(self, prompts: Sequence[str]) -> list[int]:
        """Indices of the prompts whose end the text encoder does not see: they have more than its L tokens."""
        tokens = self.tokenizer(list(prompts), truncation=False, verbose=False).input_ids
        return [index for index, own in enumerate(tokens) if len(own) > self.tokenizer.model_max_length]

    def decode(self, latents: torch.Tensor, preserve_gradients: bool = False) -> torch.Tensor:
        """Images [B, 3, h, w] float32 in [0, 1] of latents [B, C, H, W]."""
        shift = getattr(self.vae.config, "shift_factor", None) or 0.0
        images = []
        with torch.set_grad_enabled(preserve_gradients):
            for chunk in latents.split(self._coded_at_once):
                scaled = (chunk / self.vae.config.scaling_factor + shift).to(self.vae.dtype)
                images.append((self.vae.decode(scaled).sample.float() / 2 + 0.5).clamp(0, 1))
        return torch.cat(images)

    @torch.no_grad()
    def reconstruct(self, images: torch.Tensor) -> torch.Tensor:
        """Images through the autoencoder and back: [B, 3, *, *] in [0, 1] -> [B, 3, h, w] at the model's own size, the mode where codes are drawn."""
        shift = getattr(self.vae.config, "shift_factor", None) or 0.0
        parts = []
        for chunk in images.split(self._coded_at_once):
            sized = torch.nn.functional.interpolate(chunk.to(self.device), self.image_size, mode="bilinear", antialias=True, align_corners=False)
            code = self.vae.encode((sized * 2 - 1).to(self.vae.dtype))
            latents = code.latent_dist.mode() if hasattr(code, "latent_dist") else code.latents
            parts.append(self.decode((latents.float() - shift) * self.vae.config.scaling_factor).cpu())
        return torch.cat(parts)


def load_backbone(path_or_id: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Backbone:
    """Load and freeze a pipeline.

    Args:
        path_or_id: pipeline folder in diffusers' layout (safetensors), or a hub id `owner/name`.
        device: where it runs.
        dtype: of the frozen weights; latents and log-probs are float32 always.

    Raises:
        InputError: the folder is missing, is no pipeline, holds no safetensors weights, or cannot be trained here; or the hub id is neither cached nor within reach.
    """
    folder = Path(path_or_id)
    kwargs: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, "safety_checker": None, "requires_safety_checker": False}
    if folder.is_dir():
        kwargs |= _check_folder(folder)
    elif str(path_or_id).count("/") != 1 or str(path_or_id)[0] in "./~" or Path(folder.parts[0]).is_dir():
        raise InputError(f"base_model {str(path_or_id)!r}: no such folder; run `make base-model`, or name a diffusers pipeline folder or hub id", field="base_model")
    return backbone_from_pipeline(_load_pipeline(str(path_or_id), kwargs, folder.is_dir()), device, dtype, str(path_or_id))


def _load_pipeline(name: str, kwargs: dict[str, Any], here: bool) -> Any:
    """The StableDiffusionPipeline of a folder that is here, or of a hub id, whose files may all be the half-precision ones."""
    from diffusers import StableDiffusionPipeline

    try:
        with LOADING:
            return StableDiffusionPipeline.from_pretrained(name, **kwargs)
    except (OSError, ValueError, KeyError) as error:
        if not here:
            with suppress(OSError, ValueError, KeyError), LOADING:
                return StableDiffusionPipeline.from_pretrained(name, variant="fp16", **kwargs)
        reason = shorten(str(error), 200, placeholder=" …")
        if here:
            raise InputError(f"base_model {name!r} cannot be loaded ({reason}): give a complete diffusers pipeline with safetensors weights", field="base_model") from error
        remedy = f"go online once (`hf download {name}`), check the id and your access to it, or name a folder"
        raise InputError(f"base_model {name!r} is no folder here and cannot be loaded from the hub ({reason}): {remedy}", field="base_model") from error


def _check_folder(folder: Path) -> dict[str, str]:
    """What `from_pretrained` must be told of this folder; InputError for one without a pipeline or without weights."""
    if not (folder / "model_index.json").is_file():
        raise InputError(f"base_model {str(folder)!r} has no model_index.json: name the folder of a diffusers pipeline, or run `make base-model`", field="base_model")
    variant = {}
    for part in ("unet", "vae", "text_encoder"):
        weights = [p.name for p in (folder / part).glob("*.safetensors")]
        if not weights:
            raise InputError(f"base_model {str(folder)!r} has no weights in {part}/ (*.safetensors): run `make base-model`, or download the complete model", field="base_model")
        if all(".fp16." in name for name in weights):
            variant = {"variant": "fp16"}
    return variant


def _check_kind(pipe: Any, prediction_type: str, source: str) -> None:
    """InputError for a pipeline whose UNet cannot be called with latents, time and text alone (SDXL, inpainting, ...), or whose output no step here understands."""
    unet, latents = pipe.unet.config, pipe.vae.config.latent_channels
    found = []
    if not unet.in_channels == unet.out_channels == latents:
        found.append(f"its UNet takes {unet.in_channels} channels and gives {unet.out_channels}, the autoencoder's latents have {latents}")
    if unet.addition_embed_type not in (None, "text") or unet.encoder_hid_dim_type not in (None, "text_proj"):
        found.append(f"its UNet wants more than a text ({unet.addition_embed_type or unet.encoder_hid_dim_type})")
    if unet.class_embed_type is not None or unet.num_class_embeds is not None:
        found.append("its UNet wants a class or a noise level of the input")
    if prediction_type not in PREDICTIONS:
        found.append(f"it predicts {prediction_type!r}, not {', '.join(PREDICTIONS)}")
    if found:
        raise InputError(f"base_model {source!r} cannot be trained: {'; '.join(found)}. Give a text-to-image pipeline like Stable Diffusion 1.x or 2.x", field="base_model")


def backbone_from_pipeline(pipe: Any, device: torch.device | str, dtype: torch.dtype, source: str) -> Backbone:
    """Freeze the parts of a loaded StableDiffusionPipeline.

    Raises:
        InputError: the sampler's settings have no DDIM counterpart here, or the model needs more than latents, time and text.
    """
    from diffusers import DDIMScheduler

    # Another sampler's file may not say either, and DDIM's own defaults are those of models of pixels: latents are never cut, and the last step ends at the first level.
    scheduler = DDIMScheduler.from_config({"set_alpha_to_one": False, **pipe.scheduler.config}, clip_sample=False)
    if scheduler.config.thresholding:
        raise InputError(f"base_model {source!r} uses dynamic thresholding, which has no Gaussian step: choose another base model", field="base_model")
    _check_kind(pipe, scheduler.config.prediction_type, source)
    unet, vae, text_encoder = pipe.unet, pipe.vae, pipe.text_encoder
    for part in (unet, vae, text_encoder):
        part.to(device).eval().requires_grad_(False)
    if getattr(vae.config, "force_upcast", False):
        vae.to(torch.float32)
    size = unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    backbone = Backbone(
        unet=unet,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=pipe.tokenizer,
        scheduler=scheduler,
        latent_shape=(unet.config.in_channels, height, width),
        alphas_cumprod=scheduler.alphas_cumprod.to(torch.float64).to(device),
        prediction_type=scheduler.config.prediction_type,
        device=torch.device(device),
        dtype=dtype,
        source=source,
    )
    backbone.null_embedding = backbone.encode([""])[0]
    return backbone
