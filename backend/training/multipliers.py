"""What variety must not cost, as constraints: realism and prompt relevance weigh more as soon as they fall below the base's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from backend.config import TrainConfig
from backend.config.schema import PAIR_EVERY
from backend.training.progress import Progress

HELD = ("quality", "adherence")  # bonuses that are held at the base's level
HEAVIEST = 100.0  # what a weight may be


class Multipliers:
    """Lagrange multipliers by dual ascent, as in reward-constrained policy optimisation (Tessler et al. 2018, arXiv 1805.11074).

    The weight of a bonus in force is that of the settings plus λ. Every fifth group is drawn by the base too, from the same prompts and seeds, for
    three quarters of the bonuses' variance are the prompts'. After it

        λ ← max(0, λ + lagrange_rate · ((base − group) / σ − lagrange_slack))

    with both groups' means and the bonus's running standard deviation σ.

    Args:
        config: the run's settings.
        progress: remembers λ.
    """

    def __init__(self, config: TrainConfig, progress: Progress) -> None:
        self.config, self.progress = config, progress

    def due(self, episode: int) -> bool:
        """Whether the base is to draw the group of this episode too."""
        return self.config.lagrange_rate > 0 and episode % PAIR_EVERY == 0

    def apply(self, reward: Any, live: TrainConfig) -> dict[str, float]:
        """Set the weights of an episode; nothing is set before anything was learned.

        Args:
            reward: gets them.
            live: the settings in force, live changes included.

        Returns:
            Weight in force by name of `HELD`.
        """
        weights = {name: min(HEAVIEST, getattr(live, f"{name}_weight") + self.progress.multipliers.get(name, 0.0)) for name in HELD}
        for name in self.progress.multipliers:
            reward.set_weight(name, weights[name])
        return weights

    def learn(self, reward: Any, result: Any, base: Mapping[str, float | None]) -> None:
        """Take one group in.

        Args:
            reward: the run's reward function.
            result: what it said of the group.
            base: its `probe` of what the base drew from the same prompts and seeds.
        """
        for name in HELD:
            level, values = base.get(name), result.raw_components.get(name)
            if level is None or values is None:
                continue
            lack = (level - float(values.mean())) / reward.normalisers[name].std
            if math.isfinite(lack):
                now = self.progress.multipliers.get(name, 0.0)
                self.progress.multipliers[name] = min(HEAVIEST, max(0.0, now + self.config.lagrange_rate * (lack - self.config.lagrange_slack)))
