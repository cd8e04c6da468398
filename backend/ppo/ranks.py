"""The processes that make one update together, as the update sees them."""

from __future__ import annotations

from typing import Any

import torch


class Ranks:
    """One process: its share is everything. A team of processes answers the same calls for many."""

    rank, size = 0, 1

    def share(self, count: int) -> torch.Tensor:
        """Which of `count` things this process works on [n] long; consecutive, and none where there are fewer things than processes."""
        return torch.arange(count).tensor_split(self.size)[self.rank]

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, in the order of ranks, on every process."""
        return [value]

    def total(self, value: torch.Tensor) -> torch.Tensor:
        """The sum of every process's tensor, the same bits on every process."""
        return value

    def join(self, part: torch.Tensor | None, dim: int = 0) -> torch.Tensor:
        """The parts of all processes one after another; None is an empty part.

        Args:
            part: this process's, on any device; what comes back is on the CPU where there are several processes.
            dim: along which they lie.
        """
        if self.size == 1:
            return part
        return torch.cat([p for p in self.gather(None if part is None else part.cpu()) if p is not None], dim)
