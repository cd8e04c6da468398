"""From a name to a ready extractor; standardisation on the reference set; features kept on disk."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor

from backend.config.catalogue import EXTRACTORS
from backend.errors import InputError
from backend.features.base import Extractor
from backend.features.download import announce

# A channel that hardly varies over the reference would otherwise turn into the loudest one: its standard deviation
# is taken to be at least this share of the median channel's.
STD_FLOOR = 0.1


def load_extractor(name: str, device: str | torch.device = "cpu") -> Extractor:
    """A ready extractor in evaluation mode with frozen weights.

    Args:
        name: one of `EXTRACTORS.names()`.
        device: where it runs.

    Raises:
        InputError: unknown name, weights that cannot be found (with the remedy), or a plug-in that is not an `Extractor`.
    """
    extractor = EXTRACTORS.get(name).load()(device=device)
    if not isinstance(extractor, Extractor):
        raise InputError(f"extractor {name!r} gives a {type(extractor).__name__}: it must return a backend.features.base.Extractor", field="extractor")
    return extractor.eval().requires_grad_(False)


class Standardiser:
    """Centres features and divides them by the reference set's standard deviations.

    Args:
        mean: [D]
        std: [D], above zero.
    """

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        self.mean = mean.double()
        self.std = std.double()

    @classmethod
    def fit(cls, features: Tensor) -> Standardiser:
        """Mean and standard deviation of the reference features [M, D], M >= 2.

        Raises:
            InputError: fewer than two rows, features that are not finite, or rows that are all the same.
        """
        if features.ndim != 2 or len(features) < 2:
            raise InputError(f"a reference set of {len(features)} images cannot be standardised: give at least 2", field="reference")
        if not torch.isfinite(features).all():
            raise InputError("features of the reference set are not finite: one of its images is damaged", field="reference")
        values = features.double()
        std = values.std(0)
        typical = std[std > 0].median() if (std > 0).any() else torch.zeros(())
        if typical <= 1e-9:
            raise InputError("the reference images are all the same: give different images", field="reference")
        return cls(values.mean(0), std.clamp_min(STD_FLOOR * typical))

    def transform(self, features: Tensor) -> Tensor:
        """[N, D] -> [N, D] float64 in units of the reference's standard deviations."""
        if features.shape[-1] != len(self.mean):
            raise InputError(f"features have {features.shape[-1]} numbers, the reference set's have {len(self.mean)}: use one extractor for both", field="extractor")
        return (features.double() - self.mean.to(features.device)) / self.std.to(features.device)

    def state_dict(self) -> dict[str, Tensor]:
        """Its two vectors."""
        return {"mean": self.mean, "std": self.std}

    @classmethod
    def from_state_dict(cls, state: dict[str, Tensor]) -> Standardiser:
        """The standardiser that `state_dict` describes."""
        return cls(state["mean"], state["std"])


def content_key(extractor: Extractor, images: Tensor) -> str:
    """Name of a cache entry: hash of the extractor's weights and layer and of every pixel."""
    digest = hashlib.sha256(f"{extractor.name}|{extractor.layer}|{extractor.sha256}|{tuple(images.shape)}".encode())
    digest.update(np.ascontiguousarray(images.detach().cpu().float().numpy()).tobytes())
    return digest.hexdigest()


def cached_features(extractor: Extractor, images: Tensor, cache_dir: str | Path | None) -> Tensor:
    """Features, read from disk where the same images went through the same weights before.

    Args:
        extractor: which network.
        images: [N, 3, h, w] float in [0, 1].
        cache_dir: folder of the cache, made where missing; None computes without one. Where it cannot be written that is
            said on standard error.

    Returns:
        [N, D] float32 on the CPU.
    """
    if cache_dir is None:
        return extractor(images).cpu()
    path = Path(cache_dir) / f"{extractor.name}_{content_key(extractor, images)[:32]}.npy"
    if path.is_file():
        try:
            stored = torch.from_numpy(np.load(path, allow_pickle=False))
        except (ValueError, EOFError, OSError):
            stored = torch.empty(0)  # a torn file is as good as none: it is computed again and replaced
        if tuple(stored.shape) == (len(images), extractor.dimension):
            return stored
    features = extractor(images).cpu()
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            np.save(file, features.numpy())
        os.replace(temporary, path)
    except OSError as error:
        # A full or read-only disk costs time at the next start, nothing else.
        announce(f"features are not kept in {path.parent}: {error.strerror or error}")
    return features
