"""From per-image credit to advantages: baselines, scale, filters, and generalised advantage estimation."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from backend.config import TrainConfig

BASELINE_DECAY = 0.9
SCALE_DECAY = 0.9


def gae(rewards: torch.Tensor, values: torch.Tensor, gamma: float, gae_lambda: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Generalised advantage estimation (Schulman et al. 2015, arXiv 1506.02438, equation 16); the episode ends after step K.

    Args:
        rewards, values: [K, B].

    Returns:
        Advantages and returns, [K, B] each.
    """
    advantages = torch.zeros_like(rewards)
    running = torch.zeros_like(rewards[0])
    for k in reversed(range(len(rewards))):
        following = values[k + 1] if k + 1 < len(rewards) else torch.zeros_like(running)
        running = rewards[k] + gamma * following - values[k] + gamma * gae_lambda * running
        advantages[k] = running
    return advantages, advantages + values


@dataclass
class RunningMean:
    """Exponential mean that starts as a plain one."""

    mean: float = 0.0
    count: int = 0

    def add(self, value: float, decay: float) -> None:
        """Weigh in one value; one that is not finite is left out, or every later mean would be."""
        if not math.isfinite(value):
            return
        self.count += 1
        self.mean += (value - self.mean) * max(1 / self.count, 1 - decay)


@dataclass
class Credit:
    """Advantages of one group.

    Attributes:
        advantages: [K, B]; 0 for images that are not trained on.
        returns, values: critic targets and old estimates [K, B]; zeros without a critic.
        degenerate: the group's credit did not vary, so that it was dropped.
        nonfinite: images whose credit was not finite, dropped.
        std: of the advantages before clipping.
        scale: what the credit was divided by.
    """

    advantages: torch.Tensor
    returns: torch.Tensor
    values: torch.Tensor
    degenerate: bool
    nonfinite: int
    std: float
    scale: float


@dataclass
class CreditEstimator:
    """Running baselines and scale; one per run.

    `difference`: credit minus the prompt's running mean over earlier groups (the exact difference reward needs no centring of its group).
    `centred`: standardised within the group. `broadcast`: the group's score minus its running mean, for every image.
    `gae`: credit at the last step, the critic as baseline. Where the reward itself is the set's (`reward_mode` batch), `difference` subtracts
    the groups' running mean instead of the prompts'.
    """

    config: TrainConfig
    baselines: dict[int, RunningMean] = field(default_factory=dict)
    group: RunningMean = field(default_factory=RunningMean)
    second_moment: RunningMean = field(default_factory=RunningMean)

    def estimate(self, credit: torch.Tensor, prompt_index: torch.Tensor, values: torch.Tensor, group_score: float | None = None) -> Credit:
        """Advantages of a group; afterwards the group belongs to the baselines.

        Args:
            credit: per-image reward [B].
            prompt_index: [B].
            values: the critic's estimates [K, B]; zeros without one.
            group_score: the set's score, for `broadcast` (default: mean credit).
        """
        credit = credit.detach().to(values)
        finite = credit.isfinite()
        kind = self.config.advantage
        usable = credit[finite]
        shared = kind == "broadcast" or (self.config.reward_mode == "batch" and kind != "centred")
        degenerate = len(usable) == 0 or (not shared and len(credit) > 1 and float(usable.std(correction=0)) < self.config.normalise_floor)
        clean = torch.where(finite, credit, 0.0)
        if kind == "gae":
            rewards = torch.zeros_like(values)
            rewards[-1] = clean
            raw, returns = gae(rewards, values, self.config.gamma, self.config.gae_lambda)
        else:
            raw = self._credited(kind, clean, finite, prompt_index, group_score).expand_as(values)
            returns = torch.zeros_like(values)
        if len(usable):
            self._observe(clean, finite, prompt_index, group_score if kind == "broadcast" else None, raw)
        if kind == "centred":
            scale = max(float(usable.std(correction=0)) if len(usable) else 0.0, self.config.normalise_floor)
        else:
            scale = max(self.second_moment.mean**0.5, self.config.normalise_floor)
        scaled = raw / scale
        limit = self.config.advantage_clip
        keep = finite & (not degenerate)
        advantages = torch.where(keep, scaled.clamp(-limit, limit), 0.0)
        std = float(scaled[:, finite].std(correction=0)) if len(usable) else 0.0
        return Credit(advantages, returns, values, degenerate, int((~finite).sum()), std, scale)

    def _credited(self, kind: str, credit: torch.Tensor, finite: torch.Tensor, prompt_index: torch.Tensor, group_score: float | None) -> torch.Tensor:
        if kind == "centred":
            return credit - credit[finite].mean() if bool(finite.any()) else credit
        if kind == "broadcast":
            score = self._score(credit, finite, group_score)
            return torch.full_like(credit, score - self.group.mean if self.group.count else 0.0)
        if self.config.reward_mode == "batch":
            return credit - self.group.mean if self.group.count else torch.zeros_like(credit)
        return credit - torch.tensor([self.baselines.get(p, RunningMean()).mean for p in prompt_index.tolist()], dtype=credit.dtype, device=credit.device)

    @staticmethod
    def _score(credit: torch.Tensor, finite: torch.Tensor, group_score: float | None) -> float:
        return float(credit[finite].mean()) if group_score is None else float(group_score)

    def _observe(self, credit: torch.Tensor, finite: torch.Tensor, prompt_index: torch.Tensor, group_score: float | None, raw: torch.Tensor) -> None:
        prompts = prompt_index.to(credit.device)
        for p in sorted(set(prompts[finite].tolist())):
            self.baselines.setdefault(p, RunningMean()).add(float(credit[finite & (prompts == p)].mean()), BASELINE_DECAY)
        self.second_moment.add(float(raw[:, finite].square().mean()), SCALE_DECAY)
        self.group.add(self._score(credit, finite, group_score), BASELINE_DECAY)

    def state(self) -> dict[str, Any]:
        """JSON-able state."""
        return {
            "baselines": {str(p): [m.mean, m.count] for p, m in self.baselines.items()},
            "group": [self.group.mean, self.group.count],
            "second_moment": [self.second_moment.mean, self.second_moment.count],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.baselines = {int(p): RunningMean(*m) for p, m in state["baselines"].items()}
        self.group, self.second_moment = RunningMean(*state["group"]), RunningMean(*state["second_moment"])
