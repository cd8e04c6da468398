"""Every random choice of the trainer, as a pure function of the run's seed and the episode: a resume needs no memory of them."""

from __future__ import annotations

import numpy as np
import torch

from backend.config import TrainConfig

PROMPTS, NOISE, UPDATE, BASE, PROBE, REFERENCE = range(6)  # streams that never share a number
BASE_GROUPS = 1_000_000_000  # episodes beyond any run's: groups that measure the untouched base


def _rng(config: TrainConfig, stream: int, number: int) -> np.random.Generator:
    return np.random.default_rng([config.seed, stream, number])


def choose_group(config: TrainConfig, prompts: int, episode: int) -> tuple[list[int], list[int]]:
    """The group of one episode: G prompts, each n times, and a noise seed for every image.

    Args:
        config: gives G, n and the run's seed.
        prompts: P, length of the prompt list; prompts repeat only where G > P.
        episode: its number.

    Returns:
        Prompt index [B] and seed [B]; no two seeds of a group are equal.
    """
    rng = _rng(config, PROMPTS, episode)
    chosen: list[int] = []
    while len(chosen) < config.prompts_per_group:
        chosen += rng.permutation(prompts).tolist()
    chosen = chosen[: config.prompts_per_group]
    index = [p for p in chosen for _ in range(config.images_per_prompt)]
    return index, _distinct(_rng(config, NOISE, episode), len(index))


def fixed_group(config: TrainConfig, prompts: int, images: int, stream: int = PROBE) -> tuple[list[int], list[int]]:
    """The same images whenever asked: prompts in turn, seeds from a stream of their own.

    Returns:
        Prompt index [images] and seed [images].
    """
    return [i % prompts for i in range(images)], _distinct(_rng(config, stream, 0), images)


def update_generator(config: TrainConfig, episode: int) -> torch.Generator:
    """The generator of one episode's update (minibatch order)."""
    generator = torch.Generator()
    generator.manual_seed(int(_rng(config, UPDATE, episode).integers(2**53)))
    return generator


def reference_subsets(config: TrainConfig, size: int, count: int, subsets: int) -> list[list[int]]:
    """Random subsets of the reference set.

    Args:
        config: gives the seed.
        size: M.
        count: members of each; with repetition only where count > M.
        subsets: how many.
    """
    rng = _rng(config, REFERENCE, 0)
    return [rng.choice(size, count, replace=count > size).tolist() for _ in range(subsets)]


def _distinct(rng: np.random.Generator, count: int) -> list[int]:
    seeds: dict[int, None] = {}
    while len(seeds) < count:
        seeds[int(rng.integers(2**53))] = None  # exact in JSON and in a browser
    return list(seeds)
