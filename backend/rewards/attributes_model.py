"""Regressors from image features to crater attributes: what the words of a prompt can be checked against.

Ridge regression on standardised mid-level features, fitted on renders whose attributes are known. The file keeps the
held-out R^2 of each attribute, so that a metric can leave out what cannot be read from an image.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from backend.errors import InputError
from backend.features.base import Extractor
from backend.features.load import Standardiser, load_extractor
from backend.reference.captions import ATTRIBUTES, caption_targets

FOLDER = Path(__file__).resolve().parents[2] / "assets" / "models" / "attributes"
HELD_OUT = 5  # every fifth image is held out to measure R^2 and to choose the penalty
PENALTIES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
READABLE = 0.2  # an attribute whose held-out R^2 is below this is noise: it is predicted but not scored


@dataclass
class AttributeModel:
    """Linear regressors on one extractor's features.

    Attributes:
        names: A attributes, each scaled 0-1.
        mean: [D] of the features that it was fitted on.
        std: [D]
        weight: [D, A]
        bias: [A]
        r2: [A] held-out coefficient of determination.
        extractor: name of the network.
        sha256: hash of that network's weights.
    """

    names: tuple[str, ...]
    mean: Tensor
    std: Tensor
    weight: Tensor
    bias: Tensor
    r2: Tensor
    extractor: str
    sha256: str
    _network: Extractor | None = None

    @property
    def readable(self) -> Tensor:
        """[A] bool: attributes that can be read from an image well enough to be scored."""
        return self.r2 >= READABLE

    def from_features(self, raw: Tensor) -> Tensor:
        """[N, D] features as the extractor gives them -> [N, A] float64 attributes, cut to [-0.25, 1.25]."""
        values = (raw.double() - self.mean) / self.std @ self.weight + self.bias
        return values.clamp(-0.25, 1.25)

    def predict(self, images: Tensor, preserve_gradients: bool = False) -> Tensor:
        """[N, 3, h, w] in [0, 1] -> [N, A] float64, with the graph to the images if asked; loads its extractor on first use."""
        if self._network is None:
            self._network = load_extractor(self.extractor)
        return self.from_features(self._network(images, preserve_gradients).cpu())

    def adherence(self, attributes: Tensor, captions: Sequence[str]) -> Tensor:
        """How well measured attributes match what the captions say.

        Args:
            attributes: [N, A] from `predict`.
            captions: N prompts; attributes that a prompt says nothing about do not count.

        Returns:
            [N] float64, at most 1: 1 - mean squared error over the things that the caption says. The error of a number is
            (measured - said)^2; of a word among several (`kind: ...`) half the sum over the words, half a Brier score
            (Brier 1950, Monthly Weather Review 78): being a proper score, it asks for the word that was said more than it asks for
            silence of the others. Attributes that cannot be read from images are left out; NaN where nothing is left.
        """
        said = torch.tensor([[caption_targets(c).get(name, float("nan")) for name in self.names] for c in captions], dtype=torch.float64)
        counts = (~torch.isnan(said)) & self.readable
        error = torch.where(counts, (attributes - torch.nan_to_num(said)) ** 2, 0.0)
        things = list(dict.fromkeys(name.partition(":")[0] for name in self.names))
        sums, spoken = torch.zeros(len(said), dtype=torch.float64), torch.zeros(len(said), dtype=torch.float64)
        for thing in things:
            columns = [i for i, name in enumerate(self.names) if name.partition(":")[0] == thing]
            sums += error[:, columns].sum(1) * (0.5 if len(columns) > 1 else 1.0)
            spoken += counts[:, columns].any(1)
        return torch.where(spoken > 0, 1 - sums / spoken.clamp_min(1), float("nan"))

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file with names, extractor and hash in its metadata."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {name: getattr(self, name).contiguous() for name in ("mean", "std", "weight", "bias", "r2")}
        save_file(tensors, path, metadata={"names": json.dumps(self.names), "extractor": self.extractor, "sha256": self.sha256})
        return path

    @classmethod
    def load(cls, path: str | Path) -> AttributeModel:
        """Read what `save` wrote.

        Raises:
            InputError: missing or damaged file, or one of another set of attributes.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"{path} does not exist: build it with `python -m backend base-model attributes`", field="metric")
        try:
            with safe_open(path, framework="pt") as file:
                meta = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in ("mean", "std", "weight", "bias", "r2")}
            names = tuple(json.loads(meta["names"]))
        except (SafetensorError, KeyError, json.JSONDecodeError) as error:
            raise InputError(f"{path} is not an attribute model ({error}): build it again with `python -m backend base-model attributes`", field="metric") from error
        if names != tuple(ATTRIBUTES):
            raise InputError(f"{path} knows the attributes {', '.join(names)}, the captions have {', '.join(ATTRIBUTES)}: build it again", field="metric")
        return cls(names, extractor=meta.get("extractor", ""), sha256=meta.get("sha256", ""), **tensors)


def ridge(x: Tensor, y: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Ridge regression with an unpenalised intercept: weight [D, A] and bias [A] from x [N, D], y [N, A] float64."""
    return ridge_path(x, y, (penalty,))[0]


def ridge_path(x: Tensor, y: Tensor, penalties: Sequence[float]) -> list[tuple[Tensor, Tensor]]:
    """`ridge` for each penalty, the [D, D] products computed once."""
    centre, level = x.mean(0), y.mean(0)
    gram, cross = (x - centre).T @ (x - centre), (x - centre).T @ (y - level)
    identity = torch.eye(x.shape[1], dtype=x.dtype)
    weights = [torch.linalg.solve(gram + penalty * identity, cross) for penalty in penalties]
    return [(weight, level - centre @ weight) for weight in weights]


def r_squared(predicted: Tensor, true: Tensor) -> Tensor:
    """Coefficient of determination of each column; 0 where the truth does not vary."""
    residual = ((true - predicted) ** 2).sum(0)
    total = ((true - true.mean(0)) ** 2).sum(0)
    return torch.where(total > 1e-12, 1 - residual / total.clamp_min(1e-12), 0.0)


def cross_validated(raw: Tensor, targets: Tensor) -> Tensor:
    """What a ridge regression on the other four fifths says of each row: [N, A] from features [N, D] and targets [N, A].

    The penalty is the one of PENALTIES with the highest mean R^2.
    """
    y = targets.double()
    said = {penalty: torch.zeros_like(y) for penalty in PENALTIES}
    for fold in range(HELD_OUT):
        held = torch.arange(len(raw)) % HELD_OUT == fold
        standardiser = Standardiser.fit(raw[~held])
        x = standardiser.transform(raw)
        for penalty, (weight, bias) in zip(PENALTIES, ridge_path(x[~held], y[~held], PENALTIES), strict=True):
            said[penalty][held] = x[held] @ weight + bias
    return max(said.values(), key=lambda rows: float(r_squared(rows, y).mean()))


def fit_attribute_model(images: Tensor, targets: Sequence[dict[str, float]], extractor: Extractor | None = None) -> AttributeModel:
    """Fit the regressors on images whose attributes are known.

    Args:
        images: [N, 3, h, w] in [0, 1], N >= 50 renders of varied attributes.
        targets: N dictionaries as `attribute_targets` gives them, every attribute in each.
        extractor: network; EfficientNet-Lite0 unless another is given.

    Raises:
        InputError: too few images, or targets that do not fit.
    """
    network = extractor or load_extractor("efficientnet_lite0")
    if len(images) != len(targets) or len(images) < 50:
        raise InputError(f"{len(images)} images and {len(targets)} targets: give at least 50 renders and one target for each")
    lacking = next((name for t in targets for name in ATTRIBUTES if name not in t), None)
    if lacking:
        raise InputError(f"attribute {lacking!r} is missing from a target: give every one of {', '.join(ATTRIBUTES)}")
    return fit_on_features(network(images).cpu(), torch.tensor([[float(t[name]) for name in ATTRIBUTES] for t in targets], dtype=torch.float64), network)


def fit_on_features(raw: Tensor, targets: Tensor, network: Extractor) -> AttributeModel:
    """Fit on features [N, D] and targets [N, A]; penalty and R^2 by every fifth image held out, weights from all of them."""
    standardiser = Standardiser.fit(raw)
    x, y = standardiser.transform(raw), targets.double()
    held = torch.arange(len(x)) % HELD_OUT == 0
    path = zip(PENALTIES, ridge_path(x[~held], y[~held], PENALTIES), strict=True)
    scores = {penalty: r_squared(x[held] @ weight + bias, y[held]) for penalty, (weight, bias) in path}
    best = max(PENALTIES, key=lambda p: float(scores[p].mean()))
    weight, bias = ridge(x, y, best)
    return AttributeModel(tuple(ATTRIBUTES), standardiser.mean, standardiser.std, weight.contiguous(), bias, scores[best], network.name, network.sha256)


def load_attribute_model(folder: str | Path = FOLDER, extractor: str = "efficientnet_lite0") -> AttributeModel | None:
    """The shipped regressors on that extractor; None where no file of them is there."""
    path = Path(folder) / f"{extractor}.safetensors"
    return AttributeModel.load(path) if path.is_file() else None
