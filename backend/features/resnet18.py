"""ImageNet ResNet-18 (arXiv:1512.03385) with torchvision's weights: the pooled 512 numbers, or a layer further up."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from backend.features.base import Extractor, resized
from backend.features.download import fit_state, torch_weights

URL = "https://download.pytorch.org/models/resnet18-f37072fd.pth"  # torchvision's ResNet18_Weights.IMAGENET1K_V1
PREFIX = "f37072fd"
INPUT_SIZE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def imagenet_normalised(images: Tensor, size: int) -> Tensor:
    """Images at that size, less ImageNet's mean, over its standard deviation."""
    mean, std = (torch.tensor(v, dtype=images.dtype, device=images.device)[:, None, None] for v in (MEAN, STD))
    return (resized(images, size) - mean) / std


class ResNet18(Extractor):
    """One layer of ResNet-18.

    Args:
        name: its name in the table of extractors.
        layer: `pooled` or `layer3`.
        device: where it runs.
        folder: of cached weights; torch's own unless given.
    """

    def __init__(self, name: str, layer: str, device: str | torch.device = "cpu", folder: Path | None = None) -> None:
        from torchvision.models import resnet18

        state, sha256 = torch_weights(URL, PREFIX, "ResNet-18 weights (45 MB)", folder)
        network = resnet18(weights=None)
        fit_state(network, state, "ResNet-18")
        pooled = layer == "pooled"
        words = "average pool" if pooled else "layer3, channel mean and standard deviation"
        super().__init__(name, f"{words} at {INPUT_SIZE} px", 512, sha256)
        stages = [network.conv1, network.bn1, network.relu, network.maxpool, network.layer1, network.layer2, network.layer3]
        self.trunk = torch.nn.Sequential(*stages, *([network.layer4] if pooled else [])).eval().requires_grad_(False).to(device)
        self.pooled = pooled

    def features(self, images: Tensor) -> Tensor:
        """[n, 3, h, w] in [0, 1] -> [n, 512]."""
        maps = self.trunk(imagenet_normalised(images, INPUT_SIZE))
        if self.pooled:
            return maps.mean((2, 3))
        return torch.cat([maps.mean((2, 3)), (maps.var((2, 3)) + 1e-12).sqrt()], 1)


def pooled(device: str | torch.device = "cpu", folder: Path | None = None) -> ResNet18:
    """The average-pooled 512 numbers."""
    return ResNet18("resnet18", "pooled", device, folder)


def layer3(device: str | torch.device = "cpu", folder: Path | None = None) -> ResNet18:
    """Mean and standard deviation of layer 3's 256 channels."""
    return ResNet18("resnet18_layer3", "layer3", device, folder)
