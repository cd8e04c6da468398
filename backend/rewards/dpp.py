"""Volume that a group spans: log-determinant of its similarity matrix per image, with exact credit.

Kulesza and Taskar, Determinantal Point Processes for Machine Learning (arXiv:1207.6083).
"""

from __future__ import annotations

import torch
from torch import Tensor

from backend.config.schema import TrainConfig
from backend.rewards.base import Credit, MetricContext, SetMetric
from backend.rewards.kernels import median_distance, rbf, squared_distances
from backend.rewards.vendi import BANDWIDTH

# Weight of the identity in L: identical images cost log(1e-3) each at most, and L is never singular.
NUGGET = 1e-3


def likelihood_matrix(kernel: Tensor) -> Tensor:
    """L = (1 - e) K + e I with e = 1e-3: positive definite for every kernel [N, N]."""
    return (1 - NUGGET) * kernel + NUGGET * torch.eye(len(kernel), dtype=kernel.dtype)


def mean_log_det(matrix: Tensor) -> Tensor:
    """log det L / N by Cholesky; between log 1e-3 (all alike) and 0 (nothing in common)."""
    return 2 * torch.linalg.cholesky(matrix).diagonal().log().sum() / len(matrix)


def dpp_credit(matrix: Tensor) -> Tensor:
    """R(X) - R(X without i), N >= 2, from log det L without i = log det L + log (L^-1)_ii (Schur complement)."""
    n = len(matrix)
    factor = torch.linalg.cholesky(matrix)
    log_det = 2 * factor.diagonal().log().sum()
    gain = torch.cholesky_inverse(factor).diagonal().log()
    return log_det / n - (log_det + gain) / (n - 1)


class DPP(SetMetric):
    """Log-determinant of the group's similarities per image: rewards every direction, not only the longest."""

    name = "DPP"
    note = "what the other images together cannot explain pays"

    def __init__(self, config: TrainConfig, context: MetricContext) -> None:
        super().__init__(config, context)
        self.bandwidth = BANDWIDTH * median_distance(context.reference)

    def _matrix(self, x: Tensor) -> Tensor:
        return likelihood_matrix(rbf(squared_distances(x, x), self.bandwidth))

    def set_value(self, x: Tensor) -> Tensor:
        """Mean log-determinant of [N, D]."""
        return mean_log_det(self._matrix(x))

    def set_credit(self, x: Tensor) -> Credit:
        """Exact difference reward."""
        return Credit(torch.zeros(len(x), dtype=x.dtype), dpp_credit(self._matrix(x)))
