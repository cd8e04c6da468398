"""Agents on the miniature pipeline."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from backend.config import make_config
from backend.diffusion.backbone import Backbone, load_backbone
from backend.policies.base import build_policy
from backend.ppo.agent import Agent

SMALL = {"prompts_per_group": 3, "images_per_prompt": 2, "num_inference_steps": 6, "window_start": 0, "window_size": 2, "lora_rank": 4, "learning_rate": 1e-3}


class Bench:
    """An agent with prompts, and one call per episode."""

    def __init__(self, backbone: Backbone, **values) -> None:
        self.config = make_config(SMALL | values)
        self.agent = Agent(self.config, backbone, build_policy(self.config, backbone))
        self.embeds = backbone.encode(["aerial view of young crater", "old crater with soft rims", "dark rocky crater"])
        self.index = torch.arange(3).repeat_interleave(2)

    def rollout(self, episode: int = 0, **kwargs):
        return self.agent.rollout(self.embeds[self.index], [100 * episode + i for i in range(6)], episode, **kwargs)

    def episode(self, number: int, reward: Callable = lambda images: 20 * (images.mean((1, 2, 3)) - 0.5), **kwargs):
        trajectory = self.rollout(number)
        return self.agent.update(trajectory, reward(trajectory.images), self.index, None, torch.Generator().manual_seed(number), **kwargs)


@cache
def loaded(folder: Path, dtype: torch.dtype) -> Backbone:
    """A pipeline as it is after loading, to be copied: loading takes longer than most tests."""
    return load_backbone(folder, dtype=dtype)


@pytest.fixture
def bench(tiny_pipeline: Path) -> Callable[..., Bench]:
    """`bench(mode=..., ...)`: a fresh agent on a miniature pipeline of its own."""
    return lambda dtype=torch.float32, **values: Bench(copy.deepcopy(loaded(tiny_pipeline, dtype)), **values)
