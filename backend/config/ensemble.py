"""The metrics of an ensemble, their extractors and weights, read from one line. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from backend.config.catalogue import EXTRACTORS, METRICS
from backend.errors import InputError


@dataclass(frozen=True)
class Part:
    """One metric of an ensemble.

    Attributes:
        metric: its name.
        extractor: the network it looks through.
        weight: of its normalised credit.
    """

    metric: str
    extractor: str
    weight: float

    @property
    def key(self) -> str:
        """Name in logs: METRIC or METRIC@extractor."""
        return f"{self.metric}@{self.extractor}"


def parse_ensemble(text: str, extractor: str) -> list[Part]:
    """Parts of `'MMD=1, COVERAGE=0.5, LPIPS@efficientnet_lite0=0.2'`.

    Args:
        text: TrainConfig's `ensemble`.
        extractor: for those that name none.

    Raises:
        InputError: not of that form, no part in it, an unknown name, a weight below zero, all weights zero, or the same part twice.
    """
    parts = []
    for piece in filter(None, (p.strip() for p in text.split(","))):
        name, equals, number = piece.partition("=")
        metric, _, network = name.strip().partition("@")
        try:
            weight = float(number) if equals else float("nan")
        except ValueError:
            weight = float("nan")
        if not 0 <= weight < float("inf"):
            raise InputError(f"ensemble part {piece!r}: write METRIC=weight or METRIC@extractor=weight with a weight of 0 or more", field="ensemble")
        try:
            part = Part(METRICS.get(metric.strip()).name, EXTRACTORS.get(network.strip() or extractor).name, weight)
        except InputError as error:
            raise InputError(f"ensemble part {piece!r}: {error}", field="ensemble") from error
        if any(part.key == other.key for other in parts):
            raise InputError(f"ensemble names {part.key} twice: add their weights", field="ensemble")
        parts.append(part)
    if text.strip() and not parts:
        raise InputError(f"ensemble {text!r} names no metric: write METRIC=weight, or leave it empty", field="ensemble")
    if parts and not any(p.weight > 0 for p in parts):
        raise InputError("every weight of the ensemble is 0: give one of them more", field="ensemble")
    return parts
