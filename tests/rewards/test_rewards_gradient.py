"""The reward's derivative by the images is the slope of what is paid."""

from __future__ import annotations

import pytest
import torch

from backend.config.catalogue import METRICS
from tests.rewards.composing import call, make


def slope_along(function, pictures, words, change, size):
    """Central difference of what the differentiable part of the reward adds up to."""
    index, totals = torch.arange(len(pictures)), []
    for sign in (1, -1):
        batches, _ = function._batches(pictures + sign * size * change, words, index)
        terms = [function._share(p) * function._set_term(p, m, batches[p.extractor]) for p, m in zip(function.parts, function.metrics, strict=True)]
        bonuses = {k: v for k, v in function._bonuses(batches[function.parts[0].extractor]).items() if k != "entropy"}
        scaled = [function.weights[k] * v.sum() / function.normalisers[k].scale(v) for k, v in bonuses.items()]
        totals.append(float(function.weights["diversity"] * sum(terms) + sum(scaled)))
    return (totals[0] - totals[1]) / (2 * size)


@pytest.mark.parametrize(
    "settings", [{"metric": "MMD"}, {"metric": "VENDI"}, {"metric": "VENDI", "vendi_order": 1.0}, {"metric": "MMD_VENDI"}, {"metric": "DPP"}, {"ensemble": "MMD=2, VENDI=1"}]
)
def test_the_image_gradient_is_the_slope_of_the_reward(settings, renders, with_attributes, images):
    function = make(renders, base=images[0][12:], adherence_weight=0.2, company=0, **settings)
    pictures, words = images[0][:8], images[1][:8]
    for start in (0, 8):
        call(function, images[0][start : start + 8], images[1][start : start + 8])  # the normalisers are warm
    found = function.image_gradient(pictures, words, torch.arange(8))
    assert found.shape == pictures.shape
    change = found / found.norm()
    assert slope_along(function, pictures, words, change, 5e-3) == pytest.approx(float((found * change).sum()), rel=0.08)


def test_prompt_relevance_is_felt_through_another_extractor_too(renders, with_attributes, images):
    """Its regressors read Lite0: where the metric looks through another network, they have a graph of their own."""
    function = make(renders, extractor="efficientnet_lite2", adherence_weight=1.0, diversity_weight=0.0, use_bonuses=False, company=0)
    pictures, words = images[0][:8], images[1][:8]
    call(function, pictures, words)
    found = function.image_gradient(pictures, words, torch.arange(8))
    assert found.any()
    change = found / found.norm()
    assert slope_along(function, pictures, words, change, 2e-2) == pytest.approx(float((found * change).sum()), rel=0.08)


def test_the_first_groups_image_gradient_is_in_units_of_its_own_credit(renders, images):
    function = make(renders, use_bonuses=False, company=0)
    pictures, words = images[0][:8], images[1][:8]
    found = function.image_gradient(pictures, words, torch.arange(8))
    change = found / found.norm()
    # What the gradient promises for the sum over the images of their credit is what the set's score in those units gains.
    spread = float((function.metrics[0].evaluate(function._batches(pictures, words, torch.arange(8))[0]["efficientnet_lite0"]).credit * 8).std(correction=0))
    gain = (function.score_set(pictures + 0.02 * change, words) - function.score_set(pictures - 0.02 * change, words)) / 0.04 * 8 / spread
    assert gain == pytest.approx(float((found * change).sum()), rel=0.08)


@pytest.mark.parametrize("metric", ["MMD", "VENDI", "MMD_VENDI", "DPP"])
def test_recent_images_join_the_set_that_is_differentiated(renders, images, metric):
    """The derivative is that of the score of company and group together, times their number; company itself stays as it is."""
    function = make(renders, use_bonuses=False, metric=metric, company=5)
    pictures, words, index = images[0][:6], images[1][:6], torch.arange(6)
    call(function, images[0][6:12], images[1][6:12])
    found = function.image_gradient(pictures, words, index)
    change = found / found.norm()
    company = function.spaces["efficientnet_lite0"].context.queue.rows[-5:]

    def score(size: float) -> float:
        rows = function._batches(pictures + size * change, words, index)[0]["efficientnet_lite0"].features
        return function.metrics[0].set_score(torch.cat([company, rows])) * 11 / function.normalisers[function.parts[0].key].scale(torch.zeros(1))

    assert (score(0.02) - score(-0.02)) / 0.04 == pytest.approx(float((found * change).sum()), rel=0.08)


def test_an_image_gradient_remembers_nothing_and_survives_damage(renders, images):
    function = make(renders)
    pictures, words = images[0][:6].clone(), images[1][:6]
    before = function.state_dict()
    pictures[2, 0, 0, 0] = float("nan")
    found = function.image_gradient(pictures, words, torch.arange(6))
    assert torch.isfinite(found).all() and (found[2] == 0).all() and (found[[0, 1, 3]] != 0).any()
    assert (function.image_gradient(pictures[:2], words[:2], torch.arange(2)) * 0 == 0).all()  # too few for a set
    after = function.state_dict()
    assert all(torch.equal(after[k], v) if isinstance(v, torch.Tensor) else after[k] == v for k, v in before.items())


def test_a_derivative_that_is_not_finite_is_said(renders, images, monkeypatch):
    function = make(renders, use_bonuses=False)
    monkeypatch.setattr(function.metrics[0], "set_value", lambda x: x.sum() * float("nan"))
    pictures = images[0][:6].clone()
    pictures[2] = float("nan")
    found = function.image_gradient(pictures, images[1][:6], torch.arange(6))
    assert found[[0, 1, 3, 4, 5]].isnan().all() and (found[2] == 0).all()


@pytest.mark.parametrize("bonuses", [True, False])
def test_a_group_without_a_sound_image_has_a_zero_gradient(renders, images, bonuses):
    function = make(renders, use_bonuses=bonuses)
    broken = torch.full_like(images[0][:6], float("nan"))
    found = function.image_gradient(broken, images[1][:6], torch.arange(6))
    assert found.shape == broken.shape and not found.any()
    few = torch.cat([images[0][:2], broken[2:]])  # two images are no set
    assert torch.isfinite(function.image_gradient(few, images[1][:6], torch.arange(6))).all()


def test_metrics_say_truly_whether_they_are_differentiable():
    for entry in METRICS:
        assert entry.differentiable == ("set_value" in vars(entry.load())), entry.name


def test_a_black_corner_has_a_derivative(renders, images):
    """A region that does not vary at all: the root of its variance has none at zero."""
    function = make(renders, metric="MMD", spatial_weight=0.5)
    pictures, words = images[0][:6].clone(), images[1][:6]
    pictures[1, :, :16, :16] = 0
    gradient = function.image_gradient(pictures, words, torch.zeros(6, dtype=torch.long))
    assert bool(gradient.isfinite().all()) and float(gradient[1].abs().max()) > 0
