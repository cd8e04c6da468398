"""CLIP ViT-B/32 (arXiv:2103.00020): image embeddings, and how close an image is to its caption."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from backend.features.base import Extractor, resized
from backend.features.download import hub_model, hub_weight_hash

MODEL_ID = "openai/clip-vit-base-patch32"
WHAT = "CLIP ViT-B/32 (605 MB)"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class CLIP(Extractor):
    """CLIP's projected image embedding.

    Args:
        device: where it runs.
        cache_dir: of the hub; its own unless given.
    """

    def __init__(self, device: str | torch.device = "cpu", cache_dir: str | Path | None = None) -> None:
        from transformers import CLIPModel

        model = hub_model(CLIPModel.from_pretrained, MODEL_ID, WHAT, cache_dir)
        super().__init__("clip", "projected image embedding", model.config.projection_dim, hub_weight_hash(MODEL_ID, cache_dir))
        self.model = model.eval().requires_grad_(False).to(device)
        self.size = model.config.vision_config.image_size
        self.cache_dir = cache_dir

    def features(self, images: Tensor) -> Tensor:
        """[n, 3, h, w] in [0, 1] -> [n, D]."""
        mean, std = (torch.tensor(v, device=images.device)[:, None, None] for v in (MEAN, STD))
        pooled = self.model.vision_model(pixel_values=(resized(images, self.size) - mean) / std).pooler_output
        return self.model.visual_projection(pooled)

    def similarity(self, images: Tensor, captions: list[str]) -> Tensor:
        """Cosine between each image [N, 3, h, w] and its caption: [N]."""
        from transformers import CLIPTokenizer

        tokenizer = hub_model(CLIPTokenizer.from_pretrained, MODEL_ID, WHAT, self.cache_dir)
        limit = self.model.config.text_config.max_position_embeddings
        tokens = tokenizer(list(captions), padding=True, truncation=True, max_length=limit, return_tensors="pt").to(self.device)
        with torch.inference_mode():
            words = self.model.text_projection(self.model.text_model(**tokens).pooler_output)
            return torch.cosine_similarity(self(images).to(words.device), words, dim=1)


def clip(device: str | torch.device = "cpu", cache_dir: str | Path | None = None) -> CLIP:
    """CLIP ViT-B/32's image embedding."""
    return CLIP(device, cache_dir)
