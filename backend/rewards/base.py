"""What every metric is: a group of images in, the group's score and each image's credit out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from backend.config.schema import SMALLEST_SET, TrainConfig
from backend.errors import InputError
from backend.rewards.kernels import squared_distances
from backend.rewards.queue import FeatureQueue

if TYPE_CHECKING:
    from backend.features.base import Extractor
    from backend.rewards.attributes_model import AttributeModel

# Images of the queue that stand in for the group where it is too small or where each image is scored alone.
COMPANY = 63


@dataclass
class RewardBatch:
    """One group.

    Attributes:
        features: [B, D] standardised by the reference set.
        images: [B, 3, h, w] in [0, 1].
        captions: B prompts.
        prompt_index: [B] which prompt each image belongs to.
        attributes: [B, A] measured crater attributes, where the regressors are there.
    """

    features: Tensor
    images: Tensor
    captions: list[str]
    prompt_index: Tensor
    attributes: Tensor | None = None

    def __len__(self) -> int:
        return len(self.features)


@dataclass
class MetricResult:
    """What a metric says about one group.

    Attributes:
        score: raw score of the group; higher is better. NaN where the group has none.
        credit: [B] float64, share of each image in it, in the score's units.
        explanations: one dictionary per image: attraction (toward the reference), repulsion (from the other images), their
            sum being the credit; companion, the index of the nearest image, and companion_kind, what it is an index into
            (group, queue or reference; -1 where there is none); note, a plain sentence.
        exact: credit is R(X) - R(X without i) exactly, not its first order.
        set_size: images in the set that the credit was taken from; credit x set_size does not shrink with it.
    """

    score: float
    credit: Tensor
    explanations: list[dict[str, Any]]
    exact: bool = True
    set_size: int = 1

    @property
    def defined(self) -> bool:
        """Whether the group has a score at all."""
        return not math.isnan(self.score)


@dataclass
class MetricContext:
    """What a metric may look at besides the group.

    Attributes:
        reference: [M, D] float64 standardised features of the reference set.
        reference_images: [M, 3, h, w] in [0, 1].
        queue: features of recent images.
        attribute_model: regressors from images to crater attributes; None where no file of them is there.
        extractor: the network behind the features.
        reference_captions: M captions, or none.
        reference_attributes: [M, A] measured on the reference images, where that came free.
    """

    reference: Tensor
    reference_images: Tensor
    queue: FeatureQueue
    attribute_model: AttributeModel | None = None
    extractor: Extractor | None = None
    reference_captions: list[str] = field(default_factory=list)
    reference_attributes: Tensor | None = None


@dataclass
class Credit:
    """Credit of each member of a set, in two parts.

    Attributes:
        attraction: [N] part that comes from the reference (or from the image alone).
        repulsion: [N] part that comes from the other members.
    """

    attraction: Tensor
    repulsion: Tensor

    @property
    def total(self) -> Tensor:
        """[N] attraction + repulsion."""
        return self.attraction + self.repulsion


class Metric:
    """Base class of metrics. `evaluate` changes nothing; `observe` takes a scored group into the metric's own memory.

    Args:
        config: the run's settings.
        context: reference, queue and models.

    Attributes:
        lazy_state: keys that `state_dict` has from the first observed group on; without them `load_state_dict` goes back to before it.
    """

    name = ""
    higher_is_diverse = True
    lazy_state: frozenset[str] = frozenset()

    def __init__(self, config: TrainConfig, context: MetricContext) -> None:
        self.config = config
        self.context = context

    def evaluate(self, batch: RewardBatch) -> MetricResult:
        """Score and credit of one group."""
        raise NotImplementedError(f"{type(self).__name__} must define evaluate(batch)")

    def observe(self, batch: RewardBatch) -> None:
        """Remember a group that has been scored; most metrics have no memory of their own."""

    def state_dict(self) -> dict[str, Any]:
        """Memory of its own as tensors and JSON-able scalars under flat keys."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""


def finite(features: Tensor, what: str = "features") -> Tensor:
    """The features as float64 on the CPU.

    Raises:
        InputError: one of them is NaN or infinite.
    """
    values = features.detach().double().cpu()
    bad = (~torch.isfinite(values)).flatten(1).any(1) if values.ndim > 1 else ~torch.isfinite(values)
    if bad.any():
        raise InputError(f"{what} of image {int(bad.nonzero()[0])} are not finite: leave that image out or find where it overflowed")
    return values


def nearest(x: Tensor, others: Tensor, same_set: bool) -> tuple[list[int], list[float]]:
    """Index of and distance to the nearest row of `others` for each row of `x`; -1 and infinity where there is none."""
    if len(others) <= int(same_set):
        return [-1] * len(x), [float("inf")] * len(x)
    squares = squared_distances(x, others)
    if same_set:
        squares = squares.clone().fill_diagonal_(float("inf"))
    values, indices = squares.min(1)
    return indices.tolist(), values.sqrt().tolist()


def explain(credit: Credit, companions: Sequence[int], kind: str, note: str = "") -> list[dict[str, Any]]:
    """One explanation per image."""
    rows = zip(credit.attraction.tolist(), credit.repulsion.tolist(), companions, strict=True)
    return [{"attraction": a, "repulsion": r, "companion": int(c), "companion_kind": kind, "note": note} for a, r, c in rows]


def undefined(count: int, note: str) -> MetricResult:
    """What a group gets that has no value: no score (NaN, which no best, mean or level counts), zero credit, and the reason."""
    zero = torch.zeros(count, dtype=torch.float64)
    return MetricResult(math.nan, zero, explain(Credit(zero, zero), [-1] * count, "group", note), exact=False)


class SetMetric(Metric):
    """A metric that is a function of a set of feature rows. A subclass defines `set_score` and `set_credit`.

    A group smaller than `minimum`, and any group in single-image mode, is scored against the queue: each image's credit is
    then R(queue + image) - R(queue).
    """

    minimum = SMALLEST_SET
    exact = True
    note = ""

    def set_value(self, x: Tensor) -> Tensor:
        """R(X) of [N, D] float64 with its graph, in metrics whose catalogue entry says that they are differentiable."""
        raise NotImplementedError(f"{type(self).__name__} must define set_score(x), or set_value(x) where it is differentiable")

    def set_score(self, x: Tensor) -> float:
        """R(X) of [N, D] float64."""
        return float(self.set_value(x))

    def set_credit(self, x: Tensor) -> Credit:
        """R(X) - R(X without i) for each i of [N, D] float64."""
        raise NotImplementedError(f"{type(self).__name__} must define set_credit(x)")

    def embed(self, batch: RewardBatch) -> Tensor:
        """[B, D] float64: what is compared. The standardised features unless a subclass measures something else."""
        return finite(batch.features)

    def company(self, count: int) -> Tensor:
        """The newest rows of the queue in the space of `embed`."""
        return self.context.queue.recent(count)

    def evaluate(self, batch: RewardBatch) -> MetricResult:
        """Score and credit of one group; see the class for small groups."""
        x = self.embed(batch)
        if len(x) == 0:
            return undefined(0, "")
        if len(x) < self.minimum or self.config.reward_mode == "single":
            return self._against_queue(x)
        credit = self.set_credit(x)
        companions, _ = nearest(x, x, same_set=True)
        return MetricResult(self.set_score(x), credit.total, explain(credit, companions, "group", self.note), self.exact, len(x))

    def _against_queue(self, x: Tensor) -> MetricResult:
        """Each image as one more member of the recent images."""
        others = self.company(COMPANY)
        if len(others) + 1 < self.minimum:
            return undefined(len(x), f"{len(others)} earlier images are too few to compare with")
        parts = [self.set_credit(torch.cat([others, row[None]])) for row in x]
        credit = Credit(torch.stack([p.attraction[-1] for p in parts]), torch.stack([p.repulsion[-1] for p in parts]))
        score = self.set_score(x) if len(x) >= self.minimum else self.set_score(torch.cat([others, x]))
        start = len(self.context.queue) - len(others)
        companions = [start + c for c in nearest(x, others, same_set=False)[0]]
        return MetricResult(score, credit.total, explain(credit, companions, "queue", "compared with recent images"), self.exact, len(others) + 1)


def pointwise_credit(scores: Tensor) -> Tensor:
    """R(X) - R(X without i) where R is the mean of scores that each image has by itself: (s_i - mean) / (N - 1); s itself at N = 1."""
    return (scores - scores.mean()) / (len(scores) - 1) if len(scores) > 1 else scores.clone()


class PointwiseMetric(Metric):
    """A metric whose set score is the mean of scores that each image has by itself. A subclass defines `image_scores`."""

    higher_is_diverse = False
    note = ""

    def image_scores(self, batch: RewardBatch) -> Tensor:
        """[B] float64; NaN where the image cannot be judged, which counts as the mean of the others."""
        raise NotImplementedError(f"{type(self).__name__} must define image_scores(batch)")

    def evaluate(self, batch: RewardBatch) -> MetricResult:
        """Mean score and each image's share in it; in single-image mode the score itself."""
        if len(batch) == 0:
            return undefined(0, "")
        scores = self.image_scores(batch)
        known = ~torch.isnan(scores)
        if not known.any():
            return undefined(len(batch), "none of the prompts says anything that can be measured")
        scores = torch.where(known, scores, scores[known].mean())
        single = self.config.reward_mode == "single"
        credit = scores if single else pointwise_credit(scores)
        companions, _ = nearest(finite(batch.features), self.context.reference, same_set=False)
        found = explain(Credit(credit, torch.zeros_like(credit)), companions, "reference", self.note)
        return MetricResult(float(scores.mean()), credit, found, True, 1 if single else len(batch))
