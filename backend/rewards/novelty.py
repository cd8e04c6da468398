"""Novelty: distance to the nearest of the other images and of an archive of earlier ones, with exact credit.

Lehman and Stanley, Abandoning Objectives (Evolutionary Computation 2011): neighbours come from the archive and the present group.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from backend.config.schema import TrainConfig
from backend.rewards.base import Credit, Metric, MetricContext, MetricResult, RewardBatch, explain, finite, nearest, undefined
from backend.rewards.kernels import squared_distances
from backend.rewards.pairwise import mean_distance
from backend.rewards.queue import FeatureQueue

ADMITTED = 4  # of each group, the most novel quarter enters the archive, at least one


def neighbour_distances(x: Tensor, archive: Tensor) -> Tensor:
    """Distances [N, N + A] from [N, D] to the group (infinite to itself) and to the archive [A, D]."""
    within = squared_distances(x, x).sqrt().fill_diagonal_(float("inf"))
    return torch.cat([within, squared_distances(x, archive).sqrt()], 1) if len(archive) else within


def novelty_scores(distances: Tensor, k: int) -> Tensor:
    """Mean distance to the k nearest: [N]."""
    return distances.topk(k, dim=1, largest=False).values.mean(1)


def novelty_credit(distances: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """R(X) - R(X without j), R the mean novelty, without a loop.

    Leaving j out changes the novelty of i only where j is one of its k nearest: the (k+1)-th takes its place.

    Args:
        distances: from `neighbour_distances`, N >= 2, with at least k + 1 finite ones in a row.
        k: neighbours.

    Returns:
        its two parts [N] each: j's own novelty against the mean of all, and what j takes from the others (not above 0).
    """
    n = len(distances)
    sorted_, order = distances.topk(k + 1, dim=1, largest=False)
    scores = sorted_[:, :k].mean(1)
    gain = (sorted_[:, k : k + 1] - sorted_[:, :k]) / k
    lifted = torch.zeros_like(distances).scatter_(1, order[:, :k], gain)[:, :n].sum(0)
    return (scores - scores.mean()) / (n - 1), -lifted / (n - 1)


class Novelty(Metric):
    """Mean novelty of the group, in units of the reference set's mean distance."""

    name = "NOVELTY"

    def __init__(self, config: TrainConfig, context: MetricContext) -> None:
        super().__init__(config, context)
        self.unit = mean_distance(squared_distances(context.reference, context.reference).sqrt())
        self.archive = FeatureQueue(config.queue_size, context.reference.shape[1])

    def evaluate(self, batch: RewardBatch) -> MetricResult:
        """Mean novelty and exact credit; in single-image mode each image against archive and queue alone."""
        x = finite(batch.features)
        if len(x) == 0:
            return undefined(0, "")
        if len(x) == 1 or self.config.reward_mode == "single":
            return self._alone(x)
        distances = neighbour_distances(x, self.archive.rows)
        k = min(self.config.knn_k, distances.shape[1] - 2)
        if k < 1:
            return undefined(len(x), "two images and an empty archive: nothing to compare with once one is left out")
        own, taken = (part / self.unit for part in novelty_credit(distances, k))
        score = float(novelty_scores(distances, k).mean()) / self.unit
        companions, _ = nearest(x, x, same_set=True)
        return MetricResult(score, own + taken, explain(Credit(own, taken), companions, "group", "far from the nearest other image or archived one pays"), True, len(x))

    def _alone(self, x: Tensor) -> MetricResult:
        """Distance to the nearest earlier images."""
        archived = self.archive.rows
        if len(archived) and len(self.context.queue):  # the queue still has the newest of them: the same neighbour counts once
            archived = archived[squared_distances(archived, self.context.queue.rows).amin(1) > 0]
        others = torch.cat([archived, self.context.queue.rows])
        if len(others) == 0:
            return undefined(len(x), "the archive and the queue are empty: nothing to compare with")
        distances = squared_distances(x, others).sqrt()
        scores = novelty_scores(distances, min(self.config.knn_k, len(others))) / self.unit
        companions = [c - len(archived) for c in distances.argmin(1).tolist()]
        found = explain(Credit(torch.zeros_like(scores), scores), [c if c >= 0 else -1 for c in companions], "queue", "far from the nearest earlier image pays")
        return MetricResult(float(scores.mean()), scores, found, True, 1)

    def observe(self, batch: RewardBatch) -> None:
        """The most novel quarter of the group enters the archive."""
        x = finite(batch.features)
        if len(x) == 0:
            return
        distances = neighbour_distances(x, self.archive.rows)
        available = distances.shape[1] - 1
        if available < 1:
            self.archive.push(x)
            return
        scores = novelty_scores(distances, min(self.config.knn_k, available))
        chosen = scores.topk(max(1, len(x) // ADMITTED)).indices.sort().values
        self.archive.push(x[chosen])

    def state_dict(self) -> dict[str, Any]:
        """The archive."""
        return {f"archive.{k}": v for k, v in self.archive.state_dict().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the archive."""
        self.archive.load_state_dict({k.removeprefix("archive."): v for k, v in state.items()})
