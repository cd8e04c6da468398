"""Gradient noise scale: how many images an update could use before more of them stop helping."""

from __future__ import annotations

from typing import Any

import torch

from backend.ppo.advantages import RunningMean

DECAY = 0.9


class GradientNoiseScale:
    """tr(Sigma) / |G|^2 from gradients at two batch sizes (McCandlish et al. 2018, arXiv 1812.06162, appendix A.1), running means of both parts."""

    def __init__(self) -> None:
        self.trace, self.square = RunningMean(), RunningMean()

    def observe(self, gradients: list[torch.Tensor], size: int) -> None:
        """Weigh in the flat gradients of minibatches of `size` images each; fewer than two say nothing."""
        n = len(gradients)
        if n < 2:
            return
        small = float(torch.stack([g.square().sum() for g in gradients]).mean())
        big = float(torch.stack(gradients).mean(dim=0).square().sum())
        self.square.add((n * big - small) / (n - 1), DECAY)
        self.trace.add((small - big) / (1 / size - 1 / (n * size)), DECAY)

    @property
    def value(self) -> float:
        """In images; 0 before anything is known, cut at a million where the signal vanishes."""
        if self.trace.count == 0 or self.trace.mean <= 0:
            return 0.0
        return min(self.trace.mean / max(self.square.mean, 1e-30), 1e6)

    def state(self) -> list[Any]:
        """JSON-able state."""
        return [self.trace.mean, self.trace.count, self.square.mean, self.square.count]

    def load_state(self, state: list[Any]) -> None:
        """Take over what `state` gave."""
        self.trace, self.square = RunningMean(*state[:2]), RunningMean(*state[2:])
