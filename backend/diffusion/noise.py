"""Random numbers of a rollout: one seed per image, so that nothing depends on the batch an image is drawn in."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from backend.errors import InputError

INITIAL_STREAM, PLAN_STREAM, FIRST_STEP_STREAM = 0, 1, 2
_MASK = (1 << 64) - 1


def mix(seed: int, stream: int) -> int:
    """A 63-bit seed for one stream of one image (SplitMix64: Steele, Lea & Flood 2014, figure 13)."""
    z = (seed * 0x9E3779B97F4A7C15 + (stream + 1) * 0xD1B54A32D192ED03) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return (z ^ (z >> 31)) >> 1


class NoiseSource:
    """Standard normal numbers for B images, each from its own generators.

    Args:
        seeds: one per image [B]; equal seeds give equal noise.
        device: where the numbers are handed out. They are always drawn on the CPU, so they do not depend on it.

    Raises:
        InputError: no seeds, or a negative one.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.seeds = [int(s) for s in seeds]
        self.device = torch.device(device)
        if not self.seeds or min(self.seeds) < 0:
            raise InputError(f"noise seeds {self.seeds[:4]}: give at least one seed, none below 0", field="seed")

    def __len__(self) -> int:
        return len(self.seeds)

    def _draw(self, stream: int, shape: Sequence[int]) -> torch.Tensor:
        rows = [torch.randn(tuple(shape), generator=torch.Generator().manual_seed(mix(s, stream)), dtype=torch.float32) for s in self.seeds]
        return torch.stack(rows).to(self.device)

    def initial(self, shape: Sequence[int]) -> torch.Tensor:
        """Initial latents [B, *shape]."""
        return self._draw(INITIAL_STREAM, shape)

    def plan(self, shape: Sequence[int]) -> torch.Tensor:
        """Noise of the action that is chosen once per rollout [B, *shape]."""
        return self._draw(PLAN_STREAM, shape)

    def step(self, i: int, shape: Sequence[int]) -> torch.Tensor:
        """Noise of denoising step i [B, *shape]."""
        return self._draw(FIRST_STEP_STREAM + i, shape)
