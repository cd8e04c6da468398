"""The critic V(prompt, t), used where advantages come from generalised advantage estimation."""

from __future__ import annotations

import torch
from torch import nn

from backend.policies.initial import initialise, pool_text, time_features

TIME_FEATURES = 16


class ValueNetwork(nn.Module):
    """Expected credit of an image from its prompt and the denoising step.

    Args:
        embed_dim: E.
        generator: draws the start values; the output layer starts at zero.
        hidden: width.
    """

    def __init__(self, embed_dim: int, generator: torch.Generator, hidden: int = 64) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(embed_dim + TIME_FEATURES, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh())
        self.head = nn.Linear(hidden, 1)
        initialise(self, generator)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, embeds: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Values [m] of prompt embeddings [m, L, E] at timesteps [m]."""
        return self.head(self.body(torch.cat([pool_text(embeds), time_features(timesteps, TIME_FEATURES)], dim=1))).squeeze(1)
