"""Maximum mean discrepancy to the reference set, with the exact credit of each image in closed form.

Gretton et al., A Kernel Two-Sample Test (JMLR 2012), equation 3: the unbiased U-statistic. KID's kernel: arXiv:1801.01401.
"""

from __future__ import annotations

import torch
from torch import Tensor

from backend.config.schema import TrainConfig
from backend.rewards.base import Credit, MetricContext, SetMetric
from backend.rewards.kernels import kernel_matrix, median_distance


def mmd_squared(x: Tensor, y: Tensor, kind: str = "rbf_mixture", bandwidth: float = 1.0) -> float:
    """Unbiased MMD^2 between [N, D] and [M, D], N, M >= 2; may be slightly negative where the two agree."""
    return -float(mmd_value(kernel_matrix(x, x, kind, bandwidth), kernel_matrix(x, y, kind, bandwidth), reference_term(y, kind, bandwidth)))


def reference_term(y: Tensor, kind: str, bandwidth: float) -> float:
    """c: mean of k(y_j, y_l) over different members of the reference."""
    kernel = kernel_matrix(y, y, kind, bandwidth)
    return float((kernel.sum() - kernel.diagonal().sum()) / (len(y) * (len(y) - 1)))


def mmd_value(within: Tensor, across: Tensor, constant: float) -> Tensor:
    """R = 2 mean(a) - mean(b) - c = -MMD^2, from k(x, x) [N, N] and k(x, y) [N, M], N >= 2."""
    n = len(within)
    return 2 * across.mean() - (within.sum() - within.diagonal().sum()) / (n * (n - 1)) - constant


def mmd_credit(within: Tensor, across: Tensor) -> Credit:
    """R(X) - R(X without i), without a loop over images.

    D_i = 2/(N-1) (a_i - mean a) - 2/(N-2) (b_i - mean b), a_i = mean_j k(x_i, y_j), b_i = mean_{l != i} k(x_i, x_l).

    Args:
        within: k(x, x) [N, N], N >= 3.
        across: k(x, y) [N, M].
    """
    n = len(within)
    a = across.mean(1)
    b = (within.sum(1) - within.diagonal()) / (n - 1)
    return Credit(2 / (n - 1) * (a - a.mean()), -2 / (n - 2) * (b - b.mean()))


def centred_shortcut(within: Tensor, across: Tensor) -> Tensor:
    """The popular (2/N)(a_i - b_i) less its group mean: shrinks the repulsion by (N-2)/(N-1). Kept to compare with."""
    n = len(within)
    part = 2 / n * (across.mean(1) - (within.sum(1) - within.diagonal()) / (n - 1))
    return part - part.mean()


class MMD(SetMetric):
    """-MMD^2 to the reference: near to the reference as a set, and apart from each other as its members are."""

    name = "MMD"
    note = "near the reference pays, near the other images costs"

    def __init__(self, config: TrainConfig, context: MetricContext) -> None:
        super().__init__(config, context)
        self.kind = config.mmd_kernel
        self.bandwidth = median_distance(context.reference)
        self.constant = reference_term(context.reference, self.kind, self.bandwidth)

    def _kernels(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return kernel_matrix(x, x, self.kind, self.bandwidth), kernel_matrix(x, self.context.reference, self.kind, self.bandwidth)

    def set_value(self, x: Tensor) -> Tensor:
        """-MMD^2 of [N, D], N >= 2."""
        return mmd_value(*self._kernels(x), self.constant)

    def set_credit(self, x: Tensor) -> Credit:
        """Exact difference reward; see `mmd_credit`. With `advantage = centred` the biased shortcut, to compare with."""
        within, across = self._kernels(x)
        if self.config.advantage == "centred":
            return Credit(centred_shortcut(within, across), torch.zeros(len(x), dtype=x.dtype))
        return mmd_credit(within, across)
