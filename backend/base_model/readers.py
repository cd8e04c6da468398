"""Readers of attributes that are good on renders and steady on pictures that differ a little from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from backend.features.efficientnet_lite import EfficientNetLite
from backend.features.load import load_extractor
from backend.rewards.attributes_model import FOLDER, AttributeModel

REGIONS_FILE = FOLDER / "efficientnet_lite0_regions.safetensors"
BLOCKS = (2, 4, 7, 10)  # the ends of Lite0's second to fifth stage: 32, 16, 8 and 8 cells a side
BATCH = 8  # images at a time; their maps stay in a processor's cache
BLUR, CONTRAST, BRIGHTNESS, NOISE = 1.0, (0.8, 1.35), 6.0, 5.0


def disturbed(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Copies that are blurred, more or less contrasty, brighter or darker and grainy, each by its own small amount.

    Generated pictures are a little softer or harder than renders. Regressors fitted on renders alone lose a third of
    their R^2 on such copies; fitted on both they lose none on renders.

    Args:
        images: uint8 [N, h, w, 3].
        rng: draws for each image a blur of 0 to 1 pixel, a contrast of 0.8 to 1.35, a shift of 6 and grain of 0 to 5
            grey levels.
    """
    out = np.empty_like(images)
    for i, image in enumerate(images):
        blur = rng.uniform(0, BLUR)
        soft = ndimage.gaussian_filter(image.astype(np.float32), (blur, blur, 0))
        shifted = (soft - soft.mean()) * rng.uniform(*CONTRAST) + soft.mean() + rng.normal(0, BRIGHTNESS)
        grain = rng.normal(0, rng.uniform(0, NOISE), image.shape[:2])[..., None]
        out[i] = (shifted + grain).clip(0, 255).round()
    return out


def half_disturbed(images: np.ndarray, seed: int) -> np.ndarray:
    """The same images, every second of them `disturbed`: uint8 [N, h, w, 3]."""
    out = images.copy()
    out[1::2] = disturbed(images[1::2], np.random.default_rng(seed))
    return out


def region_masks(cells: int) -> list[torch.Tensor]:
    """Weights [cells, cells], each summing to 1, of the whole frame, its middle, the ring of the rim, the plain around, the upper and the lower third."""
    place = (torch.arange(cells) + 0.5) / cells - 0.5
    radius = (place[:, None] ** 2 + place[None] ** 2).sqrt()
    rows = place[:, None].expand(cells, cells)
    regions = (radius >= 0, radius < 0.2, (radius >= 0.2) & (radius < 0.4), radius >= 0.4, rows < -1 / 6, rows > 1 / 6)
    return [region / region.sum() for region in regions]


def region_statistics(maps: Sequence[torch.Tensor]) -> torch.Tensor:
    """Mean and standard deviation of each channel over each region: maps [N, c, k, k] of several blocks -> [N, D], differentiable."""
    columns = []
    for block in maps:
        for weight in (mask.to(block.device) for mask in region_masks(block.shape[-1])):
            mean = (block * weight).sum((2, 3))
            spread = ((block - mean[..., None, None]) ** 2 * weight).sum((2, 3))
            columns += [mean, (spread + 1e-12).sqrt()]
    return torch.cat(columns, 1)


@torch.inference_mode()
def region_features(network: EfficientNetLite, images: torch.Tensor, blocks: tuple[int, ...] = BLOCKS) -> torch.Tensor:
    """`region_statistics` of images.

    Args:
        network: EfficientNet-Lite.
        images: [N, 3, h, w] in [0, 1].
        blocks: indices of the blocks that are read.

    Returns:
        [N, D] float32.
    """
    return torch.cat([region_statistics(network.maps(part, blocks)) for part in images.split(BATCH)])


@dataclass
class RegionReader:
    """Ridge regressors on Lite0 features of the parts of a picture: what the model card's adherence is read with.

    Attributes:
        model: the regressors; their features are those of `region_features`.
    """

    model: AttributeModel

    @classmethod
    def load(cls, path: Path = REGIONS_FILE) -> RegionReader:
        """Raises InputError where the file is missing or damaged."""
        return cls(AttributeModel.load(path))

    def read(self, images: torch.Tensor) -> torch.Tensor:
        """[N, 3, h, w] in [0, 1] -> [N, A] float64."""
        return self.model.from_features(region_features(load_extractor(self.model.extractor), images))
