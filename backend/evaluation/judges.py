"""The judges: Lite2 features and two kinds of statistics without a network. No reward should see any of them; see `reward_sees_judge`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from backend.evaluation import image_statistics
from backend.evaluation.adherence import Reader
from backend.evaluation.cache import cached_arrays
from backend.evaluation.diversity import median_distance
from backend.evaluation.image_statistics import crater_attributes, wavelet_statistics
from backend.evaluation.renders import renderer_digest
from backend.features.base import Extractor
from backend.features.download import file_sha256
from backend.features.load import Standardiser, load_extractor

JUDGE = "efficientnet_lite2"
SIZE = 128  # pixels at which every image is judged, whatever size it was drawn at
SPACES = ("lite2", "wavelet", "attributes")


@dataclass
class Measured:
    """One set of images as the judges see it, every column standardised by the real side.

    Attributes:
        spaces: name of the judge -> [N, D].
        read: [N, A] crater attributes that the judge's regressors read; None where there are no regressors.
    """

    spaces: dict[str, np.ndarray]
    read: np.ndarray | None

    def __len__(self) -> int:
        return len(self.spaces["lite2"])


def to_judge_size(images: np.ndarray) -> np.ndarray:
    """uint8 [N, h, w, 3] -> uint8 [N, 128, 128, 3], antialiased; the same array where nothing is to be done."""
    if images.shape[1:3] == (SIZE, SIZE):
        return images
    planes = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    resized = torch.nn.functional.interpolate(planes, size=(SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False)
    return resized.clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def network_features(extractor: Extractor, images: np.ndarray) -> np.ndarray:
    """uint8 [N, h, w, 3] -> float64 [N, D]."""
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return extractor(tensor).cpu().double().numpy()


def statistics_digest() -> str:
    """SHA-256 of the source of the judges without a network."""
    return file_sha256(Path(image_statistics.__file__))


class Judges:
    """All judges, standardised on real images.

    Args:
        real: uint8 [H, h, w, 3]: held-out renders, or a person's own reference images.
        targets: [H, A] attributes of the real images where they are known; None where they are photographs.
        device: of the network.
        key: names the real images in the cache; None keeps nothing.
    """

    def __init__(self, real: np.ndarray, targets: np.ndarray | None = None, device: str = "cpu", key: str | None = None) -> None:
        self.extractor = load_extractor(JUDGE, device)
        raw = self._cached_raw(to_judge_size(real), key)
        network = Standardiser.fit(torch.from_numpy(raw["lite2"]))
        self.scales = {"lite2": (network.mean.numpy(), network.std.numpy())}
        for name in SPACES[1:]:
            self.scales[name] = (raw[name].mean(0), np.maximum(raw[name].std(0), 1e-3))
        spaces = self._standardise(raw)
        self.reader = Reader(spaces["lite2"], targets) if targets is not None else None
        self.real = Measured(spaces, None)
        self.bandwidths = {name: median_distance(values[:1000]) for name, values in spaces.items()}

    def _raw(self, images: np.ndarray) -> dict[str, np.ndarray]:
        return {"lite2": network_features(self.extractor, images), "wavelet": wavelet_statistics(images), "attributes": crater_attributes(images)}

    def _cached_raw(self, images: np.ndarray, key: str | None) -> dict[str, np.ndarray]:
        if key is None:
            return self._raw(images)
        facts = {"images": key, "count": len(images), "extractor": self.extractor.sha256, "layer": self.extractor.layer}
        facts |= {"renderer": renderer_digest(), "statistics": statistics_digest()}
        return cached_arrays("judged", facts, lambda: self._raw(images))

    def _standardise(self, raw: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: (raw[name] - mean) / std for name, (mean, std) in self.scales.items()}

    def measure(self, images: np.ndarray) -> Measured:
        """Look at images, uint8 [N, h, w, 3] of any size."""
        spaces = self._standardise(self._raw(to_judge_size(images)))
        return Measured(spaces, self.reader.read(spaces["lite2"]) if self.reader is not None else None)

    def describe(self) -> dict[str, str]:
        """Which network judged (name, layer, SHA-256 of its weights), and SHA-256 of the source of the judges without one."""
        return {"extractor": JUDGE, "layer": str(self.extractor.layer), "sha256": self.extractor.sha256, "statistics_sha256": statistics_digest()}
