"""On which scale components meet: the running normaliser, whole-group rewards, ensembles."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from backend.config import make_config
from backend.config.ensemble import parse_ensemble
from backend.errors import InputError
from backend.rewards.normalise import RunningNormaliser
from tests.rewards.composing import call, make


def test_batch_mode_pays_every_image_alike_and_moves_its_baseline(renders, images):
    function = make(renders, reward_mode="batch", use_bonuses=False)
    first = call(function, images[0][:8], images[1][:8])
    assert float(first.total.std()) == 0
    second = call(function, images[0][:1].repeat(8, 1, 1, 1), images[1][:8])
    assert float(second.total[0]) < float(first.total[0]) - 0.9  # far below the baseline of the diverse group


def test_ensemble_is_the_weighted_mean_of_its_normalised_parts(renders, images):
    function = make(renders, ensemble="MMD=3, VENDI@efficientnet_lite2=1", use_bonuses=False)
    result = call(function, images[0][:8], images[1][:8])
    mmd, vendi = (result.components[k] for k in ("MMD@efficientnet_lite0", "VENDI@efficientnet_lite2"))
    np.testing.assert_allclose(result.total, (0.75 * mmd + 0.25 * vendi), atol=1e-6)
    for part in (mmd, vendi):
        assert float(part.double().std(correction=0)) == pytest.approx(1, abs=1e-4)
    # The anchored scale: the reference's own images are near 0, one of them repeated is near -1.
    assert function.score_set(renders.reference[:16], renders.captions[:16]) == pytest.approx(0, abs=1e-6)
    assert function.score_set(renders.reference[:1].repeat(16, 1, 1, 1), renders.captions[:16]) == pytest.approx(-1, abs=1e-6)


def test_parts_of_an_ensemble():
    parts = parse_ensemble(" MMD=1, LPIPS@efficientnet_lite2 = 0.2 ,", "efficientnet_lite0")
    assert [(p.metric, p.extractor, p.weight) for p in parts] == [("MMD", "efficientnet_lite0", 1.0), ("LPIPS", "efficientnet_lite2", 0.2)]


@pytest.mark.parametrize("text", ["MMD", "MMD=x", "MMD=-1", "MMD=inf", "NOPE=1", "MMD@nope=1", "MMD=0", "MMD=1,MMD=2", "=1", ",", "MMD=1,MMD@efficientnet_lite0=2"])
def test_ensembles_that_cannot_be_read_are_refused_with_the_settings(text):
    with pytest.raises(InputError, match="ensemble") as refused:
        make_config({"ensemble": text})
    assert refused.value.field == "ensemble"


def test_normaliser_subtracts_the_past_and_has_a_floor():
    normaliser = RunningNormaliser(floor=0.5)
    for group in ([1.0, 3.0], [2.0, 6.0]):
        normaliser.update(torch.tensor(group, dtype=torch.float64))
    # Mean 3, mean square 12.5: variance 3.5.
    np.testing.assert_allclose(normaliser.apply(torch.tensor([5.0], dtype=torch.float64)), 2 / 3.5**0.5)
    still = RunningNormaliser(floor=0.5)
    still.update(torch.ones(4, dtype=torch.float64))
    assert float(still.apply(torch.tensor([1.5], dtype=torch.float64))) == 1.0


def test_one_number_that_is_not_finite_does_not_stay_in_the_moments():
    damaged, sound = RunningNormaliser(floor=0.5), RunningNormaliser(floor=0.5)
    damaged.update(torch.tensor([1.0, float("nan"), 3.0, float("inf")], dtype=torch.float64))
    damaged.update(torch.full((3,), float("nan"), dtype=torch.float64))
    sound.update(torch.tensor([1.0, 3.0], dtype=torch.float64))
    assert damaged.state_dict()["moments"].tolist() == sound.state_dict()["moments"].tolist() and damaged.groups == 1


def test_a_group_that_has_no_score_teaches_the_normaliser_nothing(renders, images):
    """One image and an empty queue: no score rather than 0, which MMD never reaches; the first group that has one sets the scale."""
    function = make(renders, metric="MMD")
    pictures, words = images
    first = call(function, pictures[:1], words[:1])
    assert math.isnan(first.score) and float(first.components["diversity"].abs().max()) == 0
    assert function.normalisers[function.parts[0].key].groups == 0
    call(function, pictures[1:4], words[1:4])
    later = [call(function, pictures[i : i + 1], words[i : i + 1]) for i in range(4, 10)]
    assert all(math.isfinite(r.score) and float(r.components["diversity"].abs().max()) < 100 for r in later)


def test_a_whole_groups_reward_is_on_one_scale_from_the_first_group_on(renders, images):
    """A group's values are all alike then, so that the first group alone says nothing of the scale."""
    function = make(renders, metric="FID", reward_mode="batch", base=images[0][:8])
    sizes = [float(call(function, images[0][i : i + 4], images[1][i : i + 4]).components["diversity"].abs().max()) for i in range(0, 20, 4)]
    assert sizes[0] == 0 and all(size < 5 for size in sizes)


def test_an_ensemble_in_single_mode_keeps_its_anchors(renders, images):
    scale = [make(renders, ensemble="MMD=1, VENDI=1", reward_mode=mode).anchors for mode in ("difference", "single")]
    assert scale[0] == scale[1] and all(span != 1.0 for _, span in scale[0])
