"""On rendered craters: collapsed < half-collapsed < diverse for every diversity metric; PRECISION and ADHERENCE by realism and obedience."""

from __future__ import annotations

import pytest
import torch

from backend.config.catalogue import METRICS
from backend.config.schema import TrainConfig
from backend.rewards.composition import RewardFunction
from tests.rewards.conftest import DRAWS

REALISM_AND_OBEDIENCE = {"PRECISION", "ADHERENCE"}
DIVERSITY = [name for name in METRICS.names() if name not in REALISM_AND_OBEDIENCE]


def reward(renders, **settings) -> RewardFunction:
    return RewardFunction(TrainConfig(**settings), renders.reference, renders.captions)


@pytest.mark.parametrize("metric", DIVERSITY)
def test_diversity_metrics_rise_from_collapsed_over_half_to_diverse(metric, renders, with_attributes):
    function = reward(renders, metric=metric)
    collapsed, half, diverse = (
        sum(function.score_set(images, captions) for images, captions in sets) / DRAWS
        for sets in (
            zip(renders.collapsed, renders.collapsed_captions, strict=True),
            [(renders.half(i), renders.half_captions(i)) for i in range(DRAWS)],
            zip(renders.diverse, renders.diverse_captions, strict=True),
        )
    )
    assert collapsed < half < diverse


@pytest.mark.parametrize("metric", [m for m in DIVERSITY if m not in {"LPIPS", "NOVELTY"}])
def test_credit_goes_to_the_images_that_differ(metric, renders, with_attributes):
    # Sixteen collapsed and sixteen diverse images in one group: the diverse ones earn more on average.
    function = reward(renders, metric=metric)
    images = torch.cat([renders.collapsed[1], renders.diverse[1]])
    captions = renders.collapsed_captions[1] + renders.diverse_captions[1]
    credit = function(images, captions, torch.arange(32)).raw_components["diversity"]
    assert float(credit[16:].mean()) > float(credit[:16].mean())


def noisy(images: torch.Tensor, amount: float) -> torch.Tensor:
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
    return (1 - amount) * images + amount * noise


def test_precision_falls_as_images_dissolve_in_noise(renders):
    function = reward(renders, metric="PRECISION")
    scores = [function.score_set(noisy(renders.diverse[0], amount), renders.diverse_captions[0]) for amount in (0.0, 0.2, 0.5, 1.0)]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 1.5 * scores[-1]


def test_precision_of_the_reference_itself_is_one_and_collapse_does_not_matter(renders):
    function = reward(renders, metric="PRECISION")
    assert function.score_set(renders.reference[:16], renders.captions[:16]) == pytest.approx(1, abs=1e-4)
    assert function.score_set(renders.reference[:1].repeat(16, 1, 1, 1), renders.captions[:16]) == pytest.approx(1, abs=1e-4)


def test_adherence_rises_with_the_share_of_obedient_captions(renders, with_attributes):
    function = reward(renders, metric="ADHERENCE")
    images = torch.cat(renders.diverse)
    right = [c for words in renders.diverse_captions for c in words]
    wrong = right[1:] + right[:1]
    mixed = [r if i % 2 else w for i, (r, w) in enumerate(zip(right, wrong, strict=True))]
    scores = [function.score_set(images, captions) for captions in (wrong, mixed, right)]
    assert scores == sorted(scores)
    assert scores[2] > scores[0] + 0.05
