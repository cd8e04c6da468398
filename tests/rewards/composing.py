"""Reward functions on the rendered reference set, for the tests of composition and of gradients."""

from __future__ import annotations

import torch

from backend.config.schema import TrainConfig
from backend.rewards.composition import RewardFunction


def make(renders, base=None, **settings) -> RewardFunction:
    return RewardFunction(TrainConfig(**settings), renders.reference, renders.captions, base_images=base)


def call(function, images, captions):
    return function(images, captions, torch.arange(len(images)))
