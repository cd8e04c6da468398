"""What the sampler and the agent know of a policy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from backend.config import POLICIES, TrainConfig
from backend.diffusion.backbone import Backbone
from backend.diffusion.kernel import Gaussian, denoise, predict_clean
from backend.diffusion.noise import NoiseSource
from backend.diffusion.sampler import Plan, StepOutcome, StepState
from backend.diffusion.schedule import Schedule
from backend.diffusion.trajectory import Transitions
from backend.errors import InputError


class Policy(nn.Module, ABC):
    """A distribution over actions in the denoising process.

    Attributes:
        default_clip_nats: PPO clip range of the joint log-ratio where the config leaves it to the mode.
        learns_std: whether its spread is learned, so that an entropy target applies.
        base_is_zero: the base model's mean action is zero, so that KL to the base costs nothing.
        kl_unit: nats that count as one in `target_kl_nats`, `kl_base_target_nats` and `kl_base_coef`. The limits are meant for the
            diffusion's own noise; a policy that explores with noise narrower by a factor f pays f² times the nats for the same move.
    """

    default_clip_nats: float
    learns_std: bool = False
    base_is_zero: bool = True
    kl_unit: float = 1.0

    def __init__(self, config: TrainConfig, backbone: Backbone) -> None:
        super().__init__()
        self.config = config
        # Held in a tuple, so that the backbone's weights are no part of this module.
        self._backbone = (backbone,)

    @property
    def backbone(self) -> Backbone:
        """The model it acts in."""
        return self._backbone[0]

    @property
    @abstractmethod
    def action_dimension(self) -> int:
        """d_a: elements of one action."""

    def trainable(self) -> dict[str, nn.Parameter]:
        """Trained parameters by name: the policy's own, unless it trains the backbone's."""
        return dict(self.named_parameters())

    def spread_parameters(self) -> list[nn.Parameter]:
        """Those of `trainable` that make a spread which no state changes, by default those of its module `spread`; TRPO steps them apart from the mean's."""
        spread = getattr(self, "spread", None)
        return list(spread.parameters()) if isinstance(spread, nn.Module) else []

    @abstractmethod
    def distribution(self, transitions: Transitions) -> Gaussian:
        """The distribution over actions at m recorded states, with gradients."""

    def plan(self, schedule: Schedule, embeds: torch.Tensor, noise: NoiseSource, guidance_scale: float, deterministic: bool) -> Plan:
        """Once per rollout: the stock schedule [T, B] and the same guidance for all, unless a policy chooses them."""
        return Plan(schedule, torch.full((len(embeds),), float(guidance_scale), device=embeds.device))

    def step(self, state: StepState, noise: NoiseSource) -> StepOutcome:
        """Once per denoising step: deterministic DDIM, unless a policy acts here."""
        backbone = self.backbone
        clean, epsilon = predict_clean(state.latents, state.prediction, state.alpha, backbone.prediction_type)
        return StepOutcome(denoise(clean, epsilon, state.alpha_prev))

    def evaluate(self, transitions: Transitions) -> tuple[torch.Tensor, torch.Tensor, Gaussian]:
        """Log-prob and entropy per action element [m] each, and the distribution, of recorded actions under the present weights."""
        distribution = self.distribution(transitions)
        return distribution.log_prob(transitions.action), distribution.relative_entropy(), distribution

    @contextmanager
    def as_base(self) -> Iterator[None]:
        """Within it the mean action is the base model's."""
        saved = self.trainable_state()
        with torch.no_grad():
            for p in self.trainable().values():
                p.zero_()
        try:
            yield
        finally:
            self.load_trainable(saved)

    def trainable_state(self) -> dict[str, torch.Tensor]:
        """Copies of the trained parameters by name."""
        return {name: p.detach().clone() for name, p in self.trainable().items()}

    def load_trainable(self, tensors: dict[str, torch.Tensor]) -> None:
        """Set the trained parameters.

        Raises:
            InputError: names or shapes are those of another policy.
        """
        mine = self.trainable()
        if set(mine) != set(tensors) or any(mine[n].shape != tensors[n].shape for n in mine):
            raise InputError(
                "the saved policy has other layers or ranks than this configuration: use the mode, lora_rank and lora_targets it was trained with, or train anew",
                field="mode",
            )
        with torch.no_grad():
            for name, p in mine.items():
                p.copy_(tensors[name].to(p))

    @property
    def trainable_count(self) -> int:
        """Number of trained parameters."""
        return sum(p.numel() for p in self.trainable().values())

    def describe(self, embeds: torch.Tensor | None = None) -> dict[str, Any]:
        """JSON-able facts for the page; some policies tell more where the prompts' embeddings [P, L, E] are given."""
        return {"policy": type(self).__name__, "parameters": self.trainable_count, "action_dimension": self.action_dimension}

    def save(self, folder: str | Path) -> Path:
        """Write the trained parameters to `folder/policy.safetensors`."""
        from safetensors.torch import save_file

        path = Path(folder) / "policy.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({n: t.contiguous().cpu() for n, t in self.trainable_state().items()}, path)
        return path

    def load(self, folder: str | Path) -> None:
        """Read what `save` wrote.

        Raises:
            InputError: no such file, or another policy's.
        """
        from safetensors.torch import load_file

        path = Path(folder) / "policy.safetensors"
        if not path.is_file():
            raise InputError(f"{path} does not exist: choose a checkpoint of this mode")
        self.load_trainable(load_file(path))


def build_policy(config: TrainConfig, backbone: Backbone) -> Policy:
    """The policy that `config.mode` names, at its start values: its mean action is the base model's."""
    return POLICIES.get(config.mode).load()(config, backbone)
