"""A curriculum: something starts small and grows, by schedule or by success (Bengio et al. 2009, doi 10.1145/1553374.1553380)."""

from __future__ import annotations

import math
from typing import Any

from backend.config import TrainConfig

MOVING = 0.9  # memory of the moving average that a success is measured against


class Curriculum:
    """Level in [curriculum_start, 1] of the settings' curriculum.

    Args:
        config: the settings.
        memory: a dictionary that lives in the trainer's progress, so that a resume goes on from it.
    """

    def __init__(self, config: TrainConfig, memory: dict[str, Any]) -> None:
        self.config = config
        self.memory = memory
        memory.setdefault("level", config.curriculum_start)
        memory.setdefault("average", None)

    def level(self, episode: int) -> float:
        """Share of the final value in force in an episode (counted from 1); 1 without a curriculum."""
        if self.config.curriculum == "none":
            return 1.0
        if self.config.curriculum_by == "success":
            return self.memory["level"]
        start = self.config.curriculum_start
        return start + (1 - start) * min(1.0, (episode - 1) / self.config.curriculum_episodes)

    def learn(self, score: float) -> None:
        """Take one episode's raw score: above its moving average the level rises by one part in `curriculum_episodes`."""
        if not math.isfinite(score):
            return
        average = self.memory["average"]
        if average is not None and score > average:
            self.memory["level"] = min(1.0, self.memory["level"] + (1 - self.config.curriculum_start) / self.config.curriculum_episodes)
        self.memory["average"] = score if average is None else MOVING * average + (1 - MOVING) * score

    def apply(self, episode: int, agent: Any, reward: Any, live: TrainConfig) -> None:
        """Set what grows to its value of this episode.

        Args:
            episode: from 1.
            agent: gets the guidance.
            reward: gets the diversity weight or the share of the reference set.
            live: the settings in force, live changes included.
        """
        if self.config.curriculum == "diversity_weight":
            reward.set_weight("diversity", live.diversity_weight * self.level(episode))
        elif self.config.curriculum == "guidance":
            agent.set_knob("guidance_scale", max(1.0, live.guidance_scale * self.level(episode)))
        elif self.config.curriculum == "reference":
            reward.set_reference_share(self.level(episode))
