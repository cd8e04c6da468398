"""DIVERSITY_POLICY: a small network that pushes the latents in the window; the model itself stays as it is."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from backend.config import TrainConfig
from backend.diffusion.backbone import Backbone
from backend.diffusion.kernel import Gaussian, denoise, predict_clean
from backend.diffusion.noise import NoiseSource, mix
from backend.diffusion.sampler import Action, StepOutcome, StepState
from backend.diffusion.trajectory import Transitions
from backend.policies.base import Policy
from backend.policies.initial import initialise, pool_text, time_features
from backend.policies.spread import LogStd

INIT_STREAM = 1 << 23
HIDDEN = 64
TIME_FEATURES = 16
FINENESS = 0.3  # part of tanh's range in one unit of u: noise that is as wide as the push itself would spoil the rollouts
MEAN_GAIN = 20.0  # lets the mean cross its useful range within a hundred updates at the common learning rate


class PushNetwork(nn.Module):
    """Means of the push from latents, the model's clean estimate, text and time; the output layer starts at zero.

    Args:
        channels: C.
        embed_dim: E.
        generator: draws the start values.
    """

    def __init__(self, channels: int, embed_dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.enter = nn.Conv2d(2 * channels, HIDDEN, 3, padding=1)
        self.condition = nn.Linear(embed_dim + TIME_FEATURES, 2 * HIDDEN)
        self.middle = nn.Conv2d(HIDDEN, HIDDEN, 3, padding=1)
        self.whole = nn.Linear(HIDDEN, HIDDEN)
        self.gains = nn.Conv2d(HIDDEN, channels, 1)  # not named as in the policies that pushed blocks or patterns: their weights have these shapes and another meaning
        initialise(self, generator)
        nn.init.zeros_(self.gains.weight)
        nn.init.zeros_(self.gains.bias)

    def forward(self, state: torch.Tensor, embeds: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Means [m, C, H, W] of states [m, 2C, H, W], prompt embeddings [m, L, E] and timesteps [m]."""
        scale, shift = self.condition(torch.cat([pool_text(embeds), time_features(timesteps, TIME_FEATURES)], dim=1))[:, :, None, None].chunk(2, dim=1)
        x = functional.silu(self.enter(state) * (1 + scale) + shift)
        x = x + self.whole(x.mean(dim=(2, 3)))[:, :, None, None]
        return self.gains(functional.silu(self.middle(x)))


class DiversityPolicy(Policy):
    """After a deterministic DDIM step in the window, what is drawn is strengthened or weakened by a sampled bounded push.

    The push is scale * tanh(FINENESS * u) * tanh(clean - its mean over the picture), u Gaussian: where the model's clean estimate has nothing of a
    channel, nothing is added. A channel holds a pattern of 8 x 8 pixels, so the same number added all over a region would be a lattice, or a cast.
    The states (latents and clean estimate) are recorded, so that replay runs this network alone; an update needs no graph of the UNet but that of the
    pathwise gradient, which is walked back through every step behind the window's first.
    Scored is u before the squashing, which is free of parameters and cancels in ratio and KL.
    """

    default_clip_nats = 50.0
    learns_std = True
    # Its noise is thirty times narrower than the diffusion's, so nats are a thousandfold. With units of 1000 it was the penalty that ended the learning
    # (docs/results/trials.md).
    kl_unit = 4000.0

    def __init__(self, config: TrainConfig, backbone: Backbone) -> None:
        super().__init__(config, backbone)
        channels = backbone.latent_shape[0]
        generator = torch.Generator().manual_seed(mix(config.seed, INIT_STREAM))
        self.network = PushNetwork(channels, backbone.null_embedding.shape[-1], generator)
        self.spread = LogStd(config, (1, channels, 1, 1))
        self.to(backbone.device)

    @property
    def action_dimension(self) -> int:
        """Elements of u: one for each of the latents."""
        return math.prod(self.backbone.latent_shape)

    def push(self, u: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """What is added to the latents for u [m, C, H, W] where the clean estimate is `clean` [m, C, H, W]; nowhere larger than `perturbation_scale`."""
        drawn = torch.tanh(clean - clean.mean(dim=(2, 3), keepdim=True))
        return self.config.perturbation_scale * torch.tanh(FINENESS * u) * drawn

    def _gaussian(self, state: torch.Tensor, embeds: torch.Tensor, timesteps: torch.Tensor) -> Gaussian:
        mean = MEAN_GAIN * self.network(state, embeds, timesteps)
        return Gaussian(mean, self.spread().expand(len(mean), -1, -1, -1))

    def step(self, state: StepState, noise: NoiseSource) -> StepOutcome:
        """Deterministic DDIM, then in the window the push."""
        backbone = self.backbone
        clean, epsilon = predict_clean(state.latents, state.prediction, state.alpha, backbone.prediction_type)
        following = denoise(clean, epsilon, state.alpha_prev)
        if not state.trained:
            return StepOutcome(following)
        seen = torch.cat([state.latents, clean], dim=1)
        gaussian = self._gaussian(seen, state.embeds, state.timestep)
        value = gaussian.mean if state.deterministic else gaussian.sample(noise.step(state.index, gaussian.mean.shape[1:]))
        return StepOutcome(following + self.push(value, clean), Action(seen, value, gaussian))

    def distribution(self, transitions: Transitions) -> Gaussian:
        """The Gaussian over u at recorded states."""
        return self._gaussian(transitions.state, transitions.embeds, transitions.timestep)

    def describe(self, embeds: torch.Tensor | None = None) -> dict[str, Any]:
        """JSON-able facts for the page."""
        with torch.no_grad():
            std = self.spread().exp().flatten().tolist()
        return super().describe(embeds) | {"perturbation_scale": self.config.perturbation_scale, "std_per_channel": std}
