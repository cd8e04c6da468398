"""Prompt relevance: do the measured crater attributes match the prompt, or, through CLIP, the image its caption."""

from __future__ import annotations

from torch import Tensor

from backend.config.schema import TrainConfig
from backend.errors import InputError
from backend.rewards.base import MetricContext, PointwiseMetric, RewardBatch


class Adherence(PointwiseMetric):
    """Mean agreement of images with their prompts: pays for obedience and nothing for diversity.

    With the extractor `clip` it is the cosine between image and caption (CLIPScore, arXiv:2104.08718), else the attribute
    regressors' agreement with the words.
    """

    name = "ADHERENCE"
    note = "attributes that the prompt asks for pay"

    def __init__(self, config: TrainConfig, context: MetricContext) -> None:
        super().__init__(config, context)
        self.similarity = getattr(context.extractor, "similarity", None)
        if self.similarity is None and context.attribute_model is None:
            raise InputError("ADHERENCE needs the attribute regressors: build them with `python -m backend base-model attributes`, or choose the extractor clip", field="metric")
        if self.similarity is not None:
            self.note = "an image that CLIP finds close to its prompt pays"

    def image_scores(self, batch: RewardBatch) -> Tensor:
        """Agreement of each image with its prompt; NaN where the prompt says nothing that can be measured."""
        if self.similarity is not None:
            return self.similarity(batch.images, batch.captions).double().cpu()
        model = self.context.attribute_model
        attributes = batch.attributes if batch.attributes is not None else model.predict(batch.images)
        return model.adherence(attributes, batch.captions)
