"""Rendered sets that the reward tests share: a reference, diverse sets, and sets of one crater again and again."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from backend.features.base import Extractor, check_images
from backend.features.load import load_extractor
from backend.reference.captions import attribute_targets, caption
from backend.reference.renderer import render_batch, sample_parameters
from backend.rewards.attributes_model import AttributeModel, fit_attribute_model

GROUP, DRAWS, SIZE = 16, 4, 64


@dataclass
class Renders:
    """Reference [M, 3, 64, 64] with captions, and for each draw a diverse and a collapsed set [16, 3, 64, 64] with captions."""

    reference: torch.Tensor
    captions: list[str]
    diverse: list[torch.Tensor]
    diverse_captions: list[list[str]]
    collapsed: list[torch.Tensor]
    collapsed_captions: list[list[str]]
    parameters: list

    def half(self, draw: int) -> torch.Tensor:
        """Eight images of one crater and eight different ones."""
        return torch.cat([self.collapsed[draw][: GROUP // 2], self.diverse[draw][GROUP // 2 :]])

    def half_captions(self, draw: int) -> list[str]:
        """Captions of `half`."""
        return self.collapsed_captions[draw][: GROUP // 2] + self.diverse_captions[draw][GROUP // 2 :]


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """uint8 [N, h, w, 3] -> float [N, 3, h, w]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def remembering(network: Extractor) -> Extractor:
    """The same network, which looks at each picture once: the tests show it the same few hundred again and again."""
    rows: dict[bytes, torch.Tensor] = {}
    plain = network.forward

    def forward(images: torch.Tensor, preserve_gradients: bool = False) -> torch.Tensor:
        if preserve_gradients:
            return plain(images, True)
        keys = [hashlib.sha256(image.detach().contiguous().numpy().tobytes() + str(tuple(image.shape)).encode()).digest() for image in check_images(images)]
        new = [i for i, key in enumerate(keys) if key not in rows]
        if new:
            rows.update(zip((keys[i] for i in new), plain(images[new]), strict=True))
        return torch.stack([rows[key] for key in keys]) if keys else plain(images)

    network.forward = forward
    return network


@pytest.fixture(scope="session", autouse=True)
def networks():
    """Every reward of these tests shares one network of a name."""
    found: dict[str, Extractor] = {}

    def load(name: str, device: str = "cpu") -> Extractor:
        if name not in found:
            found[name] = remembering(load_extractor(name, device))
        return found[name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("backend.rewards.spaces.load_extractor", load)
        patch.setattr("backend.rewards.attributes_model.load_extractor", load)
        yield load


@pytest.fixture(scope="session")
def renders() -> Renders:
    rng = np.random.default_rng(7)
    parameters = [sample_parameters(rng) for _ in range(73 + GROUP * DRAWS)]
    images = to_tensor(render_batch(parameters, range(len(parameters)), size=SIZE))
    words = [caption(p) for p in parameters]
    starts = [73 + GROUP * i for i in range(DRAWS)]
    repeated = [[parameters[s]] * GROUP for s in starts]
    return Renders(
        images[:73],
        words[:73],
        [images[s : s + GROUP] for s in starts],
        [words[s : s + GROUP] for s in starts],
        [to_tensor(render_batch(p, range(900, 900 + GROUP), size=SIZE)) for p in repeated],
        [[caption(p[0])] * GROUP for p in repeated],
        parameters,
    )


@pytest.fixture(scope="session")
def attribute_model(renders, networks) -> AttributeModel:
    images = torch.cat([renders.reference, *renders.diverse])
    return fit_attribute_model(images, [attribute_targets(p) for p in renders.parameters], networks("efficientnet_lite0"))


@pytest.fixture
def with_attributes(monkeypatch, attribute_model):
    """Every RewardFunction finds these regressors."""
    monkeypatch.setattr("backend.rewards.composition.load_attribute_model", lambda: attribute_model)
    return attribute_model


@pytest.fixture(scope="module")
def images(renders):
    """24 varied renders and their captions."""
    return torch.cat(renders.diverse)[:24], sum(renders.diverse_captions, [])[:24]
