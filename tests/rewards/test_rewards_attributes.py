"""Attribute regressors: ridge against sklearn, the file and back, and agreement with captions worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

from backend.errors import InputError
from backend.reference.captions import ATTRIBUTES, attribute_targets
from backend.rewards.attributes_model import AttributeModel, fit_attribute_model, load_attribute_model, r_squared, ridge


def test_ridge_and_r_squared_equal_sklearn():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 8)), rng.normal(size=(60, 3))
    weight, bias = ridge(torch.from_numpy(x), torch.from_numpy(y), 2.5)
    sklearn = Ridge(alpha=2.5).fit(x, y)
    np.testing.assert_allclose(weight.T, sklearn.coef_, atol=1e-9)
    np.testing.assert_allclose(bias, sklearn.intercept_, atol=1e-9)
    found = r_squared(torch.from_numpy(sklearn.predict(x)), torch.from_numpy(y))
    np.testing.assert_allclose(found, r2_score(y, sklearn.predict(x), multioutput="raw_values"), atol=1e-9)


def test_view_is_read_from_renders_that_were_not_fitted_on(attribute_model):
    assert float(attribute_model.r2[ATTRIBUTES.index("view")]) > 0.5


def test_file_and_back(attribute_model, tmp_path, renders):
    path = attribute_model.save(tmp_path / "efficientnet_lite0.safetensors")
    again = AttributeModel.load(path)
    assert again.names == attribute_model.names
    assert again.sha256 == attribute_model.sha256
    raw = torch.rand(4, len(again.mean), generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.from_features(raw), attribute_model.from_features(raw))
    assert load_attribute_model(tmp_path) is not None
    assert load_attribute_model(tmp_path / "nothing") is None


def test_missing_and_damaged_files_say_what_to_do(tmp_path):
    (tmp_path / "bad.safetensors").write_bytes(b"\x00" * 40)
    for name in ("bad.safetensors", "absent.safetensors"):
        with pytest.raises(InputError, match="base-model attributes"):
            AttributeModel.load(tmp_path / name)


def test_too_few_renders_and_missing_targets(renders):
    with pytest.raises(InputError, match="at least 50"):
        fit_attribute_model(renders.reference[:10], [attribute_targets(p) for p in renders.parameters[:10]])
    with pytest.raises(InputError, match="missing"):
        fit_attribute_model(renders.reference[:60], [{"view": 0.0}] * 60)


def by_hand(columns: dict[str, float], readable: set[str]) -> tuple[AttributeModel, torch.Tensor]:
    """A model that measures these attributes on one image, and can read those of `readable`."""
    count = len(ATTRIBUTES)
    r2 = torch.tensor([0.9 if name in readable else 0.0 for name in ATTRIBUTES], dtype=torch.float64)
    zero = torch.zeros(1, dtype=torch.float64)
    model = AttributeModel(tuple(ATTRIBUTES), zero, zero + 1, torch.zeros(1, count, dtype=torch.float64), torch.zeros(count), r2, "efficientnet_lite0", "")
    return model, torch.tensor([[columns.get(name, 0.0) for name in ATTRIBUTES]], dtype=torch.float64)


def test_agreement_is_one_minus_the_mean_squared_error_of_what_is_said():
    kinds = [name for name in ATTRIBUTES if name.startswith("kind: ")]
    model, measured = by_hand({"view": 0.25, "kind: bowl": 0.6, kinds[1]: 0.3}, {"view", *kinds})
    # View: (0.25 - 0)^2 = 0.0625. Kind: half of (0.6 - 1)^2 + (0.3 - 0)^2 = 0.125. Terrain cannot be read and does not count.
    found = model.adherence(measured, ["aerial view of bowl mars craters on dune fields"])
    assert float(found[0]) == pytest.approx(1 - (0.0625 + 0.125) / 2)


def test_a_caption_that_says_nothing_measurable_is_not_judged():
    model, measured = by_hand({}, {"view"})
    assert torch.isnan(model.adherence(measured, ["hello"])[0])
