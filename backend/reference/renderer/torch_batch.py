"""Parameters and fields of many pictures as tensors, and the small functions on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from backend.reference.renderer.fields import spectral_filter
from backend.reference.renderer.parameters import CraterParameters

Numbers = dict[str, Tensor]  # field of CraterParameters → [N, 1, 1]


class Scenes(NamedTuple):
    """Coordinates and random fields, each [N, s, s]; see `morphology.Scene`."""

    x: Tensor
    y: Tensor
    noise_a: Tensor
    noise_b: Tensor
    fine_a: Tensor
    fine_b: Tensor


@dataclasses.dataclass(frozen=True)
class Batch:
    """Parameters of N pictures: the named words, and every number as [N, 1, 1] on the device."""

    params: tuple[CraterParameters, ...]
    numbers: Numbers
    device: torch.device

    @classmethod
    def of(cls, params: Sequence[CraterParameters], device: torch.device) -> Batch:
        """Numbers of the parameters on a device."""
        names = [f.name for f in dataclasses.fields(CraterParameters) if f.type == "float"]
        numbers = {name: torch.tensor([getattr(p, name) for p in params], dtype=torch.float32, device=device)[:, None, None] for name in names}
        return cls(tuple(params), numbers, device)

    def __getattr__(self, name: str) -> Tensor:
        numbers = self.__dict__["numbers"]
        if name not in numbers:
            raise AttributeError(name)
        return numbers[name]

    def where(self, test: Callable[[CraterParameters], bool]) -> Tensor:
        """Positions of the pictures that pass a test, int64."""
        return torch.tensor([i for i, p in enumerate(self.params) if test(p)], dtype=torch.int64, device=self.device)

    def flag(self, test: Callable[[CraterParameters], bool], yes: float = 1.0, no: float = 0.0) -> Tensor:
        """[N, 1, 1]: `yes` where the test passes."""
        return self.column([yes if test(p) else no for p in self.params])

    def column(self, values: Sequence[float]) -> Tensor:
        """One number per picture as [N, 1, 1]."""
        return torch.tensor(np.asarray(values, dtype=np.float32), device=self.device)[:, None, None]

    def take(self, index: Tensor) -> Batch:
        """The pictures at some positions."""
        return Batch(tuple(self.params[i] for i in index.tolist()), {k: v[index] for k, v in self.numbers.items()}, self.device)

    def replace(self, params: Callable[[CraterParameters], CraterParameters]) -> Batch:
        """The same pictures with other parameters."""
        return Batch.of([params(p) for p in self.params], self.device)


def take(fields: NamedTuple, index: Tensor) -> NamedTuple:
    """The pictures at some positions, of a tuple of [N, …] tensors."""
    return type(fields)(*(f[index] for f in fields))


def put(fields: NamedTuple, index: Tensor, part: NamedTuple) -> NamedTuple:
    """The tuple with the pictures at some positions replaced."""
    return type(fields)(*(f.index_copy(0, index, g.to(f.dtype)) for f, g in zip(fields, part, strict=True)))


def make_scenes(batch: Batch, white: Tensor) -> Scenes:
    """Coordinates and noise fields from white noise [N, 4, s, s]."""
    side = white.shape[-1]
    axis = (torch.arange(side, device=batch.device, dtype=torch.float32) + 0.5) / side * 2.0 - 1.0
    x, y = axis[None, None].expand(len(white), side, side), -axis[None, :, None].expand(len(white), side, side)
    red = torch.from_numpy(np.stack([spectral_filter(side, round(p.spectrum, 1), 1.0, 36.0) for p in batch.params])).to(batch.device)
    fine = torch.from_numpy(spectral_filter(side, 2.6, 7.0, 24.0)).to(batch.device)
    noise = torch.fft.ifft2(torch.complex(white[:, 0], white[:, 1]) * red) * side
    short = torch.fft.ifft2(torch.complex(white[:, 2], white[:, 3]) * fine) * side
    return Scenes(x, y, noise.real, noise.imag, short.real, short.imag)


def smoothstep(x: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """0 below `low`, 1 above `high`, cubic between."""
    t = ((x - low) / (high - low)).clamp(0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def smooth_min(a: Tensor, b: Tensor, width: Tensor) -> Tensor:
    """Minimum with its corner rounded over `width`."""
    h = (0.5 + 0.5 * (b - a) / width).clamp(0.0, 1.0)
    return b + (a - b) * h - width * h * (1.0 - h)


def stairs(x: Tensor, sharpness: float) -> Tensor:
    """Continuous staircase of mean slope 1."""
    base = torch.floor(x)
    return base + smoothstep(x - base, 0.5 - sharpness / 2, 0.5 + sharpness / 2)


def blur(image: Tensor, sigma: Tensor, mode: str = "replicate") -> Tensor:
    """Gaussian filter of [N, C, h, w] with one standard deviation per picture [N], cut at three of them; 0 leaves a picture as it is."""
    n, c, h, w = image.shape
    radius = torch.floor(3.0 * sigma + 0.5)
    reach = max(int(radius.max()), 1)
    at = torch.arange(-reach, reach + 1, device=image.device, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (at[None] / sigma.clamp_min(1e-3)[:, None]) ** 2) * (at.abs()[None] <= radius[:, None])
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(c, 0)
    flat = image.reshape(1, n * c, h, w)
    flat = F.conv2d(F.pad(flat, (0, 0, reach, reach), mode=mode), kernel[:, None, :, None], groups=n * c)
    flat = F.conv2d(F.pad(flat, (reach, reach, 0, 0), mode=mode), kernel[:, None, None, :], groups=n * c)
    return flat.reshape(n, c, h, w)
