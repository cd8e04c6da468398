"""MMD and MI together: 0.7 and 0.3 of their credits, each normalised first."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from backend.config.schema import TrainConfig
from backend.errors import InputError
from backend.rewards.base import Metric, MetricContext, MetricResult, RewardBatch
from backend.rewards.mi import MI
from backend.rewards.mmd import MMD
from backend.rewards.normalise import RunningNormaliser


class MMDMI(Metric):
    """Weighted sum of two normalised credits.

    The score is the weighted sum of both scores on fixed scales (their values for a collapsed set: 1 - c for MMD, ln 2 for
    MI), so that it means the same in the first episode and the last.
    """

    name = "MMD_MI"

    def __init__(self, config: TrainConfig, context: MetricContext) -> None:
        super().__init__(config, context)
        if config.mmd_weight + config.mi_weight <= 0:
            raise InputError("mmd_weight and mi_weight are both 0: give one of them more", field="mmd_weight")
        self.parts: list[Metric] = [MMD(config, context), MI(config, context)]
        self.weights = (config.mmd_weight, config.mi_weight)
        self.scales = (max(1 - self.parts[0].constant, 1e-6) if config.mmd_kernel != "polynomial" else 1.0, math.log(2))
        self.normalisers = [RunningNormaliser(config.normalise_floor) for _ in self.parts]

    def _weighted(self, results: list[MetricResult]) -> list[Tensor]:
        values = [n.apply(r.credit * r.set_size) if r.defined else r.credit for n, r in zip(self.normalisers, results, strict=True)]
        return [w * v / len(v) for w, v in zip(self.weights, values, strict=True)]

    def evaluate(self, batch: RewardBatch) -> MetricResult:
        """Weighted sum; in the explanations attraction is MI's share (it looks at the reference), repulsion MMD's."""
        results = [part.evaluate(batch) for part in self.parts]
        if len(batch) == 0:
            return results[0]
        first, second = self._weighted(results)
        credit = first + second
        score = sum(w * r.score / s for w, r, s in zip(self.weights, results, self.scales, strict=True))
        explanations = [dict(e) for e in results[0].explanations]
        for found, a, b in zip(explanations, first.tolist(), second.tolist(), strict=True):
            found["attraction"], found["repulsion"] = b, a
            found["note"] = "attraction is MI's normalised share, repulsion MMD's"
        return MetricResult(score, credit, explanations, exact=False, set_size=len(batch))

    def observe(self, batch: RewardBatch) -> None:
        """Take both credits into their normalisers."""
        for normaliser, part in zip(self.normalisers, self.parts, strict=True):
            result = part.evaluate(batch)
            if result.defined:
                normaliser.update(result.credit * result.set_size)

    def state_dict(self) -> dict[str, Any]:
        """Both normalisers."""
        return {f"{name}.{k}": v for name, n in zip(("mmd", "mi"), self.normalisers, strict=True) for k, v in n.state_dict().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over both normalisers."""
        for name, normaliser in zip(("mmd", "mi"), self.normalisers, strict=True):
            normaliser.load_state_dict({k.partition(".")[2]: v for k, v in state.items() if k.startswith(f"{name}.")})
