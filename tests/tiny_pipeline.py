"""A Stable-Diffusion-type pipeline with random weights, small enough for tests."""

from __future__ import annotations

from pathlib import Path

import torch

GRAMMAR = "aerial ground view of young old fresh eroded mars crater craters on smooth dusty rocky terrain with sharp soft rims and flat bowl interiors bright dark"
WORDS = tuple(GRAMMAR.split(" "))


def _tokenizer():
    from transformers import CLIPTokenizer

    letters = [chr(c) for c in range(97, 123)]
    vocab = [*letters, *(c + "</w>" for c in letters)]
    merges = []
    for word in WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            if (merge := f"{parts[0]} {parts[1]}") not in merges:
                merges.append(merge)
                vocab.append(parts[0] + parts[1])
            parts = [parts[0] + parts[1], *parts[2:]]
    vocab = list(dict.fromkeys(vocab)) + ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(vocab)}, merges=[tuple(m.split()) for m in merges], model_max_length=16)


def _vae(kind: str, latent_channels: int):
    from diffusers import AutoencoderKL, AutoencoderTiny

    if kind == "tiny":
        return AutoencoderTiny(
            encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1), latent_channels=latent_channels,
            scaling_factor=1.2,
        )  # fmt: skip
    return AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=latent_channels, norm_num_groups=4,
        sample_size=16,
    )  # fmt: skip


def make_tiny_pipeline(folder: str | Path, latent_channels: int = 4, prediction_type: str = "epsilon", vae: str = "kl", timestep_spacing: str = "leading", seed: int = 0) -> Path:
    """Write a pipeline of 8x8 latents and 16x16 images to `folder` (safetensors, diffusers layout).

    Args:
        folder: target; returned as a Path.
        latent_channels: C.
        prediction_type: `epsilon` or `v_prediction`.
        vae: `kl` for AutoencoderKL, `tiny` for AutoencoderTiny.
        timestep_spacing: `leading` or `trailing`.
        seed: of the random weights.
    """
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = _tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=8, in_channels=latent_channels, out_channels=latent_channels, block_out_channels=(16, 16), layers_per_block=1, norm_num_groups=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=16, attention_head_dim=2,
        )  # fmt: skip
        text = CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=16,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        encoder, autoencoder = CLIPTextModel(text), _vae(vae, latent_channels)
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1 if timestep_spacing == "leading" else 0,
        prediction_type=prediction_type, timestep_spacing=timestep_spacing,
    )  # fmt: skip
    pipe = StableDiffusionPipeline(autoencoder, encoder, tokenizer, unet, scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    pipe.save_pretrained(str(folder), safe_serialization=True)
    return Path(folder)
