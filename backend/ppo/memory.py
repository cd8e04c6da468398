"""Experience memory: recent groups that are trained on again."""

from __future__ import annotations

from collections import deque
from dataclasses import fields
from typing import Any

import torch

from backend.diffusion.trajectory import Transitions
from backend.ppo.batch import Batch


class ReplayMemory:
    """The last `capacity` groups, on the CPU, with the log-probs of the policies that sampled them.

    Args:
        capacity: groups kept; 0 keeps none (on-policy).
    """

    def __init__(self, capacity: int) -> None:
        self.groups: deque[Batch] = deque(maxlen=capacity)

    def push(self, batch: Batch) -> None:
        """Keep a group (the oldest leaves)."""
        if self.groups.maxlen:
            self.groups.append(_moved(batch, torch.device("cpu"), fresh=False))

    def recall(self, device: torch.device) -> list[Batch]:
        """The kept groups, oldest first."""
        return [_moved(b, device, fresh=False) for b in self.groups]

    def tensors(self) -> dict[str, torch.Tensor]:
        """All groups as tensors by name."""
        out: dict[str, torch.Tensor] = {}
        for i, batch in enumerate(self.groups):
            for name in ("advantages", "returns", "values", "image"):
                out[f"{i}/{name}"] = getattr(batch, name)
            for f in fields(Transitions):
                value = getattr(batch.transitions, f.name)
                if value is not None:
                    out[f"{i}/t/{f.name}"] = value
        return {name: t.contiguous() for name, t in out.items()}

    def sizes(self) -> list[int]:
        """Images of each group."""
        return [b.images for b in self.groups]

    def load(self, tensors: dict[str, torch.Tensor], sizes: list[int]) -> None:
        """Take over what `tensors` and `sizes` gave."""
        self.groups.clear()
        for i, images in enumerate(sizes):
            values: dict[str, Any] = {f.name: tensors.get(f"{i}/t/{f.name}") for f in fields(Transitions)}
            flat = [tensors[f"{i}/{name}"] for name in ("advantages", "returns", "values", "image")]
            self.groups.append(Batch(Transitions(**values), *flat, images, torch.zeros(len(flat[0]), dtype=torch.bool)))


def _moved(batch: Batch, device: torch.device, fresh: bool) -> Batch:
    t = Transitions(**{f.name: None if (v := getattr(batch.transitions, f.name)) is None else v.detach().to(device) for f in fields(Transitions)})
    flat = [getattr(batch, name).detach().to(device) for name in ("advantages", "returns", "values", "image")]
    return Batch(t, *flat, batch.images, torch.full_like(batch.fresh, fresh, device=device))
