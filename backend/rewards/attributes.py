"""Semantic diversity: the effective number of different crater attributes in a group."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from backend.config.schema import TrainConfig
from backend.errors import InputError
from backend.features.load import Standardiser
from backend.rewards.base import Credit, MetricContext, RewardBatch, SetMetric, finite
from backend.rewards.kernels import median_distance, rbf, squared_distances
from backend.rewards.queue import FeatureQueue
from backend.rewards.vendi import BANDWIDTH, vendi_credit, vendi_score


class Attributes(SetMetric):
    """Vendi score (q = 2) in the space of measured attributes, standardised by those measured on the reference."""

    name = "ATTRIBUTES"
    minimum = 3
    lazy_state = frozenset({"raw.rows"})  # states of earlier versions have `queue.rows`
    note = "unlike the other images in size, freshness, terrain, light and so on pays"

    def __init__(self, config: TrainConfig, context: MetricContext) -> None:
        super().__init__(config, context)
        if context.attribute_model is None:
            raise InputError("ATTRIBUTES needs the attribute regressors: build them with `python -m backend base-model attributes`", field="metric")
        self.model = context.attribute_model
        if not self.model.readable.any():
            raise InputError("the attribute regressors can read no attribute: build them again from more renders", field="metric")
        attributes = context.reference_attributes
        measured = (self.model.predict(context.reference_images) if attributes is None else attributes)[:, self.model.readable]
        self.standardiser = Standardiser.fit(measured)
        reference = self.standardiser.transform(measured)
        self.bandwidth = BANDWIDTH * median_distance(reference)
        self.queue = FeatureQueue(config.queue_size, reference.shape[1])

    def _measured(self, batch: RewardBatch) -> Tensor:
        """[B, readable attributes], not standardised."""
        attributes = batch.attributes if batch.attributes is not None else self.model.predict(batch.images)
        return finite(attributes, "attributes")[:, self.model.readable]

    def embed(self, batch: RewardBatch) -> Tensor:
        """[B, readable attributes]."""
        return self.standardiser.transform(self._measured(batch))

    def company(self, count: int) -> Tensor:
        """Attributes of recent images."""
        return self.standardiser.transform(self.queue.recent(count))

    def observe(self, batch: RewardBatch) -> None:
        """Keep the group's attributes as later company: not standardised, for a curriculum of the reference changes the units."""
        if len(batch):
            self.queue.push(self._measured(batch))

    def _kernel(self, x: Tensor) -> Tensor:
        return rbf(squared_distances(x, x), self.bandwidth)

    def set_score(self, x: Tensor) -> float:
        """Effective number of different attribute combinations."""
        return vendi_score(self._kernel(x), 2)

    def set_credit(self, x: Tensor) -> Credit:
        """Exact difference reward."""
        return Credit(torch.zeros(len(x), dtype=x.dtype), vendi_credit(self._kernel(x), 2))

    def state_dict(self) -> dict[str, Any]:
        """Attributes of recent images."""
        return {f"raw.{k}": v for k, v in self.queue.state_dict().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the attributes of recent images; those of an earlier version are standardised, and in the units of the whole reference, as it is when a run resumes."""
        rows = state.get("raw.rows")
        if rows is None:
            rows = state["queue.rows"] * self.standardiser.std + self.standardiser.mean if "queue.rows" in state else self.queue.rows[:0]
        self.queue.load_state_dict({"rows": rows})
