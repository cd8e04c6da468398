"""The step's course over a run's episodes, by the names of transformers' `lr_scheduler_type`."""

from __future__ import annotations

import math
from typing import Any

from backend.config import TrainConfig


def lr_factor(kind: str, episode: int, episodes: int) -> float:
    """Share of the learning rate in an episode, in (0, 1].

    Args:
        kind: `constant`, `linear` (down to 1 / episodes) or `cosine` (half a wave).
        episode: from 1 to `episodes`.
        episodes: of the whole run; a run that is given more of them later goes on at the longer course's level.
    """
    done = (episode - 1) / episodes
    return {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[kind]


def anneal(config: TrainConfig, episode: int, agent: Any, live: TrainConfig) -> None:
    """Set an episode's learning rates, the policy's and the critic's; and TRPO's clip range, since its steps are as long as the trust region that follows from it.

    Args:
        config: settings of the run.
        episode: from 1.
        agent: gets them.
        live: the settings in force, live changes included.
    """
    if config.lr_scheduler == "constant":
        return
    factor = lr_factor(config.lr_scheduler, episode, config.episodes)
    for name in ("learning_rate", "learning_rate_critic"):
        agent.set_knob(name, getattr(live, name) * factor)
    if config.algorithm == "TRPO":
        agent.set_knob("clip_range_nats", agent.clip_nats_of(live) * factor)
