"""Start values from a passed generator, so that a run's seed decides them and nothing else does."""

from __future__ import annotations

import math

import torch
from torch import nn


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Draw weights and biases of all linear and convolution layers uniformly within 1/sqrt(fan-in) (LeCun et al. 1998, section 4.6)."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            for parameter in (layer.weight, layer.bias):
                if parameter is not None:
                    parameter.data.copy_((torch.rand(parameter.shape, generator=generator) * 2 - 1) * bound)


def time_features(timesteps: torch.Tensor, count: int = 16) -> torch.Tensor:
    """Sines and cosines of t / 1000 at octave frequencies [m, count] float32."""
    octaves = 2.0 ** torch.arange(count // 2, device=timesteps.device, dtype=torch.float32)
    angle = timesteps.float()[:, None] / 1000 * math.pi * octaves
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def pool_text(embeds: torch.Tensor) -> torch.Tensor:
    """One vector per prompt [m, E]: the mean over tokens, standardised per prompt."""
    return torch.nn.functional.layer_norm(embeds.float().mean(dim=1), (embeds.shape[-1],))
