"""Vendi score: the effective number of different images, of any order q, with the credit of each image.

Friedman and Dieng, arXiv:2210.02410 (q = 1); Pasarkar and Dieng, arXiv:2310.12952 (order q): exp of the Renyi entropy of the
eigenvalues of K / N.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from backend.config.schema import TrainConfig
from backend.rewards.base import Credit, MetricContext, SetMetric
from backend.rewards.kernels import median_distance, rbf, squared_distances

# Half the median distance: between typical reference images the kernel is exp(-2) = 0.14, so that a set as diverse as the
# reference counts for many images and a set at half its distances for about two.
BANDWIDTH = 0.5
STEP = 0.5  # in log t; the trapezoid rule's error is exp(-2 pi^2 / STEP) = 1e-17 for an integrand analytic in |Im| < pi
LIMIT = 36.0  # exp(-36) = 2e-16: what lies beyond it is below double precision


def vendi_value(kernel: Tensor, order: float = 2.0) -> Tensor:
    """Effective number of different members, from 1 (all alike) to N (nothing in common).

    Args:
        kernel: [N, N] positive semi-definite with ones on the diagonal.
        order: q > 0.
    """
    if order == 2:
        return len(kernel) ** 2 / (kernel**2).sum()
    return _from_eigenvalues(torch.linalg.eigvalsh(kernel / len(kernel)), order)


def vendi_score(kernel: Tensor, order: float = 2.0) -> float:
    """`vendi_value` as a number."""
    return float(vendi_value(kernel, order))


def _from_eigenvalues(values: Tensor, order: float) -> Tensor:
    """exp of the Renyi entropy of rows of eigenvalues [..., N] that add to 1."""
    values = values.clamp_min(0)
    if order == 1:
        return torch.exp(torch.special.entr(values).sum(-1))
    return (values**order).sum(-1) ** (1 / (1 - order))


def vendi_credit(kernel: Tensor, order: float = 2.0) -> Tensor:
    """R(X) - R(X without i) [N], N >= 2: closed form at q = 2, an integral at q = 1, one eigenvalue problem per image else.

    The last costs O(N^4): 0.1 s at N = 64, seconds at 256.
    """
    n = len(kernel)
    if order == 2:
        total = (kernel**2).sum()
        without = total - 2 * (kernel**2).sum(1) + kernel.diagonal() ** 2
        return n**2 / total - (n - 1) ** 2 / without
    if order == 1:
        return vendi_score(kernel, 1) - torch.exp(leave_one_out_entropy(kernel))
    rows = [_from_eigenvalues(torch.linalg.eigvalsh(_without(kernel, i) / (n - 1)), order) for i in range(n)]
    return vendi_score(kernel, order) - torch.stack(rows)


def _without(kernel: Tensor, index: int) -> Tensor:
    keep = torch.arange(len(kernel)) != index
    return kernel[keep][:, keep]


def leave_one_out_entropy(kernel: Tensor) -> Tensor:
    """Entropy of the eigenvalues of K without i, divided by N - 1, for every i from one eigendecomposition.

    With A = K / N = U diag(l) U', the resolvent traces of A and of A without row and column i differ by d/dt log G_i(t),
    G_i(t) = [(A + t)^-1]_ii = sum_j U_ij^2 / (l_j + t) (Cauchy's interlacing in determinant form). Since
    x log x = int_0^inf [x / (1 + t) - x / (x + t)] dt, the change of sum l log l is
    int_0^inf [H_i(t) - A_ii / (1 + t)] dt with H_i = (sum_j U_ij^2 l_j / (l_j + t)^2) / G_i. In s = log t the integrand is analytic
    in a strip, so the trapezoid rule reaches double precision.

    Args:
        kernel: [N, N] with ones on the diagonal.

    Returns:
        [N] entropies in nats.
    """
    n = len(kernel)
    values, vectors = torch.linalg.eigh(kernel / n)
    values, weight = values.clamp_min(1e-18), vectors**2
    t = torch.exp(torch.arange(-LIMIT, LIMIT + STEP, STEP, dtype=kernel.dtype))
    inverse = 1 / (values[:, None] + t)
    green = weight @ inverse
    change = (weight @ (values[:, None] * inverse**2)) / green - kernel.diagonal()[:, None] / n / (1 + t)
    whole = -torch.special.entr(values).sum()
    part = whole + (change * t).sum(1) * STEP
    # From sum m log m over eigenvalues m of A without i to those of (N A) / (N - 1), which add to 1.
    scale = n / (n - 1)
    trace = 1 - kernel.diagonal() / n
    return -(scale * part + scale * trace * math.log(scale))


class Vendi(SetMetric):
    """Effective number of different images in the group; the reference sets only the width of the kernel."""

    name = "VENDI"
    note = "unlike the other images pays"

    def __init__(self, config: TrainConfig, context: MetricContext) -> None:
        super().__init__(config, context)
        self.order = config.vendi_order
        self.bandwidth = BANDWIDTH * median_distance(context.reference)

    def _kernel(self, x: Tensor) -> Tensor:
        return rbf(squared_distances(x, x), self.bandwidth)

    def set_value(self, x: Tensor) -> Tensor:
        """Vendi score of [N, D], between 1 and N."""
        return vendi_value(self._kernel(x), self.order)

    def set_credit(self, x: Tensor) -> Credit:
        """Exact difference reward."""
        return Credit(torch.zeros(len(x), dtype=x.dtype), vendi_credit(self._kernel(x), self.order))
