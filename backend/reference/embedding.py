"""Features of reference images by any registered extractor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def image_features(images: np.ndarray, extractor: str, device: str = "cpu") -> tuple[np.ndarray, dict[str, Any]]:
    """Features of images.

    Args:
        images: uint8 `[N, h, w, 3]`.
        extractor: a name in the table of extractors.
        device: auto, cpu, cuda or cuda:N.

    Returns:
        float32 `[N, D]`, and the extractor's name, layer, dimension and weight hash.

    Raises:
        InputError: unknown extractor or device, or weights or a device that are not here (the message names the remedy).
    """
    import torch

    from backend.features.device import resolve_device
    from backend.features.load import load_extractor

    network = load_extractor(extractor, resolve_device(device))
    rows = []
    for start in range(0, len(images), 100):
        part = torch.from_numpy(images[start : start + 100]).permute(0, 3, 1, 2).float() / 255
        rows.append(network(part).cpu().numpy())
    features = np.concatenate(rows) if rows else np.zeros((0, network.dimension), np.float32)
    return features, network.describe()


def embedder(extractor: str, device: str = "cpu") -> Callable[[np.ndarray], np.ndarray]:
    """`image_features` as a function of the images alone."""
    return lambda images: image_features(images, extractor, device)[0]
