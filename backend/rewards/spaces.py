"""One feature space per extractor: network, standardisation, reference features and queue."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from backend.config.schema import TrainConfig
from backend.features.base import Extractor
from backend.features.load import Standardiser, cached_features, load_extractor
from backend.rewards.attributes_model import AttributeModel
from backend.rewards.base import MetricContext
from backend.rewards.queue import FeatureQueue

# Reference images from which on their features are kept on disk: below, computing them takes about a second.
WORTH_KEEPING = 200


def cache_folder() -> Path:
    """Where features of large reference sets are kept: `$CRATER_CACHE/features`, by default .cache/features."""
    return Path(os.environ.get("CRATER_CACHE", ".cache")) / "features"


class Space:
    """Features of one extractor, standardised by the reference set.

    Args:
        name: extractor.
        config: the run's settings.
        reference_images: [M, 3, h, w] in [0, 1].
        reference_captions: M captions, or none.
        attribute_model: handed on to the metrics.
        device: where the network runs.
    """

    def __init__(
        self, name: str, config: TrainConfig, reference_images: Tensor, reference_captions: list[str], attribute_model: AttributeModel | None, device: str | torch.device
    ) -> None:
        self.extractor: Extractor = load_extractor(name, device)
        raw = cached_features(self.extractor, reference_images, cache_folder() if len(reference_images) >= WORTH_KEEPING else None)
        self.standardiser = Standardiser.fit(raw)
        queue = FeatureQueue(config.queue_size, self.extractor.dimension)
        measured = attribute_model is not None and attribute_model.extractor == name
        self.whole = MetricContext(
            reference=self.standardiser.transform(raw),
            reference_images=reference_images,
            queue=queue,
            attribute_model=attribute_model,
            extractor=self.extractor,
            reference_captions=reference_captions,
            reference_attributes=attribute_model.from_features(raw) if measured else None,
        )
        self.context = self.whole

    def narrow(self, share: float, least: int) -> bool:
        """Let `context` hold only the most typical share of the reference, at least `least` images; whether that changed it."""
        whole = self.whole
        count = min(len(whole.reference), max(least, math.ceil(share * len(whole.reference))))
        if count == len(self.context.reference):
            return False
        typical = (whole.reference - whole.reference.mean(0)).norm(dim=1).argsort(stable=True)[:count].sort().values
        measured, captions = whole.reference_attributes, whole.reference_captions
        self.context = replace(
            whole,
            reference=whole.reference[typical],
            reference_images=whole.reference_images[typical],
            reference_captions=[captions[i] for i in typical.tolist()] if captions else [],
            reference_attributes=None if measured is None else measured[typical],
        )
        return True

    def raw(self, images: Tensor, preserve_gradients: bool = False) -> Tensor:
        """[N, 3, h, w] -> [N, D] float32 on the CPU, not standardised."""
        return self.extractor(images, preserve_gradients).cpu()
