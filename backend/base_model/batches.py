"""Batches made ahead of the training by other processes, so that a GPU does not wait for a host that crops and words captions."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch

T = TypeVar("T")
MOST_WORKERS = 12
AHEAD = 4  # batches that each worker has ready


def workers_for(device: str) -> int:
    """Processes that make batches: none on a CPU, whose cores the training itself has, and none where a process cannot fork."""
    if torch.device(device).type != "cuda" or not hasattr(os, "fork"):
        return 0
    return min(MOST_WORKERS, (os.cpu_count() or 1) - 1)


def batches(make: Callable[[np.random.Generator], T], seed: Sequence[int], first: int, end: int, workers: int) -> Iterator[tuple[int, tuple[T, np.random.Generator]]]:
    """Steps from `first` to `end` (exclusive) in order, each with its batch and the generator as the batch left it.

    Args:
        make: a batch from the step's own generator.
        seed: of the generators, with the step's number behind it: who makes a batch, and where a training went on, does not matter.
        first, end: steps.
        workers: processes; 0 makes each batch when it is asked for.
    """

    def of_step(step: int) -> tuple[T, np.random.Generator]:
        rng = np.random.default_rng([*seed, step])
        return make(rng), rng

    ahead = {"prefetch_factor": AHEAD, "multiprocessing_context": "fork"} if workers else {}
    # A loader without a generator of its own would draw from the process' random state.
    loader = torch.utils.data.DataLoader(range(first, end), batch_size=None, collate_fn=of_step, num_workers=workers, generator=torch.Generator(), **ahead)
    return enumerate(loader, first)
