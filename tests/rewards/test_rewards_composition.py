"""The reward function: weights, modes, memory, ensembles, and that bad input gives a defined value or a clear error."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from backend.config.catalogue import METRICS
from backend.config.schema import TrainConfig
from backend.errors import InputError
from backend.rewards.base import MetricContext, RewardBatch
from backend.rewards.composition import RewardFunction
from backend.rewards.kernels import median_distance
from backend.rewards.mmd import MMD
from backend.rewards.queue import FeatureQueue
from tests.rewards.composing import call, make


def all_finite(result) -> bool:
    """Everything that images get; the set's score is NaN where it has none, and then a sentence says why."""
    tensors = [result.total, result.features, *result.components.values(), *result.raw_components.values()]
    numbers = [*(e[k] for e in result.explanations for k in ("attraction", "repulsion"))]
    said = math.isfinite(result.score) or not any(result.raw_components["diversity"]) and all(e["note"] for e in result.explanations)
    return said and all(bool(torch.isfinite(t).all()) for t in tensors) and all(math.isfinite(n) for n in numbers)


@pytest.mark.parametrize("metric", METRICS.names())
@pytest.mark.parametrize("mode", ["difference", "batch", "single"])
def test_every_metric_is_finite_for_every_odd_group(metric, mode, renders, with_attributes, images):
    function = make(renders, metric=metric, reward_mode=mode)
    pictures, words = images
    flat = torch.full((5, 3, 64, 64), 0.5)
    groups = [pictures[:1], pictures[:2], pictures[:1].repeat(5, 1, 1, 1), flat, torch.zeros(3, 3, 96, 40), pictures[:6]]
    damaged = pictures[:4].clone()
    damaged[2, 0, 0, 0] = float("nan")
    for group in [*groups, damaged, torch.full((3, 3, 64, 64), float("inf"))]:
        result = call(function, group, words[: len(group)])
        assert all_finite(result), (metric, mode, tuple(group.shape))
        assert result.total.shape == (len(group),)
        assert len(result.explanations) == len(group)


@pytest.mark.parametrize("metric", METRICS.names())
def test_a_resumed_reward_scores_bit_for_bit_alike(metric, renders, with_attributes, images):
    pictures, words = images
    for mode in ("difference", "single"):
        first, second = (make(renders, base=pictures[16:], metric=metric, reward_mode=mode) for _ in range(2))
        for start in (0, 4):
            call(first, pictures[start : start + 4], words[start : start + 4])
        state = first.state_dict()
        assert all(isinstance(v, torch.Tensor | int | float) for v in state.values())
        second.load_state_dict(state)
        a, b = (call(f, pictures[8:12], words[8:12]) for f in (first, second))
        assert torch.equal(a.total, b.total)
        assert a.score == b.score


def test_total_is_the_weighted_sum_of_the_components(renders, with_attributes, images):
    function = make(renders, base=images[0][16:], adherence_weight=0.3)
    call(function, images[0][:8], images[1][:8])
    function.set_weight("spatial_weight", 0.7)
    result = call(function, images[0][8:16], images[1][8:16])
    weights = {"diversity": 1.0, "sequential": 0.1, "spatial": 0.7, "entropy": 0.05, "quality": 0.2, "adherence": 0.3}
    assert set(result.components) == set(result.raw_components) == set(weights)
    np.testing.assert_allclose(result.total, sum(w * result.components[k].double() for k, w in weights.items()), atol=1e-5)


def test_bonuses_off_leaves_the_metric_alone(renders, images):
    result = call(make(renders, use_bonuses=False), images[0][:8], images[1][:8])
    assert not {"sequential", "spatial", "entropy", "quality"} & set(result.components)
    np.testing.assert_allclose(result.total, result.components["diversity"])


def test_score_set_changes_nothing_and_equals_the_score_of_the_call(renders, images):
    function = make(renders, base=images[0][16:])
    before = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in function.state_dict().items()}
    score = function.score_set(images[0][:8], images[1][:8])
    after = function.state_dict()
    assert all(torch.equal(v, after[k]) if isinstance(v, torch.Tensor) else v == after[k] for k, v in before.items())
    assert call(function, images[0][:8], images[1][:8]).score == score


def test_a_probe_tells_score_realism_and_prompt_relevance_and_remembers_nothing(renders, with_attributes, images):
    pictures, words = images[0][:8], images[1][:8]
    function, silent = make(renders, base=images[0][16:]), make(renders, base=images[0][16:], use_bonuses=False)
    before = function.state_dict()
    found = function.probe(pictures, words)
    assert all(torch.equal(v, before[k]) if isinstance(v, torch.Tensor) else v == before[k] for k, v in function.state_dict().items())
    paid = call(function, pictures, words)
    assert found["score"] == paid.score
    for name in ("quality", "adherence"):
        assert found[name] == pytest.approx(float(paid.raw_components[name].mean()), rel=1e-6), name
    assert silent.probe(pictures, words) == found, "told whether or not it is paid for"
    assert make(renders, base=images[0][16:]).probe(torch.full((4, 3, 64, 64), float("nan")), words[:4])["quality"] is None


def test_without_regressors_a_probe_tells_no_prompt_relevance(renders, images, monkeypatch):
    monkeypatch.setattr("backend.rewards.composition.load_attribute_model", lambda: None)
    found = make(renders).probe(images[0][:8], images[1][:8])
    assert found["adherence"] is None and found["quality"] is not None


def test_credit_is_what_the_call_pays_and_remembers_nothing(renders, images):
    reward, (pictures, captions) = make(renders), images
    reward(pictures[:6], captions[:6], torch.arange(6))
    before = reward.state_dict()
    credit = reward.credit(pictures[6:12], captions[6:12], torch.arange(6))
    after = reward.state_dict()
    assert all(torch.equal(torch.as_tensor(before[k]), torch.as_tensor(after[k])) for k in before)
    assert torch.equal(credit, reward(pictures[6:12], captions[6:12], torch.arange(6)).total)


def test_a_pair_is_compared_with_the_queue(renders, images):
    function = make(renders, base=images[0][2:], use_bonuses=False, metric="MMD")
    result = call(function, images[0][:2], images[1][:2])
    assert {e["companion_kind"] for e in result.explanations} == {"queue"}
    # The definition: each image as one more member of the queue.
    queue = function.primary.context.queue.rows[:22]
    x = result.features.double()
    metric = MMD(function.config, function.primary.context)
    expected = [metric.set_score(torch.cat([queue, row[None]])) - metric.set_score(queue) for row in x]
    np.testing.assert_allclose(result.raw_components["diversity"], expected, atol=1e-6)


def test_explanations_add_up_and_name_the_nearest_image(renders, images):
    pictures = images[0][:8].clone()
    pictures[5] = pictures[1] * 0.999
    result = call(make(renders), pictures, images[1][:8])
    assert result.explanations[5]["companion"] == 1
    assert result.explanations[1]["companion"] == 5
    for found, credit in zip(result.explanations, result.raw_components["diversity"].tolist(), strict=True):
        assert found["attraction"] + found["repulsion"] == pytest.approx(credit, abs=1e-7)


def test_a_damaged_image_gets_the_lowest_reward_and_leaves_the_others_alone(renders, images):
    pictures = images[0][:8].clone()
    pictures[3] = float("nan")
    keep = [0, 1, 2, 4, 5, 6, 7]
    damaged = call(make(renders), pictures, images[1][:8])
    clean = call(make(renders), images[0][keep], [images[1][i] for i in keep])
    np.testing.assert_allclose(damaged.total[keep], clean.total, atol=1e-5)
    assert float(damaged.total[3]) == float(damaged.total.min())
    assert "not finite" in damaged.explanations[3]["note"]


def test_reference_curriculum_narrows_to_typical_images_and_back(renders, images):
    function = make(renders, metric="COVERAGE")
    whole = function.score_set(images[0][:8], images[1][:8])
    function.set_reference_share(0.2)
    context = function.metrics[0].context
    assert len(context.reference) == math.ceil(0.2 * 73)
    narrowed = function.score_set(images[0][:8], images[1][:8])
    with function.whole_reference():
        assert function.score_set(images[0][:8], images[1][:8]) == whole != narrowed
    assert function.score_set(images[0][:8], images[1][:8]) == narrowed and function.reference_share == 0.2
    context = function.metrics[0].context
    everything = function.primary.whole.reference
    distances = (everything - everything.mean(0)).norm(dim=1)
    assert float((context.reference - everything.mean(0)).norm(dim=1).max()) <= float(distances.sort().values[math.ceil(0.2 * 73) - 1]) + 1e-9
    function.set_reference_share(1.0)
    assert function.score_set(images[0][:8], images[1][:8]) == whole
    with pytest.raises(InputError):
        function.set_reference_share(0.0)


@pytest.mark.parametrize("earlier", [False, True])
def test_attributes_of_recent_images_keep_the_units_of_the_reference_in_force(renders, images, earlier):
    function = make(renders, metric="ATTRIBUTES", use_bonuses=False)
    (group, _), seen = function._batches(*(part[:8] for part in images[:2]), torch.arange(8)), function.metrics[0]
    batch = group["efficientnet_lite0"]
    seen.observe(batch)
    state = function.state_dict()
    if earlier:  # as it was written before: standardised, under another key
        state = {k: v for k, v in state.items() if not k.startswith("metric.")} | {"metric.ATTRIBUTES@efficientnet_lite0.queue.rows": seen.embed(batch)}
    again = make(renders, metric="ATTRIBUTES", use_bonuses=False)
    again.load_state_dict(state)
    whole = again.metrics[0].company(8)
    torch.testing.assert_close(whole, again.metrics[0].embed(batch), rtol=0, atol=0 if not earlier else 1e-12)
    again.set_reference_share(0.3)
    assert (again.metrics[0].embed(batch) - whole).abs().max() > 0.1
    torch.testing.assert_close(again.metrics[0].company(8), again.metrics[0].embed(batch), rtol=0, atol=1e-12)


@pytest.mark.parametrize("metric", ["MI", "COVERAGE", "PRECISION"])
def test_reference_smaller_than_k_is_an_error_that_names_knn_k(metric, renders):
    with pytest.raises(InputError, match="knn_k"):
        RewardFunction(TrainConfig(metric=metric, knn_k=6), renders.reference[:6], [])


def test_references_that_cannot_be_used(renders):
    one = renders.reference[:1]
    for bad in (one, one.repeat(4, 1, 1, 1), torch.full((4, 3, 64, 64), float("nan")), torch.zeros(4, 1, 64, 64), renders.reference[:, :, :4, :4]):
        with pytest.raises(InputError):
            RewardFunction(TrainConfig(), bad, [])


def test_features_of_a_large_reference_are_kept_on_disk(renders, monkeypatch, tmp_path):
    monkeypatch.setenv("CRATER_CACHE", str(tmp_path))
    monkeypatch.setattr("backend.rewards.spaces.WORTH_KEEPING", 50)
    first, second = (make(renders) for _ in range(2))
    assert len(list((tmp_path / "features").glob("efficientnet_lite0_*.npy"))) == 1
    assert torch.equal(first.primary.context.reference, second.primary.context.reference)


def test_groups_that_cannot_be_used(renders, images):
    function = make(renders)
    with pytest.raises(InputError):
        function(images[0][:0], [], torch.zeros(0, dtype=torch.long))
    with pytest.raises(InputError):
        function(images[0][:3], images[1][:2], torch.zeros(3, dtype=torch.long))
    with pytest.raises(InputError):
        function.set_weight("diversity", -1.0)


def test_metrics_refuse_features_that_are_not_finite():
    reference = torch.from_numpy(np.random.default_rng(0).normal(size=(20, 4)))
    context = MetricContext(reference, torch.zeros(20, 3, 8, 8), FeatureQueue(16, 4))
    features = reference[:5].clone()
    features[2, 1] = float("nan")
    with pytest.raises(InputError, match="image 2"):
        MMD(TrainConfig(), context).evaluate(RewardBatch(features, torch.zeros(5, 3, 8, 8), [""] * 5, torch.zeros(5)))


def test_attribute_metrics_without_regressors_say_how_to_get_them(renders, monkeypatch):
    monkeypatch.setattr("backend.rewards.composition.load_attribute_model", lambda: None)
    for settings in ({"metric": "ATTRIBUTES"}, {"metric": "ADHERENCE"}, {"adherence_weight": 0.5}):
        with pytest.raises(InputError, match="base-model attributes"):
            make(renders, **settings)


def test_resume_with_another_metric_is_refused(renders):
    with pytest.raises(InputError, match="same metrics"):
        make(renders, metric="VENDI").load_state_dict(make(renders).state_dict())


def test_a_state_from_before_the_first_group_is_gone_back_to(renders, images):
    """LPIPS keeps vectors of recent images from the first group on; going back to the start must not ask for them."""
    function = make(renders, metric="LPIPS", reward_mode="single", use_bonuses=False)
    start = function.state_dict()
    call(function, images[0][:4], images[1][:4])
    first = function.credit(images[0][4:8], images[1][4:8], torch.arange(4))
    later = function.state_dict()
    function.load_state_dict(start)
    assert function.metrics[0].company(8).numel() == 0 and function.state_dict().keys() == start.keys() != later.keys()
    function.load_state_dict(later)
    assert torch.equal(function.credit(images[0][4:8], images[1][4:8], torch.arange(4)), first)
    del later["queue.efficientnet_lite0.rows"]
    with pytest.raises(InputError, match="no queue.efficientnet_lite0.rows"):
        function.load_state_dict(later)


def test_queue_keeps_the_newest():
    queue = FeatureQueue(3, 1)
    queue.push(torch.arange(5.0)[:, None])
    assert queue.rows[:, 0].tolist() == [2, 3, 4]
    assert queue.recent(2)[:, 0].tolist() == [3, 4]
    with pytest.raises(InputError):
        queue.push(torch.zeros(1, 2))


def test_identical_reference_has_no_bandwidth():
    with pytest.raises(InputError):
        median_distance(torch.ones(4, 2, dtype=torch.float64))


@pytest.mark.parametrize(
    ("settings", "alone"),
    [
        ({}, True), ({"metric": "VENDI"}, True), ({"metric": "PRECISION"}, True),
        ({"metric": "FID"}, False), ({"ensemble": "MMD=1, NOVELTY=1"}, False), ({"reward_mode": "single"}, False),
        ({"prompts_per_group": 1}, False), ({"curriculum": "reference"}, True),
    ],
)  # fmt: skip
def test_a_score_alone_is_the_same_whatever_came_before(settings, alone):
    generator = torch.Generator().manual_seed(0)
    reference, group, others = (torch.rand(n, 3, 32, 32, generator=generator) for n in (20, 6, 30))
    reward = RewardFunction(TrainConfig(use_bonuses=False, **settings), reference)
    assert reward.scores_alone is alone
    before = reward.score_set(group, [""] * 6)
    reward(others, [""] * 30, torch.zeros(30, dtype=torch.long))
    assert not alone or reward.score_set(group, [""] * 6) == before
