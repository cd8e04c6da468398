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

from backend.base_model.unfinished import embed
from backend.features.efficientnet_lite import lite2
from backend.rewards.lpips import perceptual_rows

BLOCKS = (3, 6, 14)  # ends of Lite2's stages with strides 4, 8 and 16
WIDTH = 64  # of a head
SLOPE = 0.2  # of its leaky ReLUs
QUIET = 8.0  # what a caption's embedding is divided by, so that a head hears its picture first
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
    """Maps of `Sight.standardised` -> one [B, 1, h', w'] each, above 0 for renders.

    Args:
        channels: of the maps.
        words: length E of the captions' embeddings that it is given, so that it asks for pictures that also fit their captions (projection
            discriminator, Miyato & Koyama 2018, 1802.05637).
    """

    def __init__(self, channels: list[int], words: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(_Head(c, words) for c in channels)

    def forward(self, maps: list[torch.Tensor], captions: torch.Tensor) -> list[torch.Tensor]:
        """Scores of the maps' B pictures beside captions [B, E] of `Captions`."""
        return [head(x, captions) for head, x in zip(self.heads, maps, strict=True)]


class _Head(nn.Module):
    def __init__(self, channels: int, words: int) -> None:
        super().__init__()
        body = (spectral_norm(nn.Conv2d(inputs, WIDTH, kernel, padding=kernel // 2)) for inputs, kernel in ((channels, 1), (WIDTH, 3)))
        self.body = nn.Sequential(*(layer for conv in body for layer in (conv, nn.LeakyReLU(SLOPE))))
        self.real = spectral_norm(nn.Conv2d(WIDTH, 1, 1))
        self.fits = spectral_norm(nn.Linear(words, WIDTH))

    def forward(self, x: torch.Tensor, captions: torch.Tensor) -> torch.Tensor:
        hidden = self.body(x)
        return self.real(hidden) + (hidden * self.fits(captions)[:, :, None, None]).sum(1, keepdim=True)


class Captions:
    """What the discriminator is given of a caption: the mean of its words' embeddings, standardised.

    Args:
        text_encoder: a frozen one.
        tokens: [n, L] of captions whose embeddings' means and spreads become 0 and 1 / `QUIET`.
    """

    def __init__(self, text_encoder: nn.Module, tokens: torch.Tensor) -> None:
        self.text_encoder, self.mean, self.scale = text_encoder, 0.0, 1.0
        rows = self(tokens)
        self.mean, self.scale = rows.mean(0), QUIET * (rows.std(0) + STD_FLOOR)
        self.length = rows.shape[1]

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """[B, E] of token ids [B, L]."""
        states, config = embed(self.text_encoder, tokens), self.text_encoder.config
        own = ~torch.isin(tokens.to(states.device), torch.tensor([config.bos_token_id, config.eos_token_id, config.pad_token_id], device=states.device))[:, :, None]
        return ((states * own).sum(1) / own.sum(1).clamp_min(1) - self.mean) / self.scale


def hinge(real: list[torch.Tensor], drawn: list[torch.Tensor]) -> torch.Tensor:
    """The discriminator's loss: the heads' hinge losses, summed."""
    return torch.stack([F.relu(1 - r).mean() for r in real]).sum() + hinge_of_wrong(drawn)


def hinge_of_wrong(scores: list[torch.Tensor]) -> torch.Tensor:
    """Its half for what should be found wrong."""
    return torch.stack([F.relu(1 + score).mean() for score in scores]).sum()


def mean_score(scores: list[torch.Tensor]) -> torch.Tensor:
    """Sum over heads of the mean score: what the decoder raises."""
    return torch.stack([score.mean() for score in scores]).sum()
