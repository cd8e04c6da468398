"""What the reward function says about one group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

BONUSES = ("sequential", "spatial", "entropy", "quality")
WEIGHTS = ("diversity", *BONUSES, "adherence")
DAMAGED = "the image has values that are not finite: it gets the group's lowest reward"


@dataclass
class RewardResult:
    """The reward of one group of B images.

    Attributes:
        score: raw score of the set, higher is better: what a reward curve shows. For an ensemble the weighted mean of the
            parts' scores, each on the scale on which the reference is 0 and one reference image repeated is -1. NaN where the set has none.
        total: [B] float32, weighted sum of the normalised components: what the advantage is made of.
        components: normalised value of each image by component; `diversity` is the weighted sum of the metrics.
        raw_components: the same in raw units; a single metric's credit under `diversity`.
        explanations: one dictionary per image; see `MetricResult`.
        features: [B, D] standardised, of the first metric's extractor; zeros for an image that is not finite.
        scores: raw score of each metric by name.
    """

    score: float
    total: Tensor
    components: dict[str, Tensor]
    raw_components: dict[str, Tensor]
    explanations: list[dict[str, Any]]
    features: Tensor
    scores: dict[str, float]


def spread(values: Tensor, keep: Tensor) -> Tensor:
    """Values of the finite images [b] over the whole group [B] float32; the others get the lowest of them.

    Args:
        values: [b]
        keep: [B] bool, b of them true.
    """
    out = torch.zeros(len(keep), dtype=torch.float32)
    if keep.any():
        out[keep] = values.float()
        out[~keep] = float(values.min())
    return out


def spread_explanations(found: list[dict[str, Any]], keep: Tensor) -> list[dict[str, Any]]:
    """Explanations of the finite images spread over the group [B] bool; companions in the group are indices into the whole group again."""
    positions = keep.nonzero().flatten().tolist()
    out = [{"attraction": 0.0, "repulsion": 0.0, "companion": -1, "companion_kind": "group", "note": DAMAGED} for _ in range(len(keep))]
    for position, explanation in zip(positions, found, strict=True):
        out[position] = dict(explanation)
        if explanation["companion_kind"] == "group" and explanation["companion"] >= 0:
            out[position]["companion"] = positions[explanation["companion"]]
    return out
