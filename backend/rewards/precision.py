"""Realism: share of images inside the reference's manifold, hard (for judging) and soft (for credit).

Kynkaanniemi et al., Improved Precision and Recall, arXiv:1904.06991.
"""

from __future__ import annotations

import torch
from torch import Tensor

from backend.config.schema import TrainConfig
from backend.rewards.base import MetricContext, PointwiseMetric, RewardBatch, finite
from backend.rewards.kernels import kth_distances, reference_radii, squared_distances

SOFTNESS = 4  # 1 / (1 + (d / r)^4): one half at the radius, and still a slope at twice the radius, where base images may be


def inside(x: Tensor, manifold: Tensor, k: int) -> Tensor:
    """Whether each point [N, D] lies within some manifold point's distance to its k-th neighbour: [N] bool."""
    radii = kth_distances(squared_distances(manifold, manifold), k, exclude_self=True)
    return (squared_distances(x, manifold).sqrt() <= radii).any(1)


def precision_recall(x: Tensor, y: Tensor, k: int = 3) -> tuple[float, float]:
    """Hard precision (share of x in y's manifold) and recall (share of y in x's), equation 1 of the paper.

    Args:
        x: [N, D] generated, N > k.
        y: [M, D] real, M > k.
        k: neighbour that sets the radius.

    Raises:
        InputError: a set with not more than k images.
    """
    return float(inside(x, y, k).double().mean()), float(inside(y, x, k).double().mean())


def soft_precision(x: Tensor, reference: Tensor, radii: Tensor) -> Tensor:
    """max_j 1 / (1 + (d_ij / r_j)^4): [N] in (0, 1], one half at the edge of the manifold."""
    ratio = squared_distances(x, reference) / radii**2
    return (1 / (1 + ratio ** (SOFTNESS / 2))).max(1).values


class Precision(PointwiseMetric):
    """Mean soft precision: pays for realism and nothing for diversity."""

    name = "PRECISION"
    note = "close to a reference image, measured by how close its own neighbours are, pays"

    def __init__(self, config: TrainConfig, context: MetricContext) -> None:
        super().__init__(config, context)
        self.radii = reference_radii(context.reference, config.knn_k)

    def image_scores(self, batch: RewardBatch) -> torch.Tensor:
        """Soft precision of each image."""
        return soft_precision(finite(batch.features), self.context.reference, self.radii)
