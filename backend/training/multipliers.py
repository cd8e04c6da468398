"""What variety must not cost, as constraints: realism and prompt relevance weigh more as soon as they lie below the base's."""

from __future__ import annotations

import math
from typing import Any

from backend.config import TrainConfig
from backend.training.progress import Progress, mean_or_none

HELD = ("quality", "adherence")  # bonuses that have a level of the base to be held at
HEAVIEST = 100.0  # what a weight may be


class Multipliers:
    """Lagrange multipliers by dual ascent, as in reward-constrained policy optimisation (Tessler et al. 2018, arXiv 1805.11074).

    For each bonus the weight in force is that of the settings plus λ, and after each group

        λ ← max(0, λ + lagrange_rate · ((base − group) / σ − lagrange_slack))

    with the mean of the base's groups, the group's own mean and the bonus's running standard deviation σ.

    Args:
        config: the run's settings.
        progress: remembers λ and what the base's groups reached.
    """

    def __init__(self, config: TrainConfig, progress: Progress) -> None:
        self.config, self.progress = config, progress

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

    def learn(self, reward: Any, result: Any) -> None:
        """Take one group in, drawn under the conditions of the base's groups.

        Args:
            reward: the run's reward function, after the group.
            result: what it said of the group.
        """
        for name in HELD if self.config.lagrange_rate else ():
            base, values = mean_or_none([found[name] for found in self.progress.base_held if found.get(name) is not None]), result.raw_components.get(name)
            if base is None or values is None:
                continue
            lack = (base - float(values.mean())) / reward.normalisers[name].std
            if math.isfinite(lack):
                now = self.progress.multipliers.get(name, 0.0)
                self.progress.multipliers[name] = min(HEAVIEST, max(0.0, now + self.config.lagrange_rate * (lack - self.config.lagrange_slack)))
