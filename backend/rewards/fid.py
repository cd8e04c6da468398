"""Frechet distance to the reference set over a pool of recent images, with the influence of each image.

Heusel et al., arXiv:1706.08500. The name FID belongs to Inception features; on others it is FD-<extractor>. The gradient of the
Bures distance is from Bhatia, Jain and Lim, arXiv:1712.01504.
"""

from __future__ import annotations

import torch
from torch import Tensor

from backend.config.schema import TrainConfig
from backend.rewards.base import Credit, Metric, MetricContext, MetricResult, RewardBatch, explain, finite, nearest, undefined
from backend.rewards.pool import principal_axes

# The same share of the identity on both sides, so that equal distributions stay at distance zero; enough to make the
# covariance of any two images regular.
SHRINKAGE = 0.1


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [d] and unbiased covariance [d, d] of [n, d], n >= 2."""
    mean = x.mean(0)
    return mean, (x - mean).T @ (x - mean) / (len(x) - 1)


def shrunk(covariance: Tensor, intensity: float = SHRINKAGE) -> Tensor:
    """(1 - a) S + a tr(S)/d I."""
    d = len(covariance)
    return (1 - intensity) * covariance + intensity * covariance.trace() / d * torch.eye(d, dtype=covariance.dtype)


def square_root(matrix: Tensor) -> Tensor:
    """Symmetric positive semi-definite square root."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def frechet_distance(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_b^1/2 S_a S_b^1/2)^1/2); covariances may be singular."""
    root = square_root(cov_b)
    cross = torch.linalg.eigvalsh(root @ cov_a @ root).clamp_min(0).sqrt().sum()
    return float(((mean_a - mean_b) ** 2).sum() + cov_a.trace() + cov_b.trace() - 2 * cross)


def transport_map(cov_a: Tensor, cov_b: Tensor) -> Tensor:
    """G with G S_a G = S_b: the Gaussian optimal transport map from a to b; S_a regular."""
    root = square_root(cov_b)
    values, vectors = torch.linalg.eigh(root @ cov_a @ root)
    inverse = values.clamp_min(values.max() * 1e-12).rsqrt()
    return root @ (vectors * inverse) @ vectors.T @ root


def frechet_credit(pool: Tensor, count: int, mean_r: Tensor, cov_r: Tensor, intensity: float = SHRINKAGE) -> Credit:
    """FD(pool without i) - FD(pool) for the last `count` rows of the pool.

    Exact in the mean; first order in the covariance, whose exact change on removal of i is
    S/(n-2) - n/((n-1)(n-2)) (x_i - m)(x_i - m)' (before shrinkage). The relative error falls as 1/n.

    Args:
        pool: [n, d], n >= 3.
        count: how many rows at the end are the group.
        mean_r: [d] of the reference.
        cov_r: [d, d] shrunk covariance of the reference.
        intensity: of the pool's shrinkage.
    """
    n, d = pool.shape
    mean, covariance = moments(pool)
    gradient = torch.eye(d, dtype=pool.dtype) - transport_map(shrunk(covariance, intensity), cov_r)
    # tr(gradient . shrunk(dS)) = tr(effective . dS): shrinking is linear, so its adjoint goes to the other side.
    effective = (1 - intensity) * gradient + intensity * gradient.trace() / d * torch.eye(d, dtype=pool.dtype)
    offset = pool[n - count :] - mean
    shift = -offset / (n - 1)
    location = 2 * shift @ (mean - mean_r) + (shift**2).sum(1)
    level = (effective * covariance).sum() / (n - 2)
    spread = level - n / ((n - 1) * (n - 2)) * ((offset @ effective) * offset).sum(1)
    return Credit(location, spread)


class FID(Metric):
    """-FD to the reference. The score is that of the group alone (to be compared at equal N); the credit that of the pool."""

    name = "FID"

    def __init__(self, config: TrainConfig, context: MetricContext) -> None:
        super().__init__(config, context)
        self.project = principal_axes(context.reference, config.pca_dims)
        self.mean, covariance = moments(self.project(context.reference))
        self.covariance = shrunk(covariance)
        network = context.extractor.name if context.extractor is not None else "features"
        self.label = "FID" if network == "inception" else f"FD-{network}"

    def distance(self, x: Tensor) -> float:
        """Distance of a set [n, d] of projected features, n >= 2."""
        mean, covariance = moments(x)
        return frechet_distance(mean, shrunk(covariance), self.mean, self.covariance)

    def evaluate(self, batch: RewardBatch) -> MetricResult:
        """Score of the group, influence of each image on the pool of group and queue."""
        features = finite(batch.features)
        x = self.project(features)
        earlier = self.project(self.context.queue.rows)
        if self.config.reward_mode == "single":
            return self._single(features, x, earlier)
        pool = torch.cat([earlier, x])
        if len(pool) < 3 or len(x) == 0:
            return undefined(len(x), f"{self.label} of {len(pool)} images does not exist: the pool fills as images come")
        credit = frechet_credit(pool, len(x), self.mean, self.covariance)
        return self._result(features, x, pool, credit)

    def _single(self, features: Tensor, x: Tensor, earlier: Tensor) -> MetricResult:
        """Each image as one more member of the queue."""
        if len(earlier) < 2 or len(x) == 0:
            return undefined(len(x), f"{len(earlier)} earlier images are too few to compare with")
        parts = [frechet_credit(torch.cat([earlier, row[None]]), 1, self.mean, self.covariance) for row in x]
        credit = Credit(torch.cat([p.attraction for p in parts]), torch.cat([p.repulsion for p in parts]))
        return self._result(features, x, torch.cat([earlier, x[:1]]), credit)

    def _result(self, features: Tensor, x: Tensor, pool: Tensor, credit: Credit) -> MetricResult:
        pooled = self.distance(pool)
        note = f"{self.label} {pooled:.3g} over a pool of {len(pool)}; attraction is the mean's share, repulsion the covariance's"
        companions, _ = nearest(features, self.context.reference, same_set=False)
        score = -self.distance(x) if len(x) >= 2 else -pooled
        return MetricResult(score, credit.total, explain(credit, companions, "reference", note), exact=False, set_size=len(pool))
