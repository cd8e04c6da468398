"""What holds a policy: KL to the one that sampled and to the base, and an entropy that is to stay."""

from __future__ import annotations

import math

import pytest
import torch

from backend.ppo.batch import Batch


def test_kl_over_the_target_ends_the_update(bench):
    stats = bench(learning_rate=0.05, ppo_epochs=4, target_kl_nats=0.01).episode(0)
    assert stats.early_stopped == 1
    assert stats.optimiser_steps < 8


def test_limits_count_in_the_policys_own_unit(bench):
    """Noise thirty times narrower than the diffusion's: the same move costs a thousand times the nats, so limits are wider."""
    pushed, adapted = (bench(mode=mode, kl_base_coef=0.02, target_kl_nats=10.0).agent._settings(6) for mode in ("DIVERSITY_POLICY", "LORA_UNET"))
    assert (pushed.target_kl, adapted.target_kl) == (40000.0, 10.0)
    assert (pushed.kl_base_coef, adapted.kl_base_coef) == pytest.approx((0.02 / 4000, 0.02))
    held = bench(mode="DIVERSITY_POLICY", kl_base_coef=0.02, kl_base_target_nats=1e-9, learning_rate=0.01)
    held.episode(0)
    assert 0.02 < held.agent.kl_base_coef.value < 0.023


def test_distance_to_the_base_is_measured_without_a_penalty_too(bench):
    b = bench(kl_base_coef=0.0, learning_rate=3e-3)
    b.episode(0)
    assert b.episode(1).distance_to_base > 0


def test_penalty_pulls_toward_the_base(bench):
    distance = {}
    for coefficient in (0.0, 1000.0):
        b = bench(kl_base_coef=coefficient, learning_rate=3e-3)
        for number in range(3):
            stats = b.episode(number)
        base = b.rollout(7, deterministic=True, base=True).final_latents
        distance[coefficient] = float((b.rollout(7, deterministic=True).final_latents - base).square().mean())
    assert distance[1000.0] < 0.5 * distance[0.0]
    assert stats.kl_base > 0
    assert stats.distance_to_base == pytest.approx(math.sqrt(2 * stats.kl_base / 256))


def test_base_means_are_those_of_the_base_at_one_step(bench):
    b = bench()
    b.episode(0)
    trajectory = b.rollout(1)
    group, settings = Batch.of(trajectory, b.agent.advantages(trajectory, torch.randn(6), b.index)), b.agent._settings(6)
    b.agent._add_base_means(group, trajectory, settings, torch.Generator().manual_seed(0), None)
    known = group.transitions.base_known
    assert known.sum() == 6
    assert settings.base_share == 0.5
    with b.agent.policy.as_base(), torch.no_grad():
        expected = b.agent.policy.distribution(group.transitions.take(known.nonzero().squeeze(1))).mean
    assert torch.allclose(group.transitions.base_mean[known], expected, atol=1e-5)


@pytest.mark.parametrize("mode", ["DIVERSITY_POLICY", "SCHEDULER_POLICY"])
def test_entropy_coefficient_moves_toward_the_target(bench, mode):
    high, low = bench(mode=mode, entropy_target=-2.0), bench(mode=mode, entropy_target=0.5)
    for b in (high, low):
        b.episode(0)
    assert high.agent.entropy_coef.value < 0.01 < low.agent.entropy_coef.value


def test_entropy_bonus_raises_a_spread_below_its_target(bench):
    b = bench(mode="SCHEDULER_POLICY", entropy_coef=10.0, entropy_target=2.0, learning_rate=1e-2)
    first = b.episode(0).entropy
    for number in range(1, 6):
        last = b.episode(number).entropy
    assert last > first + 0.1
