"""Coefficients that adapt so that a measured figure meets its target."""

from __future__ import annotations

import math
from dataclasses import dataclass

RATE = 0.1
GROWTH = 1000.0


@dataclass
class AdaptiveCoefficient:
    """A positive coefficient that moves by at most 10 % an update, up to 1000 times its start value; 0 stays 0.

    Attributes:
        value: present coefficient.
        start: value the range is counted from.
        shrink: largest factor by which it may fall below its start.
    """

    value: float
    start: float
    shrink: float = 1000.0

    def adapt(self, excess: float) -> None:
        """Grow where `excess` is positive, shrink where it is negative; `excess` is cut to plus or minus 1."""
        if self.value <= 0 or not math.isfinite(excess):
            return
        moved = self.value * math.exp(RATE * max(-1.0, min(1.0, excess)))
        self.value = min(max(moved, self.start / self.shrink), self.start * GROWTH)

    def reset(self, value: float) -> None:
        """A new start value, set by hand."""
        self.value = self.start = value
