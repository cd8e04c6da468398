"""Several processes on one run (torchrun, accelerate): each draws and replays its share of the group, rank 0 writes."""

from __future__ import annotations

import os
from typing import Any

from backend.config import TrainConfig
from backend.runs import Run, RunStore


def world_size() -> int:
    """Number of processes that train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Number of this process among them."""
    return int(os.environ.get("RANK", "0"))


def is_main() -> bool:
    """Whether this process writes the run."""
    return rank() == 0


def shared_run(store: RunStore, config: TrainConfig, record: dict[str, Any]) -> Run:
    """The run that all processes train: rank 0 makes it, the others are told its id."""
    if world_size() == 1:
        return store.create(config, record)
    import torch.distributed as dist

    if not dist.is_initialized():
        dist.init_process_group("nccl" if _cuda() else "gloo")
    names = [store.create(config, record).id if is_main() else None]
    dist.broadcast_object_list(names)
    return store.get(names[0])


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()
