"""Moving average of trained weights, for evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from backend.policies.base import Policy


class MovingAverage:
    """Exponential moving average of a policy's trained parameters.

    Args:
        policy: whose parameters are averaged.
        decay: weight of the past; grows to this from 0.1 over the first updates. 0 keeps the present weights.
    """

    def __init__(self, policy: Policy, decay: float) -> None:
        self.policy, self.decay, self.updates = policy, decay, 0
        self.tensors = policy.trainable_state()

    def update(self) -> None:
        """Weigh in the present parameters."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        with torch.no_grad():
            for name, p in self.policy.trainable().items():
                self.tensors[name].lerp_(p.detach(), 1 - decay) if self.decay else self.tensors[name].copy_(p)

    def reset(self) -> None:
        """Begin again from the present parameters."""
        self.tensors, self.updates = self.policy.trainable_state(), 0

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within it the policy has the averaged parameters."""
        present = self.policy.trainable_state()
        self.policy.load_trainable(self.tensors)
        try:
            yield
        finally:
            self.policy.load_trainable(present)
