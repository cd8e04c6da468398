"""The pairs that one update trains on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from backend.diffusion.trajectory import Trajectory, Transitions
from backend.ppo.advantages import Credit


@dataclass
class Batch:
    """m (image, step) pairs of one or more groups with their credit.

    Attributes:
        advantages, returns, values: [m].
        image: number of the image over all groups [m] long.
        images: how many images there are, those with zero advantage included.
        fresh: sampled by the present policy, not replayed from memory [m] bool.
    """

    transitions: Transitions
    advantages: torch.Tensor
    returns: torch.Tensor
    values: torch.Tensor
    image: torch.Tensor
    images: int
    fresh: torch.Tensor

    def __len__(self) -> int:
        return len(self.advantages)

    @staticmethod
    def of(trajectory: Trajectory, credit: Credit, fresh: bool = True) -> Batch:
        """All pairs of one group, image by image."""
        images = len(trajectory)
        transitions = trajectory.transitions(torch.arange(images))
        return Batch.from_transitions(transitions, *[x.T.reshape(-1).clone() for x in (credit.advantages, credit.returns, credit.values)], images, fresh)

    @staticmethod
    def from_transitions(transitions: Transitions, advantages: torch.Tensor, returns: torch.Tensor, values: torch.Tensor, images: int, fresh: bool) -> Batch:
        """Pairs of one group whose credit is known."""
        return Batch(transitions, advantages, returns, values, transitions.image.clone(), images, torch.full_like(transitions.image, fresh, dtype=torch.bool))

    @staticmethod
    def join(parts: list[Batch]) -> Batch:
        """Several groups as one batch."""
        if len(parts) == 1:
            return parts[0]
        offsets = [sum(p.images for p in parts[:i]) for i in range(len(parts))]
        flat = [torch.cat([getattr(p, name) for p in parts]) for name in ("advantages", "returns", "values")]
        image = torch.cat([p.image + o for p, o in zip(parts, offsets, strict=True)])
        return Batch(Transitions.join([p.transitions for p in parts]), *flat, image, sum(p.images for p in parts), torch.cat([p.fresh for p in parts]))

    def take(self, index: torch.Tensor) -> Batch:
        """Some of the pairs."""
        return Batch(self.transitions.take(index), self.advantages[index], self.returns[index], self.values[index], self.image[index], self.images, self.fresh[index])

    def used(self) -> Batch:
        """Only pairs with an advantage other than zero."""
        return self.take(self.advantages.ne(0).nonzero().squeeze(1))

    def minibatches(self, count: int, generator: torch.Generator) -> Iterator[tuple[Batch, int]]:
        """A random partition of the images into `count` parts, each with its number of images."""
        order = torch.randperm(self.images, generator=generator).to(self.image.device)
        for part in order.tensor_split(count):
            index = torch.isin(self.image, part).nonzero().squeeze(1)
            yield self.take(index), len(part)

    def split(self, size: int) -> Iterator[Batch]:
        """Chunks of at most `size` pairs."""
        for start in range(0, len(self), size):
            yield self.take(torch.arange(start, min(start + size, len(self)), device=self.image.device))
