"""Standardisation and the cache on disk."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler

from backend.config import make_config
from backend.config.catalogue import EXTRACTORS
from backend.errors import InputError
from backend.features.base import Extractor
from backend.features.device import resolve_device
from backend.features.load import Standardiser, cached_features, load_extractor


class Means(Extractor):
    """Channel means, counting how many images it was shown."""

    def __init__(self, sha256: str = "a") -> None:
        super().__init__("means", "input", 3, sha256)
        self.shown = 0

    def features(self, images):
        self.shown += len(images)
        return images.mean((2, 3))


def features(n: int = 40, d: int = 6) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(2, 3, size=(n, d)))


def test_standardiser_equals_sklearns_up_to_the_degrees_of_freedom():
    x = features()
    expected = StandardScaler().fit_transform(x.numpy()) * (39 / 40) ** 0.5
    found = Standardiser.fit(x)
    np.testing.assert_allclose(found.transform(x), expected, atol=1e-10)
    again = Standardiser.from_state_dict(found.state_dict())
    assert torch.equal(again.transform(x), found.transform(x))


def test_a_channel_that_hardly_varies_does_not_become_the_loudest():
    x = features()
    x[:, 2] = 5 + 1e-9 * x[:, 2]
    standardiser = Standardiser.fit(x)
    assert float(standardiser.std[2]) == pytest.approx(0.1 * float(x.std(0)[x.std(0) > 0].median()), rel=1e-9)


@pytest.mark.parametrize("bad", [torch.ones(1, 3), torch.ones(5, 3), torch.full((5, 3), float("nan"))])
def test_references_without_spread_are_refused(bad):
    with pytest.raises(InputError):
        Standardiser.fit(bad)


def test_features_of_another_extractor_are_refused():
    with pytest.raises(InputError, match="numbers"):
        Standardiser.fit(features()).transform(torch.zeros(2, 7))


def test_cache_is_read_when_pixels_and_weights_are_the_same(tmp_path):
    images = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    first = Means()
    found = cached_features(first, images, tmp_path)
    again = Means()
    assert torch.equal(cached_features(again, images, tmp_path), found)
    assert again.shown == 0
    changed = images.clone()
    changed[4, 2, 15, 15] += 1e-3
    cached_features(again, changed, tmp_path)
    assert again.shown == 5
    other_weights = Means("b")
    cached_features(other_weights, images, tmp_path)
    assert other_weights.shown == 5


def test_a_torn_cache_file_is_replaced(tmp_path):
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    network = Means()
    found = cached_features(network, images, tmp_path)
    file = next(tmp_path.glob("means_*.npy"))
    file.write_bytes(file.read_bytes()[:40])
    assert torch.equal(cached_features(network, images, tmp_path), found)
    assert torch.equal(torch.from_numpy(np.load(file, allow_pickle=False)), found)
    assert [p.name for p in tmp_path.iterdir()] == [file.name]


def test_a_folder_that_cannot_be_written_costs_no_result(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    found = cached_features(Means(), images, tmp_path / "file" / "cache")
    np.testing.assert_allclose(found, images.mean((2, 3)))
    assert "not kept" in capsys.readouterr().err


def test_no_cache_folder_computes():
    network = Means()
    for _ in range(2):
        cached_features(network, torch.zeros(2, 3, 8, 8), None)
    assert network.shown == 4


def test_unknown_names_and_plug_ins_that_are_no_extractors():
    with pytest.raises(InputError, match="efficientnet_lite0"):
        load_extractor("nope")
    EXTRACTORS.register("not_an_extractor", "A function that gives a number.")(lambda device: 3)
    try:
        with pytest.raises(InputError, match="Extractor"):
            load_extractor("not_an_extractor")
    finally:
        EXTRACTORS.remove("not_an_extractor")


@pytest.mark.parametrize(("name", "said"), [("mps", "'mps' has no double precision.*choose auto or cpu"), ("xpu", "choose auto, cpu, cuda or cuda:N")])
def test_a_device_that_cannot_train_is_refused_by_name(name, said):
    with pytest.raises(InputError, match=said):
        resolve_device(name)
    with pytest.raises(InputError, match=f"device = '{name}'"):
        make_config({"device": name})
