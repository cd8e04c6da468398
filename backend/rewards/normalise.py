"""Scales: the running mean and standard deviation of one reward component, and where a metric's scale is anchored in an ensemble."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from backend.rewards.base import Metric, RewardBatch

# A group's share of the running moments once they are warm: a memory of about 20 groups, long against the noise of one
# group and short against a run.
MOMENTUM = 0.05
SAME = 1e-12  # part of the mean square below which a variance is rounding


class RunningNormaliser:
    """Puts a component on a common scale before it is weighted, or the one with the largest numbers would rule.

    The moments are those of *earlier* groups, so the mean that is subtracted is a baseline that the present group has no
    part in and adds no bias to its gradient. Only the first group is measured by its own, and so is the scale (about the earlier mean) as long as
    no two values have differed: the floor in its place would make the first that does thousands of times as large as all that follow.

    Args:
        floor: smallest standard deviation that is divided by.
    """

    def __init__(self, floor: float) -> None:
        self.floor = floor
        self.mean = 0.0
        self.square = 0.0
        self.groups = 0

    @property
    def std(self) -> float:
        """Running standard deviation, not less than the floor."""
        return max((max(self.square - self.mean**2, 0.0)) ** 0.5, self.floor)

    @property
    def settled(self) -> bool:
        """Whether earlier values have differed, so that the scale is theirs."""
        return self.groups > 0 and self.square - self.mean**2 > SAME * self.square

    def scale(self, values: Tensor) -> float:
        """What the values [B >= 1] of the present group are divided by."""
        if self.settled:
            return self.std
        own = (values - self.mean).square().mean().sqrt() if self.groups else values.std(correction=0)
        return max(float(own), self.floor)

    def apply(self, values: Tensor) -> Tensor:
        """Normalised values [B]; nothing is remembered."""
        if len(values) == 0:
            return values
        return (values - (self.mean if self.groups else values.mean())) / self.scale(values)

    def update(self, values: Tensor) -> None:
        """Take the finite values of a group [B] into the moments; a plain average over the first groups, an exponential one after."""
        values = values[values.isfinite()]
        if len(values) == 0:
            return
        self.groups += 1
        share = max(1 / self.groups, MOMENTUM)
        self.mean += share * (float(values.mean()) - self.mean)
        self.square += share * (float((values**2).mean()) - self.square)

    def state_dict(self) -> dict[str, Any]:
        """Its moments."""
        return {"moments": torch.tensor([self.mean, self.square], dtype=torch.float64), "groups": self.groups}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over saved moments."""
        self.mean, self.square = (float(v) for v in state["moments"])
        self.groups = int(state["groups"])


def anchor(metric: Metric, varied: RewardBatch, repeated: RewardBatch) -> tuple[float, float]:
    """Where a metric's scale begins and how long it is, so that metrics of an ensemble can be added.

    Args:
        metric: on the reference set.
        varied, repeated: reference images, and one of them repeated.

    Returns:
        The score of the varied images, and its distance from that of the repeated one; 1 where the metric, being of single images, does not tell them apart.
    """
    top, bottom = (r.score if r.defined else 0.0 for r in (metric.evaluate(varied), metric.evaluate(repeated)))
    return top, abs(top - bottom) if abs(top - bottom) > 1e-6 else 1.0
