"""The raw group score of drawn images: the number that training raises, on prompts and seeds that it never had."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from backend.config import TrainConfig
from backend.reference.dataset import load_reference
from backend.rewards.composition import RewardFunction

GROUP = 16  # images in a group, as in training's defaults


def reward_for(config: TrainConfig, device: str = "cpu") -> RewardFunction:
    """The run's reward with nothing in its queues."""
    reference = load_reference(config.reference, field="reference")
    return RewardFunction(config, reference.tensor(), reference.captions, device)


def group_scores(reward: RewardFunction, images: np.ndarray, captions: Sequence[str], size: int = GROUP) -> np.ndarray:
    """Raw score of each group of `size` consecutive images; a remainder is left out.

    Args:
        reward: which score.
        images: uint8 [N, h, w, 3].
        captions: [N].
        size: images in a group, as many as training's.

    Returns:
        [N // size] float64, higher is better.
    """
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    starts = range(0, len(images) - size + 1, size)
    return np.array([reward.score_set(tensor[i : i + size], list(captions[i : i + size])) for i in starts])
