"""What the denoiser's finish is taught beside the discriminator: to show what captions say, as variously as renders do, and no pattern of the latents' cells.

Regressors on the discriminator's own maps (EfficientNet-Lite2, by regions) read attributes from a picture. Three things are asked:

- `slopes`: over the last fifty steps readings go with words as they do in renders. That is a property of many pictures, so a single one may differ from
  what is usual for its words as much as a render does.
- `unlike`: no picture is read far from what is usual for its words.
- `typical`: over the last fifty steps the maps' statistics have the means and the covariance, along their principal components, that those of renders
  have (moment matching, Li et al. 2015, arXiv 1502.02761): a guided denoiser's pictures vary too little.

Alignment by backpropagation through a sampler's last steps is that of AlignProp (Prabhudesai et al. 2023, arXiv 2310.03739) and DRaFT (Clark et al. 2023,
2309.17400). The model card's adherence is read by another network.

Cells: a decoder that enlarges each latent cell to 8 pixels lets the denoiser draw a faint grid, which a discriminator overlooks on smooth floors.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from backend.base_model.critic import Sight
from backend.base_model.readers import BATCH, region_statistics
from backend.reference.captions import ATTRIBUTES
from backend.rewards.attributes_model import FOLDER, AttributeModel

TEACHER_FILE = FOLDER / "teacher.safetensors"
CALIBRATED = 1024  # renders whose readings say what is usual for a word
FEWEST = 16  # of them that speak of an attribute, or nothing is asked of it
FREE = 0.6  # standard deviations of renders' readings about what is usual within which `unlike` asks nothing
CELL = 8  # pixels a side of a latent cell
FIRST = 20  # steps whose mean gradient norm is the unit of a term
MEMORY = 0.02  # share of a step in the moving average of moments
AXES = 32  # principal components of renders' statistics in which pictures are to be typical


class Teacher(nn.Module):
    """How far pictures are from what is asked of them; its state is the moving averages.

    Args:
        sight: of the discriminator.
        renders: [n, 3, h, w] in [-1, 1], on its device.
        words: [n, A] of `said` of their captions.
    """

    def __init__(self, sight: Sight, renders: torch.Tensor, words: torch.Tensor) -> None:
        super().__init__()
        model, device = AttributeModel.load(TEACHER_FILE), renders.device
        self.fitted = [x.float().to(device) for x in (model.mean, model.std, model.weight, model.bias)]
        words = words.to(device)
        with torch.no_grad():
            statistics = torch.cat([region_statistics(sight(part)) for part in renders.split(BATCH)])
            readings = self.read(statistics)
        rows = [_usual(x, y) for x, y in zip(words.double().cpu().T, readings.double().cpu().T, strict=True)]
        self.slope, self.level, self.spread, variance = torch.tensor(rows, dtype=torch.float32, device=device).T
        groups = [name.partition(":")[0] for name in ATTRIBUTES]
        names = list(dict.fromkeys(groups))
        self.group = torch.tensor([names.index(group) for group in groups], device=device)
        self.variance = torch.zeros(len(names), device=device).index_add(0, self.group, variance)
        self.words_scale, self.readings_scale, self.statistics_scale = (_scale(x) for x in (words, readings, statistics))
        _, values, axes = torch.linalg.svd(_standardised(statistics[::2], self.statistics_scale), full_matrices=False)
        deviation = values[values > 1e-3 * values[0]][:AXES] / math.sqrt(len(statistics[::2]))
        self.axes = axes[: len(deviation)].T / deviation.sqrt()
        self.slopes = Moments(self._slopes(words, readings), 1 / torch.bincount(self.group).float()[self.group])
        self.typical = Moments(self._spread(statistics[1::2]), torch.cat([deviation[None], torch.ones(len(deviation), len(deviation), device=device)]))

    def read(self, statistics: torch.Tensor) -> torch.Tensor:
        """Attributes [N, A] that pictures seem to have, from `region_statistics` [N, D] of the discriminator's maps of them."""
        mean, std, weight, bias = self.fitted
        return (statistics - mean) / std @ weight + bias

    @torch.no_grad()
    def start_from(self, maps: list[torch.Tensor], words: torch.Tensor) -> None:
        """Begin the moving averages with those of pictures; arguments as of `forward`."""
        statistics = region_statistics(maps)
        self.slopes.add(self._slopes(words.to(statistics.device), self.read(statistics)))
        self.typical.add(self._spread(statistics))

    def forward(self, maps: list[torch.Tensor], words: torch.Tensor) -> dict[str, torch.Tensor]:
        """The three losses.

        Args:
            maps: of N pictures.
            words: [N, A] of `said`.

        Returns:
            `unlike`: squared distance of readings from what is usual for the words beyond `FREE` spreads, in units of the variance that each attribute's
            words explain, summed over attributes (one of several words, `kind: …`, counts as one), mean over pictures. `slopes` and `typical`: as
            `Moments`.
        """
        statistics, words = region_statistics(maps), words.to(maps[0].device)
        readings = self.read(statistics)
        wanted = self.slope * words + self.level
        beyond = F.relu((readings - wanted.nan_to_num()).abs() - FREE * self.spread) ** 2
        sums = torch.zeros(len(beyond), len(self.variance), device=beyond.device).index_add(1, self.group, beyond.where(~wanted.isnan(), 0.0))
        unlike = (sums / self.variance.clamp_min(1e-6)).sum(1).mean()
        return {"unlike": unlike, "slopes": self.slopes(self._slopes(words, readings)), "typical": self.typical(self._spread(statistics))}

    def _slopes(self, words: torch.Tensor, readings: torch.Tensor) -> torch.Tensor:
        """Means of standardised readings and of their products with the standardised word that they belong to, [2, A]; a silent caption counts as an average one."""
        told, read = _standardised(words, self.words_scale).nan_to_num(), _standardised(readings, self.readings_scale)
        return torch.stack([read.mean(0), (told * read).mean(0)])

    def _spread(self, statistics: torch.Tensor) -> torch.Tensor:
        """Means and mean products [1 + K, K] of standardised statistics along K principal axes (of half the renders: along these the others vary less).

        An axis along which renders have the variance v is divided by its fourth root and its mean counts by the square root, so that what is asked near the
        renders' moments is to first order what a falling Frechet distance asks.
        """
        z = _standardised(statistics, self.statistics_scale) @ self.axes
        return torch.cat([z.mean(0, keepdim=True), z.T @ z / len(z)])


class Moments(nn.Module):
    """Moving average of pictures' moments, held to that of renders.

    Args:
        wanted: moments of renders.
        share: weight of each, or of each column.
    """

    def __init__(self, wanted: torch.Tensor, share: torch.Tensor | float) -> None:
        super().__init__()
        self.wanted, self.share = wanted, share
        self.register_buffer("found", torch.zeros_like(wanted))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def add(self, moments: torch.Tensor) -> torch.Tensor:
        """The average with these moments in it, differentiable by them."""
        rate = max(MEMORY, 1 / (int(self.steps) + 1))
        found = self.found.lerp(moments, rate)
        self.found.copy_(found.detach())
        self.steps += 1
        return found

    def forward(self, moments: torch.Tensor) -> torch.Tensor:
        """Weighted squared distance of the average from the renders', these moments included."""
        return ((self.add(moments) - self.wanted) ** 2 * self.share).sum()


def _scale(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each column of [n, A], of what is not NaN."""
    mean = values.nanmean(0).nan_to_num()
    return mean, ((values - mean) ** 2).nanmean(0).nan_to_num().sqrt().clamp_min(1e-3)


def _standardised(values: torch.Tensor, scale: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return (values - scale[0]) / scale[1]


def _usual(words: torch.Tensor, readings: torch.Tensor) -> tuple[float, float, float, float]:
    """Slope and level of the readings over the words, their spread about that line and the variance that it explains; slope NaN where too few speak or all say the same."""
    speaks = ~words.isnan()
    x, y = words[speaks], readings[speaks]
    if len(x) < FEWEST or x.var(unbiased=False) < 1e-6:
        return math.nan, 0.0, 0.0, 0.0
    slope = float(((x - x.mean()) * (y - y.mean())).mean() / x.var(unbiased=False))
    level = float(y.mean() - slope * x.mean())
    return slope, level, float((y - slope * x - level).std(unbiased=False)), slope**2 * float(x.var(unbiased=False))


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
