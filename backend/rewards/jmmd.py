"""Maximum mean discrepancy of images and their words together: be spread as the reference is, among images of the same words.

The kernel of pairs (image, caption) is the product of a kernel of images and one of captions, so that the two sets' mean
embeddings in the tensor product space are compared (joint MMD; Long et al. 2017, arXiv:1605.06636, there of several layers'
features; conditional generation: Ren et al. 2016, arXiv:1606.04218).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from backend.config.schema import TrainConfig
from backend.errors import InputError
from backend.rewards.base import MetricContext, RewardBatch, finite
from backend.rewards.kernels import kernel_matrix
from backend.rewards.mmd import MMD
from backend.rewards.queue import FeatureQueue


class WordKernel:
    """Captions as unit vectors of their words' inverse document frequencies; their dot product is in [0, 1].

    Args:
        captions: M captions which say what words there are and how rare each is; a word of all of them weighs nothing.
    """

    def __init__(self, captions: Sequence[str]) -> None:
        said = [set(words(caption)) for caption in captions]
        self.weights = {word: math.log((1 + len(said)) / (1 + sum(word in one for one in said))) for one in said for word in one}
        self.index = {word: i for i, word in enumerate(sorted(self.weights))}

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """[N, V] float64; zeros for a caption of unknown or common words alone."""
        out = torch.zeros(len(captions), len(self.index), dtype=torch.float64)
        for row, caption in zip(out, captions, strict=True):
            for word in set(words(caption)) & self.index.keys():
                row[self.index[word]] = self.weights[word]
        return out / out.norm(dim=1, keepdim=True).clamp_min(1e-12)


def words(caption: str) -> list[str]:
    """Its words in lower case."""
    return re.findall(r"\w+", caption.lower())


class JMMD(MMD):
    """-MMD^2 with k(x, x') w(c, c'): drawn to the reference images of like captions, kept apart from images of like prompts.

    MMD alone draws every image to all of the reference alike and keeps it apart from images of other prompts too, which pays
    for telling the prompts' words less well. Rows are features and word vectors side by side.
    """

    name = "JMMD"
    note = "near reference images of like words pays, near the other images of like prompts costs"

    def __init__(self, config: TrainConfig, context: MetricContext) -> None:
        if not any(words(caption) for caption in context.reference_captions):
            raise InputError("JMMD compares images of like captions, and the reference set has no captions: import it with captions, or choose MMD", field="metric")
        self.word_kernel = WordKernel(context.reference_captions)
        self.said = self.word_kernel(context.reference_captions)
        self.recent, self.prompts = FeatureQueue(config.queue_size, context.reference.shape[1]), []
        super().__init__(config, context)
        kernel = kernel_matrix(context.reference, context.reference, self.kind, self.bandwidth) * (self.said @ self.said.T)
        count = len(kernel)
        self.constant = float(kernel.sum() - kernel.diagonal().sum()) / (count * (count - 1))

    def rows(self, batch: RewardBatch) -> Tensor:
        """[B, D + V]: features and word vectors."""
        return torch.cat([batch.features.double(), self.word_kernel(batch.captions)], 1)

    def company(self, count: int) -> Tensor:
        """The newest scored images with their prompts' words."""
        features = self.recent.recent(count)
        return torch.cat([features, self.word_kernel(self.prompts[len(self.prompts) - len(features) :])], 1)

    def _kernels(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features, said = x[:, : self.context.reference.shape[1]], x[:, self.context.reference.shape[1] :]
        within, across = super()._kernels(features)
        return within * (said @ said.T), across * (said @ self.said.T)

    def observe(self, batch: RewardBatch) -> None:
        """Remember the group and its prompts, as company for single images."""
        self.recent.push(finite(batch.features))
        self.prompts = [*self.prompts, *batch.captions][-len(self.recent) :]

    def state_dict(self) -> dict[str, Any]:
        """Those images' features and their prompts."""
        return {**{f"recent.{k}": v for k, v in self.recent.state_dict().items()}, "prompts": list(self.prompts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them over."""
        self.recent.load_state_dict({k.removeprefix("recent."): v for k, v in state.items() if k != "prompts"})
        self.prompts = list(state["prompts"])
