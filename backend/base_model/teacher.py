"""What the denoiser's finish is taught beside the discriminator: to show what captions say, and no pattern of the latents' cells.

Captions: regressors on the discriminator's own maps (EfficientNet-Lite2, by regions) read attributes from a picture, and what they read is held to
what they read, on average, from renders that such words describe; nothing is asked within the spread that renders have, so that pictures of
one caption stay as different as renders are. Alignment by backpropagation through a sampler's last steps is that of AlignProp (Prabhudesai
et al. 2023, arXiv 2310.03739) and DRaFT (Clark et al. 2023, 2309.17400). The model card's adherence is read by another network.

Cells: a decoder that enlarges each latent cell to 8 pixels lets the denoiser draw a faint grid, which a discriminator overlooks on smooth floors.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from backend.base_model.critic import Sight
from backend.base_model.readers import region_statistics
from backend.reference.captions import ATTRIBUTES
from backend.rewards.attributes_model import FOLDER, AttributeModel

TEACHER_FILE = FOLDER / "teacher.safetensors"
CALIBRATED = 512  # renders whose readings say what is usual for a word
FEWEST = 16  # of them that speak of an attribute, or nothing is asked of it
FREE = 0.5  # standard deviations of renders' readings about what is usual within which nothing is asked
CELL = 8  # pixels a side of a latent cell
BATCH = 8  # renders read at once
FIRST = 20  # steps whose mean gradient norm is the unit of a term


class Teacher:
    """How far pictures are from their captions.

    Args:
        sight: of the discriminator.
        renders: [n, 3, h, w] in [-1, 1], on its device.
        words: [n, A] of `said` of their captions.
    """

    def __init__(self, sight: Sight, renders: torch.Tensor, words: torch.Tensor) -> None:
        model, device = AttributeModel.load(TEACHER_FILE), renders.device
        self.mean, self.std, self.weight, self.bias = (x.float().to(device) for x in (model.mean, model.std, model.weight, model.bias))
        with torch.no_grad():
            readings = torch.cat([self.read(sight(part)) for part in renders.split(BATCH)]).cpu()
        rows = [_usual(x, y) for x, y in zip(words.double().T, readings.double().T, strict=True)]
        self.slope, self.level, self.spread, variance = torch.tensor(rows, dtype=torch.float32, device=device).T
        groups = [name.partition(":")[0] for name in ATTRIBUTES]
        names = list(dict.fromkeys(groups))
        self.group = torch.tensor([names.index(group) for group in groups], device=device)
        self.variance = torch.zeros(len(names), device=device).index_add(0, self.group, variance)

    def read(self, maps: list[torch.Tensor]) -> torch.Tensor:
        """Attributes [N, A] that pictures seem to have, from the discriminator's maps of them."""
        return (region_statistics(maps) - self.mean) / self.std @ self.weight + self.bias

    def unlike(self, maps: list[torch.Tensor], words: torch.Tensor) -> torch.Tensor:
        """Squared distance of readings from what is usual for the words beyond `FREE` spreads, in units of each attribute's variance, summed over attributes.

        Args:
            maps: of N pictures.
            words: [N, A] of `said`.

        Returns:
            Mean over the pictures; an attribute of several words (`kind: …`) counts as one.
        """
        wanted = self.slope * words.to(self.slope.device) + self.level
        beyond = F.relu((self.read(maps) - wanted.nan_to_num()).abs() - FREE * self.spread) ** 2
        sums = torch.zeros(len(beyond), len(self.variance), device=beyond.device).index_add(1, self.group, beyond.where(~wanted.isnan(), 0.0))
        return (sums / self.variance.clamp_min(1e-6)).sum(1).mean()


def _usual(words: torch.Tensor, readings: torch.Tensor) -> tuple[float, float, float, float]:
    """Slope and level of the readings over the words, their spread about that line and the words' variance; slope NaN where too few captions speak or all say the same."""
    speaks = ~words.isnan()
    x, y = words[speaks], readings[speaks]
    if len(x) < FEWEST or x.var(unbiased=False) < 1e-6:
        return math.nan, 0.0, 0.0, 0.0
    slope = float(((x - x.mean()) * (y - y.mean())).mean() / x.var(unbiased=False))
    level = float(y.mean() - slope * x.mean())
    return slope, level, float((y - slope * x - level).std(unbiased=False)), float(x.var(unbiased=False))


def cell_pattern(pictures: torch.Tensor) -> torch.Tensor:
    """How much the contrast of neighbouring pixels depends on where in a latent cell they lie.

    Args:
        pictures: [N, 3, h, w] in [-1, 1].

    Returns:
        Squared deviation of each of the `CELL` places' mean logarithmic contrast (in grey levels, plus one) from their mean, summed over places
        and both directions: near 0 for renders.
    """
    grey, total = pictures.mean(1), pictures.new_zeros(())
    for dimension in (1, 2):
        contrast = (grey.diff(dim=dimension).abs() * 127.5 + 1).log().movedim(dimension, -1)
        places = contrast[..., : contrast.shape[-1] // CELL * CELL].reshape(-1, CELL).mean(0)
        total = total + ((places - places.mean()) ** 2).sum()
    return total


class Usual(nn.Module):
    """Unit of a term: the mean norm of its gradient in the first `FIRST` steps. A module, so that it is saved with the others."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("norm", torch.zeros(()))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient in that unit."""
        if self.steps < FIRST:
            self.norm += (gradient.norm() - self.norm) / (self.steps + 1)
            self.steps += 1
        return gradient / (self.norm + 1e-12)
