"""What the trainer itself remembers between episodes; all of it is in every checkpoint."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from backend.analysis.convergence import Trend, trend
from backend.training.cost import Estimate

SMOOTH = 10  # episodes behind the score that best checkpoints are judged by
LATEST, FEWEST = 20, 3  # episodes that a pace is judged by, and how many of them before anything is said


@dataclass
class Progress:
    """Counters and histories of a run.

    Attributes:
        episode: completed episodes.
        images: images drawn for training.
        scores: raw group score of each episode.
        best_score, best_episode: highest of them since the conditions last changed.
        base_scores: raw scores of groups of the untouched base, same N.
        multipliers: what realism and prompt relevance weigh beyond the settings (`Multipliers`).
        reference_level: mean raw score of equal-N subsets of the reference set.
        probes: raw scores of the fixed test images, the base's first.
        skipped: updates that a NaN stopped; skipped_in_a_row: the latest of them.
        live: live changes in force, by field.
        curriculum: memory of the curriculum.
        levels_from: episodes completed when the base began to be measured at the guidance that is in force.
        conditions: guidance and share of the reference set that the latest score was made under; steady_from: episodes completed when they last changed.
        warned: kinds of warning that are in force and have been said.
    """

    episode: int = 0
    images: int = 0
    scores: list[float] = field(default_factory=list)
    best_score: float | None = None
    best_episode: int | None = None
    base_scores: list[float] = field(default_factory=list)
    multipliers: dict[str, float] = field(default_factory=dict)
    reference_level: float | None = None
    probes: list[float] = field(default_factory=list)
    skipped: int = 0
    skipped_in_a_row: int = 0
    live: dict[str, Any] = field(default_factory=dict)
    curriculum: dict[str, Any] = field(default_factory=dict)
    warned: list[str] = field(default_factory=list)
    levels_from: int = 0
    conditions: list[float] = field(default_factory=list)
    steady_from: int = 0

    @property
    def base_level(self) -> float | None:
        """Mean raw score of base groups; those that have none do not count."""
        return mean_or_none(self.base_scores)

    @property
    def base_probe(self) -> float | None:
        """Raw score of the fixed test images for the untouched base."""
        return self.probes[0] if self.probes else None

    @property
    def probe_score(self) -> float | None:
        """The latest probe behind the base's."""
        return self.probes[-1] if len(self.probes) > 1 else None

    @property
    def smooth_score(self) -> float | None:
        """Mean of the finite ones among the latest `SMOOTH` scores since the conditions last changed."""
        return mean_or_none(self.scores[self.steady_from :][-SMOOTH:])

    def under(self, *conditions: float) -> None:
        """The next score is made under these conditions; best, mean and trend count from where they last changed, for they move the score by themselves."""
        if self.conditions != list(conditions):
            self.conditions, self.steady_from = list(conditions), self.episode
            self.best_score = self.best_episode = None

    def trend(self) -> Trend:
        """Of the scores since the conditions last changed, and of the probes, which are drawn and scored as the settings say throughout."""
        return trend(self.scores[self.steady_from :], self.probes)

    def add(self, score: float, images: int) -> None:
        """Count one completed episode."""
        self.episode += 1
        self.images += images
        self.scores.append(score)
        if math.isfinite(score) and (self.best_score is None or score > self.best_score):
            self.best_score, self.best_episode = score, self.episode

    def facts(self, trending: Trend) -> dict[str, Any]:
        """Columns of a row of policy_updates.csv."""
        return {
            "base_level": self.base_level,
            "reference_level": self.reference_level,
            "best_score": self.best_score,
            "score_smooth": self.smooth_score,
            "skipped": self.skipped,
            "trend_slope": trending.slope,
            "trend_low": trending.low,
            "trend_high": trending.high,
            "trend_from": self.steady_from + 1,
            "status": trending.state,
            "images": self.images,
        }

    def to_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Progress:
        """From a checkpoint; what a later version added keeps its default, and one that kept the first and latest probe alone has these."""
        values = {"probes": [values[name] for name in ("base_probe", "probe_score") if values.get(name) is not None], **values}
        names = {f.name for f in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in names})


def mean_or_none(values: Sequence[float]) -> float | None:
    """Mean of the finite values; None where there are none."""
    mean = mean_of_finite(values)
    return None if math.isnan(mean) else mean


def mean_of_finite(values: Sequence[float]) -> float:
    """Mean of the finite values; NaN where there are none."""
    finite = [v for v in values if math.isfinite(v)]
    return sum(finite) / len(finite) if finite else math.nan


class Pace:
    """How fast the episodes since the last start went, and how long the rest will take.

    Args:
        cost: what the cost model expects; only the ratio of the evaluation at the end to an episode is taken from it.
    """

    def __init__(self, cost: Estimate) -> None:
        self.durations: list[float] = []
        self._turns: list[float] = []
        self._share = cost.evaluation_seconds / cost.seconds_per_episode
        self._started = False

    def add_turn(self, seconds: float) -> None:
        """Count one episode with the samples, probes and checkpoints that follow it, without pauses and loans; the first, which warms up and measures the levels, is left out."""
        if self._started:
            self._turns.append(seconds)
        self._started = True

    @property
    def seconds_per_episode(self) -> float | None:
        """Median of the last 20 episodes alone; None while fewer than three are known."""
        if len(self.durations) < FEWEST:
            return None
        latest = sorted(self.durations[-LATEST:])
        return (latest[(len(latest) - 1) // 2] + latest[len(latest) // 2]) / 2

    @property
    def _turn(self) -> float | None:
        """Mean of the last 20 turns: what comes only every tenth episode is part of it."""
        latest = self._turns[-LATEST:]
        return sum(latest) / len(latest) if latest else self.seconds_per_episode

    def evaluation(self) -> float | None:
        """Seconds that the evaluation at the end is expected to take, at the pace of this machine."""
        return None if self._turn is None else self._share * self._turn

    def left(self, episodes: int) -> float | None:
        """Seconds until the end: so many more episodes and the evaluation; None while fewer than three episodes are known."""
        return None if self.seconds_per_episode is None or self._turn is None else episodes * self._turn + self._share * self._turn
