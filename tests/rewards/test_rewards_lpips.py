"""Perceptual distances against the formula pixel by pixel; the real heads when they are cached, and the substitute's name when not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backend.config.schema import TrainConfig
from backend.errors import InputError
from backend.rewards.composition import RewardFunction
from backend.rewards.kernels import squared_distances
from backend.rewards.lpips import ALEX_LAYERS, ALEXNET_FILE, HEADS_FILE, LITE_LABEL, LPIPS_LABEL, AlexNetRows, perceptual_network, perceptual_rows

CHANNELS = (64, 192, 384, 256, 256)


def maps(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(3, c, s, s, generator=generator, dtype=torch.float64) for c, s in ((4, 6), (7, 3))]


def by_definition(stages: list[torch.Tensor], weights: list[torch.Tensor] | None, i: int, j: int) -> float:
    """Equation 1 of the paper: sum over stages of the spatial mean of weighted squared differences of unit channel vectors."""
    total = 0.0
    for s, stage in enumerate(stages):
        f = stage.numpy()
        unit = f / np.sqrt((f**2).sum(1, keepdims=True))
        w = np.ones(f.shape[1]) if weights is None else weights[s].numpy()
        total += float(((unit[i] - unit[j]) ** 2 * w[:, None, None]).sum(0).mean())
    return total


@pytest.mark.parametrize("weighted", [False, True])
def test_squared_distances_between_rows_are_the_perceptual_distances(weighted):
    stages = maps(0)
    weights = [torch.rand(4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), torch.ones(7, dtype=torch.float64) * 0.3] if weighted else None
    rows = perceptual_rows(stages, weights)
    found = squared_distances(rows, rows)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert float(found[i, j]) == pytest.approx(by_definition(stages, weights, i, j), abs=1e-9)


def fixture_weights(folder) -> tuple[dict, dict]:
    """Random files of the layout of torchvision's AlexNet and of LPIPS' heads."""
    from torchvision.models import alexnet

    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(0)
        backbone = alexnet(weights=None).state_dict()
    generator = torch.Generator().manual_seed(2)
    heads = {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1, generator=generator) for i, c in enumerate(CHANNELS)}
    backbone = {k: v for k, v in backbone.items() if k.startswith("features.")}
    torch.save(backbone, folder / ALEXNET_FILE)
    torch.save(heads, folder / HEADS_FILE)
    return backbone, heads


def test_cached_backbone_and_heads_give_lpips(tmp_path):
    backbone, heads = fixture_weights(tmp_path)
    network, label = perceptual_network(tmp_path)
    assert label == LPIPS_LABEL
    images = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(3))
    rows = network(images).double()
    # By hand: the scaling layer, AlexNet's ReLUs, the formula.
    from torchvision.models import alexnet

    trunk = alexnet(weights=None).features
    trunk.load_state_dict({k.removeprefix("features."): v for k, v in backbone.items()})
    x = (images * 2 - 1 - torch.tensor([-0.030, -0.088, -0.188])[:, None, None]) / torch.tensor([0.458, 0.448, 0.450])[:, None, None]
    stages = []
    with torch.inference_mode():
        for index, layer in enumerate(trunk):
            x = layer(x).clone()
            if index in ALEX_LAYERS:
                stages.append(x.double())
    expected = by_definition(stages, [heads[f"lin{i}.model.1.weight"].flatten().double() for i in range(5)], 0, 1)
    assert float(squared_distances(rows, rows)[0, 1]) == pytest.approx(expected, rel=1e-4)


def test_weights_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="do not fit"):
        AlexNetRows({"features.0.weight": torch.zeros(1)}, {})


def test_without_the_cache_the_substitute_names_itself(renders, tmp_path, monkeypatch):
    monkeypatch.setattr("backend.rewards.lpips.hub_folder", lambda: tmp_path)
    function = RewardFunction(TrainConfig(metric="LPIPS"), renders.reference[:8], [])
    assert function.metrics[0].label == LITE_LABEL
    result = function(renders.diverse[0][:4], [""] * 4, torch.arange(4))
    assert all(e["note"].startswith("Lite0 perceptual distance") for e in result.explanations)
