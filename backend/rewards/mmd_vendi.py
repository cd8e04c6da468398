"""MMD and the Vendi score in one sum: near to the reference as a set, and more unlike each other than matching it alone asks."""

from __future__ import annotations

from torch import Tensor

from backend.config.schema import TrainConfig
from backend.rewards.base import Credit, MetricContext, SetMetric
from backend.rewards.mmd import MMD
from backend.rewards.vendi import Vendi


class MMDVendi(SetMetric):
    """R(X) = -MMD^2(X, Y) + w Vendi(X) / N, w = `vendi_weight`.

    MMD looks at the reference; within a group of sixteen images it says little of how different they are, which the Vendi score
    says by itself. Both parts have exact credits, and so has their sum.
    """

    name = "MMD_VENDI"
    note = "near the reference pays, near the other images costs twice"

    def __init__(self, config: TrainConfig, context: MetricContext) -> None:
        super().__init__(config, context)
        self.mmd, self.vendi, self.weight = MMD(config, context), Vendi(config, context), config.vendi_weight

    def set_value(self, x: Tensor) -> Tensor:
        """R of [N, D], N >= 2."""
        return self.mmd.set_value(x) + self.weight * self.vendi.set_value(x) / len(x)

    def set_credit(self, x: Tensor) -> Credit:
        """Exact difference reward. With V the Vendi score, V(X)/N - V(X without i)/(N-1) = V(X)/N - (V(X) - D_i)/(N-1)."""
        near, value, apart = self.mmd.set_credit(x), self.vendi.set_value(x), self.vendi.set_credit(x).total
        share = value / len(x) - (value - apart) / (len(x) - 1)
        return Credit(near.attraction, near.repulsion + self.weight * share)
