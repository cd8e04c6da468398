"""A metric of one's own: spread of the images' mean colours. Start with `--plugin docs/examples/hue_metric.py --metric HUE`."""

import torch
from torch import Tensor

from backend.config.catalogue import METRICS
from backend.rewards.base import Credit, RewardBatch, SetMetric
from backend.rewards.kernels import squared_distances
from backend.rewards.pairwise import mean_distance, pairwise_credit
from backend.rewards.queue import FeatureQueue


@METRICS.register("HUE", "Mean distance between the images' mean colours.")
class Hue(SetMetric):
    """R(X) = mean distance between mean colours; D_i = R(X) - R(X without i) in closed form."""

    name = "HUE"
    note = "a colour unlike the other images' pays"

    def __init__(self, config, context) -> None:
        super().__init__(config, context)
        self.recent = FeatureQueue(64, 3)

    def embed(self, batch: RewardBatch) -> Tensor:
        """What is compared: [B, 3]."""
        return batch.images.double().mean((2, 3))

    def set_score(self, x: Tensor) -> float:
        """The set's score: [N, 3] -> R(X)."""
        return mean_distance(squared_distances(x, x).sqrt())

    def set_credit(self, x: Tensor) -> Credit:
        """Each image's share in it, as attraction (none here) and repulsion."""
        return Credit(torch.zeros(len(x), dtype=x.dtype), pairwise_credit(squared_distances(x, x).sqrt()))

    # The four methods below are needed only for groups of one or two images and for single-image mode,
    # which compare with recent images.

    def company(self, count: int) -> Tensor:
        """Colours of recent images."""
        return self.recent.recent(count)

    def observe(self, batch: RewardBatch) -> None:
        """Keep the group's colours."""
        self.recent.push(self.embed(batch))

    def state_dict(self) -> dict:
        """What a checkpoint has to keep."""
        return self.recent.state_dict()

    def load_state_dict(self, state: dict) -> None:
        """Take it over on resume."""
        self.recent.load_state_dict(state)
