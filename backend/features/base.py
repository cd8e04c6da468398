"""What every feature extractor is: images in, one row of numbers per image out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.errors import InputError


def check_images(images: Tensor) -> Tensor:
    """The images themselves, once their shape is known to be usable.

    Args:
        images: [N, 3, h, w] floating point in [0, 1], any h and w from 8 pixels up.

    Raises:
        InputError: another shape, another type, or less than 8 pixels on a side.
    """
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise InputError(f"images of shape {tuple(images.shape)} and type {images.dtype}: give a float tensor [N, 3, h, w] in [0, 1]")
    if min(images.shape[-2:]) < 8:
        raise InputError(f"images of {images.shape[-1]} x {images.shape[-2]} pixels are too small for features: at least 8 x 8 is needed")
    return images


def resized(images: Tensor, size: int) -> Tensor:
    """Images at `size` x `size` by antialiased bilinear interpolation (differentiable); unchanged where they have that size.

    Args:
        images: [N, 3, h, w].
        size: side in pixels.

    Returns:
        [N, 3, size, size]
    """
    if tuple(images.shape[-2:]) == (size, size):
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False, antialias=True)


class Extractor(nn.Module):
    """Turns images into rows of features.

    A subclass implements `features` for one batch; batching, checks and gradients are here.

    Attributes:
        name: its name in the table of extractors.
        layer: which layer is read and how it is pooled, in words.
        dimension: D, numbers per image.
        sha256: hash of the weight file; recorded with every score.
        batch_size: images per forward pass; 0 takes 8 on a CPU (the maps stay in its cache: measured twice as fast as 32)
            and 64 elsewhere.
    """

    def __init__(self, name: str, layer: str, dimension: int, sha256: str, batch_size: int = 0) -> None:
        super().__init__()
        self.name = name
        self.layer = layer
        self.dimension = dimension
        self.sha256 = sha256
        self.batch_size = batch_size

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    def features(self, images: Tensor) -> Tensor:
        """Features of one batch: [n, 3, h, w] in [0, 1] -> [n, D]."""
        raise NotImplementedError(f"{type(self).__name__} must define features(images)")

    def forward(self, images: Tensor, preserve_gradients: bool = False) -> Tensor:
        """Features of any number of images.

        Args:
            images: [N, 3, h, w] float in [0, 1]; any h, w.
            preserve_gradients: keep the graph from the images to the features.

        Returns:
            [N, D] float32 on the images' device.

        Raises:
            InputError: see `check_images`.
        """
        check_images(images)
        if len(images) == 0:
            return images.new_zeros(0, self.dimension, dtype=torch.float32)
        with torch.set_grad_enabled(preserve_gradients):
            size = self.batch_size or (8 if self.device.type == "cpu" else 64)
            rows = [self.features(part.to(self.device, torch.float32)).float() for part in images.split(size)]
        return torch.cat(rows).to(images.device)

    def describe(self) -> dict[str, str | int]:
        """What has to be recorded beside a score: name, layer, dimension, weight hash."""
        return {"name": self.name, "layer": self.layer, "dimension": self.dimension, "sha256": self.sha256}
