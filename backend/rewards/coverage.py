"""Soft coverage of the reference set, with exact credit; and the hard coverage and density that it stands for.

Naeem et al., arXiv:2002.09797: a reference image is covered when a generated one lies within its distance to its k-th
neighbour. Hard coverage has credit only for the image that happens to be the sole cover; the soft one is smooth.
"""

from __future__ import annotations

import torch
from torch import Tensor

from backend.config.schema import TrainConfig
from backend.rewards.base import Credit, MetricContext, MetricResult, RewardBatch, SetMetric, explain, finite, nearest
from backend.rewards.kernels import kth_distances, reference_radii, squared_distances

# k(x, y_j) = 2^-(d / r_j)^SHARPNESS is one half at the radius r_j. Distances in 224 dimensions differ little (a typical pair is
# at 1.3 radii), so a soft edge would count everything as covered, and 32 copies of one image as a third of the reference (at 8).
SHARPNESS = 16


def membership(x: Tensor, reference: Tensor, radii: Tensor) -> Tensor:
    """k(x_i, y_j) in [0, 1]: 1 at y_j, one half at its radius. [N, D] and [M, D] -> [N, M]."""
    ratio = squared_distances(x, reference) / radii**2
    return torch.exp2(-(ratio ** (SHARPNESS / 2)))


def soft_coverage(member: Tensor) -> float:
    """mean_j [1 - prod_i (1 - k_ij)] from memberships [N, M]; 0 for no image."""
    return float((1 - (1 - member).prod(0)).mean())


def coverage_credit(member: Tensor) -> Tensor:
    """R(X) - R(X without i) = mean_j k_ij prod_{l != i} (1 - k_lj), for every i.

    The leave-one-out products are those of the images before i times those after it: no division, so a membership of exactly
    one (an image equal to a reference image) is no special case.
    """
    miss = 1 - member
    one = torch.ones(1, member.shape[1], dtype=member.dtype)
    before = torch.cat([one, miss[:-1]]).cumprod(0)
    after = torch.cat([miss[1:], one]).flip(0).cumprod(0).flip(0)
    return (member * before * after).mean(1)


def hard_coverage(x: Tensor, reference: Tensor, k: int) -> float:
    """Share of reference images with a generated one inside their radius (arXiv:2002.09797, equation 6)."""
    radii = kth_distances(squared_distances(reference, reference), k, exclude_self=True)
    return float((squared_distances(x, reference).sqrt() <= radii).any(0).double().mean())


def density(x: Tensor, reference: Tensor, k: int) -> float:
    """Mean number of reference balls that a generated image lies in, over k (arXiv:2002.09797, equation 5); may exceed 1."""
    radii = kth_distances(squared_distances(reference, reference), k, exclude_self=True)
    return float((squared_distances(x, reference).sqrt() <= radii).double().sum(1).mean() / k)


class Coverage(SetMetric):
    """Share of the reference that the group covers; defined from one image on."""

    name = "COVERAGE"
    minimum = 1

    def __init__(self, config: TrainConfig, context: MetricContext) -> None:
        super().__init__(config, context)
        self.radii = reference_radii(context.reference, config.knn_k)

    def _member(self, x: Tensor) -> Tensor:
        return membership(x, self.context.reference, self.radii)

    def set_score(self, x: Tensor) -> float:
        """Soft coverage of [N, D]."""
        return soft_coverage(self._member(x))

    def set_credit(self, x: Tensor) -> Credit:
        """Attraction: what the image would cover alone; repulsion: less what the others cover as well."""
        member = self._member(x)
        total, alone = coverage_credit(member), member.mean(1)
        return Credit(alone, total - alone)

    def evaluate(self, batch: RewardBatch) -> MetricResult:
        """As any set metric; the companion is the nearest reference image."""
        result = super().evaluate(batch)
        if self.config.reward_mode != "single" and len(batch):
            credit = self.set_credit(finite(batch.features))
            companions, _ = nearest(finite(batch.features), self.context.reference, same_set=False)
            result.explanations = explain(credit, companions, "reference", "covering what no other image covers pays")
        return result
