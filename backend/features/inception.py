"""Inception-v3 as the Frechet inception distance uses it (arXiv:1706.08500): pool3 of the 2015 TensorFlow graph.

The weights are pytorch-fid's conversion. That graph differs from torchvision's network in three blocks: average pools leave the
padding out of the count, and the last block pools by maximum.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.inception import Inception3, InceptionA, InceptionC, InceptionE

from backend.features.base import Extractor, resized
from backend.features.download import fit_state, torch_weights

URL = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"
PREFIX = "6726825d"
INPUT_SIZE = 299
CLASSES = 1008  # of the TensorFlow graph


def _pool(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class _BlockA(InceptionA):
    def _forward(self, x: Tensor) -> list[Tensor]:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return [self.branch1x1(x), self.branch5x5_2(self.branch5x5_1(x)), double, self.branch_pool(_pool(x))]


class _BlockC(InceptionC):
    def _forward(self, x: Tensor) -> list[Tensor]:
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_1(x)
        for layer in (self.branch7x7dbl_2, self.branch7x7dbl_3, self.branch7x7dbl_4, self.branch7x7dbl_5):
            double = layer(double)
        return [self.branch1x1(x), single, double, self.branch_pool(_pool(x))]


class _BlockE(InceptionE):
    def __init__(self, inputs: int, maximum: bool) -> None:
        super().__init__(inputs)
        self.maximum = maximum

    def _forward(self, x: Tensor) -> list[Tensor]:
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = F.max_pool2d(x, 3, stride=1, padding=1) if self.maximum else _pool(x)
        parts = [self.branch3x3_2a(single), self.branch3x3_2b(single), self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        return [self.branch1x1(x), torch.cat(parts[:2], 1), torch.cat(parts[2:], 1), self.branch_pool(pooled)]


def fid_network() -> Inception3:
    """The 2015 graph with weights yet to be loaded."""
    network = Inception3(num_classes=CLASSES, aux_logits=False, init_weights=False)
    network.Mixed_5b, network.Mixed_5c, network.Mixed_5d = _BlockA(192, 32), _BlockA(256, 64), _BlockA(288, 64)
    network.Mixed_6b, network.Mixed_6c, network.Mixed_6d, network.Mixed_6e = _BlockC(768, 128), _BlockC(768, 160), _BlockC(768, 160), _BlockC(768, 192)
    network.Mixed_7b, network.Mixed_7c = _BlockE(1280, maximum=False), _BlockE(2048, maximum=True)
    return network


class Inception(Extractor):
    """pool3: 2048 numbers.

    Args:
        device: where it runs.
        folder: of cached weights; torch's own unless given.
    """

    def __init__(self, device: str | torch.device = "cpu", folder: Path | None = None) -> None:
        state, sha256 = torch_weights(URL, PREFIX, "Inception-v3 weights (91 MB)", folder)
        network = fid_network()
        fit_state(network, state, "FID's Inception-v3")
        super().__init__("inception", f"pool3 at {INPUT_SIZE} px", 2048, sha256)
        network.fc = nn.Identity()
        self.network = network.eval().requires_grad_(False).to(device)

    def features(self, images: Tensor) -> Tensor:
        """[n, 3, h, w] in [0, 1] -> [n, 2048]."""
        return self.network(resized(images, INPUT_SIZE) * 2 - 1)


def inception(device: str | torch.device = "cpu", folder: Path | None = None) -> Inception:
    """FID's Inception-v3, pool3."""
    return Inception(device, folder)
