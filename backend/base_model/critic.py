"""The discriminator of the decoder's finish: it tells renders from drawn pictures by what a frozen network sees of them.

Projected GAN (Sauer et al. 2021, arXiv 2111.01007): a trained network's maps of several strides, each judged place by place by a small
head with spectral normalisation (Miyato et al. 2018, 1802.05957). The network is EfficientNet-Lite2, so that what the model card
measures (Fréchet distance, adherence: EfficientNet-Lite0) has no share in the training.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from backend.features.efficientnet_lite import lite2
from backend.rewards.lpips import perceptual_rows

BLOCKS = (3, 6, 14)  # ends of Lite2's stages with strides 4, 8 and 16
WIDTH = 64  # of a head
SLOPE = 0.2  # of its leaky ReLUs
STD_FLOOR = 1e-3  # of a channel that hardly varies


class Sight:
    """What the frozen network sees of pictures.

    Args:
        renders: [n, 3, h, w] in [-1, 1], whose channels' means and spreads are those that heads are given as 0 and 1.
    """

    def __init__(self, renders: torch.Tensor) -> None:
        self.trunk = lite2(renders.device).trunk
        with torch.no_grad():
            maps = self(renders)
        self.mean = [x.mean((0, 2, 3), keepdim=True) for x in maps]
        self.std = [x.std((0, 2, 3), keepdim=True).clamp_min(STD_FLOOR) for x in maps]

    def __call__(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Maps [B, c, h', w'] of the three blocks of pictures [B, 3, h, w] in [-1, 1], at the size that they have."""
        return self.trunk(x, BLOCKS)

    def standardised(self, maps: list[torch.Tensor]) -> list[torch.Tensor]:
        """Maps as heads read them."""
        return [(x - mean) / std for x, mean, std in zip(maps, self.mean, self.std, strict=True)]


def perceptual_distance(a: list[torch.Tensor], b: list[torch.Tensor]) -> torch.Tensor:
    """Mean perceptual distance (Zhang et al. 2018, 1801.03924, equation 1, equal weights) between two sets of pictures in their order, from their maps."""
    return (perceptual_rows(a) - perceptual_rows(b)).pow(2).sum(1).mean()


class Discriminator(nn.Module):
    """Maps of `Sight.standardised` -> one [B, 1, h', w'] each, above 0 for renders."""

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(_head(c) for c in channels)

    def forward(self, maps: list[torch.Tensor]) -> list[torch.Tensor]:
        """See the class."""
        return [head(x) for head, x in zip(self.heads, maps, strict=True)]


def _head(channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs, kernel in ((channels, WIDTH, 1), (WIDTH, WIDTH, 3), (WIDTH, 1, 1)):
        layers += [spectral_norm(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers[:-1])


def hinge(real: list[torch.Tensor], drawn: list[torch.Tensor]) -> torch.Tensor:
    """The discriminator's loss: the heads' hinge losses, summed."""
    return torch.stack([F.relu(1 - r).mean() + F.relu(1 + d).mean() for r, d in zip(real, drawn, strict=True)]).sum()


def mean_score(scores: list[torch.Tensor]) -> torch.Tensor:
    """Sum over heads of the mean score: what the decoder raises."""
    return torch.stack([score.mean() for score in scores]).sum()
