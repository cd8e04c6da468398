"""Advantages, losses and running estimates against hand loops and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.config import make_config
from backend.ppo.advantages import CreditEstimator, gae
from backend.ppo.coefficients import AdaptiveCoefficient
from backend.ppo.losses import clipped_surrogate, explained_variance, value_loss
from backend.ppo.noise_scale import GradientNoiseScale
from backend.ppo.trpo import conjugate_gradient, kl_bound


@given(st.integers(1, 6), st.floats(0, 1), st.floats(0, 1), st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_gae_is_the_discounted_sum_of_temporal_differences(steps, gamma, lam, seed):
    generator = torch.Generator().manual_seed(seed)
    rewards, values = torch.randn(steps, 2, generator=generator).double(), torch.randn(steps, 2, generator=generator).double()
    advantages, returns = gae(rewards, values, gamma, lam)
    for b in range(2):
        for k in range(steps):
            total = 0.0
            for j in range(k, steps):
                following = values[j + 1, b] if j + 1 < steps else 0.0
                total += (gamma * lam) ** (j - k) * float(rewards[j, b] + gamma * following - values[j, b])
            assert advantages[k, b] == pytest.approx(total, abs=1e-9)
    assert torch.allclose(returns, advantages + values)


def test_clipped_surrogate_case_by_case():
    ratio = torch.tensor([1.5, 0.5, 1.5, 0.5, 1.05])
    advantage = torch.tensor([1.0, 1.0, -1.0, -1.0, 2.0])
    loss = clipped_surrogate(ratio.log(), advantage, 0.2)
    assert loss.tolist() == pytest.approx([-1.2, -0.5, 1.5, 0.8, -2.1])


def test_clipped_pairs_have_no_gradient():
    log_ratio = torch.tensor([0.5, -0.5, 0.5, -0.5], requires_grad=True)
    clipped_surrogate(log_ratio, torch.tensor([1.0, 1.0, -1.0, -1.0]), 0.2).sum().backward()
    assert log_ratio.grad.ne(0).tolist() == [False, True, True, False]


def test_value_loss_takes_the_larger_of_plain_and_clipped():
    values, old, returns = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.0]), torch.tensor([1.0, 1.0])
    assert value_loss(values, old, returns, 0.2).tolist() == pytest.approx([0.5 * 0.8**2, 0.5])
    assert value_loss(values, old, returns, 0.0).tolist() == pytest.approx([0.0, 0.5])


def test_explained_variance_of_perfect_mean_and_constant_predictions():
    returns = torch.tensor([1.0, 2.0, 3.0, 6.0])
    assert explained_variance(returns, returns) == pytest.approx(1)
    assert explained_variance(torch.full((4,), 3.0), returns) == pytest.approx(0)
    assert explained_variance(returns, torch.ones(4)) == 0


def estimate(estimator: CreditEstimator, credit: list[float], prompts: list[int], **kwargs):
    return estimator.estimate(torch.tensor(credit), torch.tensor(prompts), torch.zeros(2, len(credit)), **kwargs)


def test_difference_subtracts_what_the_prompt_earned_before_but_not_now():
    estimator = CreditEstimator(make_config({}))
    first = estimate(estimator, [1.0, 3.0, -1.0, -3.0], [0, 0, 1, 1])
    scale = math.sqrt((1 + 9 + 1 + 9) / 4)
    assert first.advantages[0].tolist() == pytest.approx([c / scale for c in (1, 3, -1, -3)])
    second = estimate(estimator, [1.0, 3.0, -1.0, -3.0], [0, 0, 1, 2])
    raw = [1 - 2, 3 - 2, -1 + 2, -3]  # prompt 0 earned 2 before, prompt 1 -2, prompt 2 nothing yet
    scale = math.sqrt((5 + (1 + 1 + 1 + 9) / 4) / 2)
    assert second.advantages[0].tolist() == pytest.approx([r / scale for r in raw])
    assert torch.equal(second.advantages[0], second.advantages[1])


def test_advantages_are_clipped():
    estimator = CreditEstimator(make_config({"advantage_clip": 1.5}))
    assert estimate(estimator, [0.0] * 15 + [100.0], [0] * 16).advantages.max() == 1.5


def test_a_group_without_spread_is_dropped_and_one_image_is_not():
    estimator = CreditEstimator(make_config({}))
    same = estimate(estimator, [2.0, 2.0], [0, 1])
    assert same.degenerate
    assert not same.advantages.any()
    single = estimate(CreditEstimator(make_config({})), [2.0], [0])
    assert not single.degenerate
    assert single.advantages.all()


def test_credit_that_is_not_finite_is_left_out():
    credit = estimate(CreditEstimator(make_config({})), [1.0, float("nan"), -1.0, float("inf")], [0, 1, 2, 3])
    assert credit.nonfinite == 2
    assert credit.advantages[0].tolist() == [1.0, 0.0, -1.0, 0.0]
    nothing = estimate(CreditEstimator(make_config({})), [float("nan")] * 2, [0, 1])
    assert nothing.degenerate
    assert not nothing.advantages.any()


def test_a_set_score_that_is_not_finite_costs_one_group_and_stays_in_no_mean():
    estimator = CreditEstimator(make_config({"advantage": "broadcast"}))
    estimate(estimator, [0.0] * 4, [0, 1, 2, 3], group_score=5.0)
    estimate(estimator, [0.0] * 4, [0, 1, 2, 3], group_score=float("nan"))
    better = estimate(estimator, [0.0] * 4, [0, 1, 2, 3], group_score=6.0)
    assert better.advantages.isfinite().all() and better.advantages.min() > 0


def test_broadcast_pays_every_image_for_the_set_and_centred_broadcast_pays_none():
    estimator = CreditEstimator(make_config({"advantage": "broadcast"}))
    estimate(estimator, [0.0] * 4, [0, 1, 2, 3], group_score=5.0)
    better = estimate(estimator, [0.0] * 4, [0, 1, 2, 3], group_score=6.0)
    assert better.advantages.unique().numel() == 1
    assert better.advantages.min() > 0
    plateau = estimate(CreditEstimator(make_config({"advantage": "centred", "reward_mode": "batch"})), [6.0] * 4, [0, 1, 2, 3])
    assert not plateau.advantages.any()


def test_batch_reward_moves_against_its_own_running_mean():
    estimator = CreditEstimator(make_config({"reward_mode": "batch"}))
    estimate(estimator, [5.0] * 4, [0, 1, 2, 3])
    worse = estimate(estimator, [4.0] * 4, [0, 1, 2, 3])
    assert not worse.degenerate
    assert worse.advantages.max() < 0


def test_centred_is_the_standard_score_of_the_group():
    centred = estimate(CreditEstimator(make_config({"advantage": "centred"})), [1.0, 2.0, 3.0, 6.0], [0, 1, 2, 3]).advantages[0]
    assert centred.tolist() == pytest.approx([(x - 3) / math.sqrt(3.5) for x in (1, 2, 3, 6)])


def test_estimator_state_goes_through_json():
    import json

    one, two = CreditEstimator(make_config({})), CreditEstimator(make_config({}))
    estimate(one, [1.0, 0.3, -1.0], [0, 4, 4])
    two.load_state(json.loads(json.dumps(one.state())))
    again = [1.5, 0.1, -2.0], [0, 4, 1]
    assert torch.equal(estimate(one, *again).advantages, estimate(two, *again).advantages)


def test_coefficient_follows_the_excess_within_its_range():
    c = AdaptiveCoefficient(0.02, 0.02, shrink=10)
    c.adapt(5.0)
    assert c.value == pytest.approx(0.02 * math.exp(0.1))
    for _ in range(200):
        c.adapt(-1.0)
    assert c.value == pytest.approx(0.002)
    for _ in range(2000):
        c.adapt(1.0)
    assert c.value == pytest.approx(20)
    off = AdaptiveCoefficient(0.0, 0.0)
    off.adapt(1.0)
    assert off.value == 0


def test_noise_scale_of_gradients_with_known_signal_and_noise():
    generator, scale = torch.Generator().manual_seed(0), GradientNoiseScale()
    signal, size, noise = torch.full((1000,), 0.3), 8, 2.0
    for _ in range(200):
        scale.observe([signal + noise / size**0.5 * torch.randn(1000, generator=generator) for _ in range(4)], size)
    assert scale.value == pytest.approx(noise**2 / 0.3**2, rel=0.05)  # tr(Sigma) / |G|^2, dimensions cancel


def test_conjugate_gradient_solves_a_linear_system():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(8, 8, generator=generator, dtype=torch.float64)
    matrix, target = root @ root.T + 0.5 * torch.eye(8), torch.randn(8, generator=generator, dtype=torch.float64)
    assert torch.allclose(conjugate_gradient(lambda v: matrix @ v, target, 40), torch.linalg.solve(matrix, target), atol=1e-6)


def test_trust_region_is_the_usual_one_at_the_usual_clip_range():
    assert kl_bound(0.2) == pytest.approx(0.01)
