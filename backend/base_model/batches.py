"""Batches made ahead of the training by other processes, so that a GPU does not wait for a host that crops and words captions."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

T = TypeVar("T")
MOST_WORKERS = 12
AHEAD = 4  # batches that each worker has ready


def workers_for(device: str) -> int:
    """Processes that make batches: none on a CPU, whose cores the training itself has, and none where a process cannot fork."""
    if torch.device(device).type != "cuda" or not hasattr(os, "fork"):
        return 0
    return min(MOST_WORKERS, (os.cpu_count() or 1) - 1)


class _Numbered(torch.utils.data.Dataset):
    """Item `i` is the batch of step `first + i`."""

    def __init__(self, make: Callable[[int], T], first: int, end: int) -> None:
        self.make, self.first, self.end = make, first, end

    def __len__(self) -> int:
        return self.end - self.first

    def __getitem__(self, i: int) -> T:
        return self.make(self.first + i)


def _untouched(batch: T) -> T:
    return batch


def batches(make: Callable[[int], T], first: int, end: int, workers: int) -> Iterator[tuple[int, T]]:
    """Steps from `first` to `end` (exclusive) in order, each with its batch.

    Args:
        make: a step's batch from its number alone, so that who makes it does not matter.
        first, end: steps.
        workers: processes; 0 makes each batch when it is asked for.
    """
    if workers == 0 or end - first < 2:
        yield from ((step, make(step)) for step in range(first, end))
        return
    settings = {"num_workers": workers, "prefetch_factor": AHEAD, "multiprocessing_context": "fork"}
    yield from enumerate(torch.utils.data.DataLoader(_Numbered(make, first, end), batch_size=None, collate_fn=_untouched, **settings), first)
