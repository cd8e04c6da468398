"""Joint MMD of images and captions: the definition in loops, exact credit, and what it pays that MMD does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backend.config.schema import TrainConfig
from backend.errors import InputError
from backend.rewards.base import MetricContext, RewardBatch
from backend.rewards.jmmd import JMMD, WordKernel
from backend.rewards.kernels import kernel_matrix, median_distance
from backend.rewards.mmd import MMD
from backend.rewards.queue import FeatureQueue
from tests.rewards.composing import call, make

SAID = ["large old crater", "small fresh crater", "large fresh crater", "small old crater", "large crater on dunes"]


def points(n: int, seed: int, d: int = 4) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, d)))


def metric(cls: type = JMMD, captions: list[str] | None = None, **settings: object) -> MMD:
    said = SAID if captions is None else captions
    return cls(TrainConfig(metric="JMMD", **settings), MetricContext(points(5, 1), torch.zeros(5, 3, 8, 8), FeatureQueue(16, 4), reference_captions=said))


def batch(features: torch.Tensor, captions: list[str]) -> RewardBatch:
    return RewardBatch(features, torch.zeros(len(features), 3, 8, 8), captions, torch.arange(len(features)))


def test_words_weigh_by_their_rarity_and_unknown_ones_nothing():
    kernel = WordKernel(SAID)
    vectors = kernel([*SAID, "Large, OLD crater!", "crater", "a word never said", ""])
    assert torch.equal(vectors[5], vectors[0])  # case and punctuation do not count
    assert not vectors[6:].any()  # in every caption, in none, no word
    assert kernel.weights["dunes"] == pytest.approx(np.log(6 / 2)) and kernel.weights["crater"] == 0
    large, dunes = kernel.weights["large"], kernel.weights["dunes"]
    on = kernel.weights["on"]
    assert float(vectors[0] @ vectors[4]) == pytest.approx(large * large / (np.hypot(large, kernel.weights["old"]) * np.sqrt(large**2 + dunes**2 + on**2)))


def test_score_is_the_u_statistic_of_the_product_kernel_in_loops():
    found, x, said = metric(), points(6, 2), [SAID[i] for i in (0, 1, 1, 2, 3, 0)]
    words, width = found.word_kernel, median_distance(points(5, 1))

    def k(a: torch.Tensor, ca: str, b: torch.Tensor, cb: str) -> float:
        return float(kernel_matrix(a[None], b[None], found.kind, width)[0, 0] * (words([ca])[0] @ words([cb])[0]))

    y = points(5, 1)
    xx = sum(k(x[i], said[i], x[j], said[j]) for i in range(6) for j in range(6) if i != j) / 30
    yy = sum(k(y[i], SAID[i], y[j], SAID[j]) for i in range(5) for j in range(5) if i != j) / 20
    xy = sum(k(x[i], said[i], y[j], SAID[j]) for i in range(6) for j in range(5)) / 30
    result = found.evaluate(batch(x, said))
    assert result.score == pytest.approx(2 * xy - xx - yy, abs=1e-12)
    rest = [found.evaluate(batch(torch.cat([x[:i], x[i + 1 :]]), said[:i] + said[i + 1 :])).score for i in range(6)]
    np.testing.assert_allclose(result.credit, [result.score - r for r in rest], atol=1e-12)


def test_it_is_mmd_where_all_captions_say_the_same():
    said = ["a crater", *["large crater"] * 4]  # "large" is the only word that weighs
    found, plain = metric(captions=["large crater"] * 4 + ["a crater"]), metric(MMD)
    x = points(6, 3)
    assert WordKernel(said)(["large"]).norm() == pytest.approx(1)
    within = found._kernels(found.embed(batch(x, ["large crater"] * 6)))[0]
    torch.testing.assert_close(within, plain._kernels(x)[0])


def test_right_captions_score_above_wrong_ones_and_mmd_cannot_tell(renders):
    right = [c for words in renders.diverse_captions for c in words]
    images = torch.cat(renders.diverse)
    wrong = right[7:] + right[:7]
    joint, plain = make(renders, metric="JMMD"), make(renders, metric="MMD")
    assert joint.score_set(images, right) > joint.score_set(images, wrong)
    assert plain.score_set(images, right) == plain.score_set(images, wrong)


def test_single_images_are_compared_with_earlier_ones_of_like_prompts_and_memory_is_saved():
    found = metric(reward_mode="single")
    near, far = torch.zeros(1, 4, dtype=torch.float64), 3 * torch.ones(1, 4, dtype=torch.float64)
    said = ["small fresh crater"] * 6 + ["large old crater"] * 6
    found.observe(batch(torch.cat([near.repeat(6, 1), far.repeat(6, 1)]), said))

    def repulsion(one: MMD, caption: str) -> float:
        return one.evaluate(batch(near, [caption])).explanations[0]["repulsion"]

    assert repulsion(found, "small fresh crater") < repulsion(found, "large old crater")  # six of those words are right here
    again = metric(reward_mode="single")
    again.load_state_dict(found.state_dict())
    assert repulsion(again, "small fresh crater") == repulsion(found, "small fresh crater")
    assert again.prompts == said


def test_memory_keeps_prompts_beside_their_images_when_the_oldest_fall_out():
    found = metric(queue_size=16)
    for start in range(0, 40, 8):
        found.observe(batch(torch.full((8, 4), float(start)), [f"crater {start + i}" for i in range(8)]))
    assert len(found.recent) == len(found.prompts) == 16
    assert found.prompts == [f"crater {i}" for i in range(24, 40)]
    assert found.company(3).shape == (3, 4 + found.said.shape[1])


def test_a_narrowed_reference_keeps_the_memory(renders):
    function = make(renders, metric="JMMD", use_bonuses=False)
    call(function, renders.diverse[0], renders.diverse_captions[0])
    function.set_reference_share(0.5)
    assert function.metrics[0].prompts == renders.diverse_captions[0]
    assert np.isfinite(function.score_set(renders.diverse[1], renders.diverse_captions[1]))


@pytest.mark.parametrize("captions", [[], [""] * 5])
def test_a_reference_without_captions_is_refused(captions):
    with pytest.raises(InputError, match="no captions") as caught:
        metric(captions=captions)
    assert caught.value.field == "metric"
