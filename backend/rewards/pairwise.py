"""Mean distance between the images of a group, with exact credit."""

from __future__ import annotations

import torch
from torch import Tensor

from backend.config.schema import TrainConfig
from backend.rewards.base import Credit, MetricContext, SetMetric
from backend.rewards.kernels import squared_distances


def mean_distance(distances: Tensor) -> float:
    """Mean over pairs of different members; distances [N, N] with a zero diagonal, N >= 2."""
    n = len(distances)
    return float(distances.sum() / (n * (n - 1)))


def pairwise_credit(distances: Tensor) -> Tensor:
    """R(X) - R(X without i) = 2/(N-2) (d_i - mean d), d_i the mean distance of i to the others; N >= 3."""
    n = len(distances)
    own = distances.sum(1) / (n - 1)
    return 2 / (n - 2) * (own - own.mean())


class Pairwise(SetMetric):
    """Mean feature distance, in units of the reference set's own: 1 is as spread as the reference."""

    name = "PAIRWISE"
    minimum = 3
    note = "far from the other images pays"

    def __init__(self, config: TrainConfig, context: MetricContext) -> None:
        super().__init__(config, context)
        self.unit = mean_distance(self._distances(context.reference))

    def _distances(self, x: Tensor) -> Tensor:
        return squared_distances(x, x).sqrt()

    def set_score(self, x: Tensor) -> float:
        """Mean distance of [N, D], N >= 2."""
        return mean_distance(self._distances(x)) / self.unit

    def set_credit(self, x: Tensor) -> Credit:
        """Exact difference reward."""
        return Credit(torch.zeros(len(x), dtype=x.dtype), pairwise_credit(self._distances(x)) / self.unit)
