"""DINOv2-small (arXiv:2304.07193): the class token."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from backend.features.base import Extractor
from backend.features.download import hub_model, hub_weight_hash
from backend.features.resnet18 import imagenet_normalised

MODEL_ID = "facebook/dinov2-small"
WHAT = "DINOv2-small (88 MB)"


class DINOv2(Extractor):
    """Class token of the last layer.

    Args:
        device: where it runs.
        cache_dir: of the hub; its own unless given.
    """

    def __init__(self, device: str | torch.device = "cpu", cache_dir: str | Path | None = None) -> None:
        from transformers import Dinov2Model

        model = hub_model(Dinov2Model.from_pretrained, MODEL_ID, WHAT, cache_dir)
        super().__init__("dinov2", "class token of the last layer", model.config.hidden_size, hub_weight_hash(MODEL_ID, cache_dir))
        self.model = model.eval().requires_grad_(False).to(device)
        # 16 patches a side, as at 224 px with patches of 14; position embeddings are interpolated by the model.
        self.size = 16 * model.config.patch_size

    def features(self, images: Tensor) -> Tensor:
        """[n, 3, h, w] in [0, 1] -> [n, D]."""
        return self.model(pixel_values=imagenet_normalised(images, self.size)).last_hidden_state[:, 0]


def dinov2(device: str | torch.device = "cpu", cache_dir: str | Path | None = None) -> DINOv2:
    """DINOv2-small's class token."""
    return DINOv2(device, cache_dir)
