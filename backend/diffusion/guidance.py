"""One classifier-free-guided UNet call (Ho & Salimans 2022, arXiv 2207.12598), the same in rollout and replay."""

from __future__ import annotations

import torch

from backend.diffusion.backbone import Backbone


def is_guided(guidance: torch.Tensor) -> bool:
    """Whether any guidance differs from 1."""
    return bool((guidance != 1).any())


def guided_prediction(
    backbone: Backbone,
    latents: torch.Tensor,
    timesteps: torch.Tensor,
    embeds: torch.Tensor,
    guidance: torch.Tensor,
    *,
    detach_uncond: bool = False,
    guided: bool | None = None,
) -> torch.Tensor:
    """Guided model output u + g (c - u); unconditional and conditional halves in one forward.

    Args:
        backbone: the frozen model.
        latents: [m, C, H, W] float32.
        timesteps: [m], fractional values allowed.
        embeds: prompt embeddings [m, L, E].
        guidance: g [m]; where all are 1 the unconditional half is not computed.
        guided: whether any g differs from 1, where the caller knows (asking an accelerator costs a wait).
        detach_uncond: no gradient through u (another gradient than the policy's, and a cheaper one).

    Returns:
        [m, C, H, W] float32.
    """
    dtype = backbone.dtype
    x, t, text = latents.to(dtype), timesteps.to(torch.float32), embeds.to(dtype)
    if not (is_guided(guidance) if guided is None else guided):
        return backbone.unet(x, t, encoder_hidden_states=text).sample.float()
    null = backbone.null_embedding.to(dtype).expand(len(x), -1, -1)
    if detach_uncond and torch.is_grad_enabled():
        with torch.no_grad():
            u = backbone.unet(x, t, encoder_hidden_states=null).sample
        c = backbone.unet(x, t, encoder_hidden_states=text).sample
    else:
        u, c = backbone.unet(torch.cat([x, x]), torch.cat([t, t]), encoder_hidden_states=torch.cat([null, text])).sample.chunk(2)
    u, c = u.float(), c.float()
    return u + guidance.float().reshape(-1, 1, 1, 1) * (c - u)
