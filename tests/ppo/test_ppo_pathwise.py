"""The pathwise share of an update on the miniature pipeline."""

from __future__ import annotations

import pytest
import torch

from backend.diffusion.pathwise import noise_gradient
from backend.ppo.batch import Batch
from backend.ppo.objective import Tally, pair_loss

MODES = ["LORA_UNET", "DIVERSITY_POLICY", "SCHEDULER_POLICY"]
CREDIT = torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0, -1.0])


def loss_gradient(b, share: float) -> torch.Tensor:
    trajectory = b.rollout()
    credit = b.agent.advantages(trajectory, CREDIT, b.index)
    batch = Batch.of(trajectory, credit)
    batch.transitions.pull = b.agent.pulls(trajectory, torch.ones_like(trajectory.images), 1.0, 3, None)[0]
    b.agent.set_knob("pathwise", share)
    parameters = b.agent.policy.trainable()
    loss, _ = pair_loss(b.agent.policy, batch, b.agent._settings(6), Tally())
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(gradients, parameters.values(), strict=True)])


@pytest.mark.parametrize("mode", MODES)
def test_the_update_mixes_both_estimates_by_their_shares(bench, mode):
    sampled, mixed, pathwise = (loss_gradient(bench(mode=mode, kl_base_coef=0.0, entropy_coef=0.0), share) for share in (0.0, 0.25, 1.0))
    assert torch.allclose(mixed, 0.75 * sampled + 0.25 * pathwise, rtol=1e-3, atol=1e-5 * float(pathwise.abs().max()))


@pytest.mark.parametrize(("mode", "episodes"), [*((mode, 12) for mode in MODES[:2]), pytest.param("SCHEDULER_POLICY", 40, marks=pytest.mark.slow)])
def test_both_estimate_the_same_gradient(bench, mode, episodes):
    """The mean brightness as reward: over many draws the sampled gradient points where the pathwise one does."""
    b = bench(mode=mode, kl_base_coef=0.0, entropy_coef=0.0, baseline="twin", prompts_per_group=3)
    parameters = list(b.agent.policy.trainable().values())
    sampled, pathwise = 0.0, 0.0
    for episode in range(1, episodes + 1):
        trajectory = b.rollout(episode)
        gain = trajectory.images.mean((1, 2, 3)) - b.rollout(episode, deterministic=True).images.mean((1, 2, 3))
        pull = b.agent.pulls(trajectory, torch.full_like(trajectory.images, 1 / trajectory.images[0].numel()), 1.0, 6, None)[0]
        t = trajectory.transitions(torch.arange(6))
        distribution = b.agent.policy.distribution(t)
        noise = (t.action - t.mean) * torch.exp(-t.log_std)
        terms = ((gain[t.image] * distribution.log_prob(t.action)).sum(), (pull * distribution.sample(noise)).flatten(1).mean(1).sum())
        for index, term in enumerate(terms):
            grads = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
            flat = torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(grads, parameters, strict=True)])
            sampled, pathwise = (sampled + flat, pathwise) if index == 0 else (sampled, pathwise + flat)
    # Sampled credit is noisy: its part along the pathwise direction is what must agree.
    along = float(sampled @ pathwise / (pathwise @ pathwise))
    assert 0.4 < along < 1.6


@pytest.mark.parametrize(("mode", "algorithm"), [*((mode, "PPO") for mode in MODES), *((mode, "TRPO") for mode in MODES[:2])])
def test_it_climbs_where_the_sampled_credit_says_nothing(bench, mode, algorithm):
    b = bench(mode=mode, pathwise=1.0, learning_rate=3e-3, kl_base_coef=0.0, entropy_coef=0.0, algorithm=algorithm)
    start = b.rollout(999, deterministic=True).images.mean()
    for number in range(1, 7):
        trajectory = b.rollout(number)
        slope = torch.full_like(trajectory.images, 1.0)
        stats = b.agent.update(trajectory, CREDIT, b.index, None, torch.Generator().manual_seed(number), image_gradient=slope)
        assert stats.skipped_nonfinite == 0
    assert b.rollout(999, deterministic=True).images.mean() > start + 1e-4


def test_an_image_without_a_finite_derivative_pulls_nothing_and_none_pulls_without_bound(bench):
    b = bench()
    trajectory = b.rollout()
    slope = torch.ones_like(trajectory.images)
    slope[1] = float("nan")
    slope[2] = 1e6
    pull, broken = b.agent.pulls(trajectory, slope, 1.0, 6, None)
    pull = pull.unflatten(0, (6, -1))
    assert broken.tolist() == [False, True, False, False, False, False]
    norms = (pull * torch.exp(trajectory.log_stds.transpose(0, 1))).flatten(2).norm(dim=2)
    assert (norms[1] == 0).all() and torch.isfinite(norms).all()
    assert (norms[2] < 20 * norms[[0, 3, 4, 5]].amax(0)).all()


def test_who_gets_a_pathwise_share(bench):
    assert bench().config.pathwise_share == 1.0 and not bench().config.draws_twins and bench().agent.wants_image_gradient
    for refused in ({"metric": "COVERAGE"}, {"advantage": "gae"}, {"reward_mode": "batch"}, {"ensemble": "MMD=1, MI=1"}, {"pathwise": 0.0}):
        config = bench(**refused).config
        assert config.pathwise_share == 0 and config.draws_twins == (config.advantage == "difference")
    assert bench(mode="SCHEDULER_POLICY").config.pathwise_share == 1.0
    assert bench(ensemble="MMD=1, VENDI@efficientnet_lite0=0.5").config.pathwise_share == 1.0


def weights(b) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in b.agent.policy.trainable().values()])


def learn_from(b, number: int, slope: float, credit: torch.Tensor = CREDIT):
    trajectory = b.rollout(number)
    gradient = torch.full_like(trajectory.images, slope)
    return b.agent.update(trajectory, credit, b.index, None, torch.Generator().manual_seed(number), image_gradient=gradient)


def test_an_image_without_a_finite_derivative_is_left_out_and_counted(bench):
    b = bench(kl_base_coef=0.1)
    trajectory = b.rollout()
    slope = torch.ones_like(trajectory.images)
    slope[1] = float("nan")
    stats = b.agent.update(trajectory, CREDIT, b.index, None, torch.Generator().manual_seed(0), image_gradient=slope)
    assert stats.skipped_nonfinite == 1 and stats.optimiser_steps == 2 and weights(b).isfinite().all()
    assert stats.samples_used == 4 * trajectory.steps  # of six images one is broken and one has no advantage


@pytest.mark.parametrize("algorithm", ["PPO", "TRPO"])
def test_a_reward_whose_derivative_is_nowhere_finite_moves_nothing(bench, algorithm):
    b = bench(kl_base_coef=0.1, algorithm=algorithm)
    learn_from(b, 1, 1.0)  # momentum, and a distance to the base, that must not act on their own
    before = weights(b)
    stats = learn_from(b, 2, float("nan"))
    assert stats.skipped_nonfinite == 1 and stats.optimiser_steps == 0 and torch.equal(weights(b), before)


@pytest.mark.parametrize("mode", MODES)
def test_replayed_groups_pull_as_long_as_the_policy_is_near(bench, mode):
    """A group without variation says nothing: what moves the policy beside it is the remembered group, or nothing once that is too far away."""
    flat = torch.ones(6)
    moved = {}
    for capacity in (0, 1):
        b = bench(mode=mode, replay_groups=capacity, kl_base_coef=0.0, entropy_coef=0.0, learning_rate=1e-6)
        learn_from(b, 1, 1.0)
        before = weights(b)
        stats = learn_from(b, 2, 1.0, flat)
        moved[capacity] = float((weights(b) - before).norm())
        assert stats.degenerate_share == 1.0
    assert moved[0] == 0 and moved[1] > 0
    b = bench(mode=mode, replay_groups=1, kl_base_coef=0.0, entropy_coef=0.0, learning_rate=1e-3, clip_range_nats=1e-9)
    learn_from(b, 1, 1.0)
    stats = learn_from(b, 2, 1.0, flat)
    assert stats.replayed_dropped == stats.samples_used > 0 and stats.grad_norm_actor == 0


@pytest.mark.parametrize("mode", MODES)
def test_a_pair_that_is_left_out_pays_no_penalty_either(bench, mode):
    """What earns nothing must not pull toward the base or widen the spread; nor is its KL that of this update."""
    b = bench(mode=mode, replay_groups=1, kl_base_coef=10.0, entropy_coef=1.0, learning_rate=1e-3, clip_range_nats=1e-9)
    learn_from(b, 1, 1.0)
    stats = learn_from(b, 2, 1.0, torch.ones(6))
    assert stats.replayed_dropped == stats.samples_used > 0 and stats.grad_norm_actor == 0
    assert stats.kl_base == stats.kl_divergence == 0


def test_another_pathwise_share_forgets_the_remembered_groups(bench):
    """Groups with and without pulls cannot be trained on together: the fresh one would lose its own."""
    b = bench(replay_groups=2, pathwise=0.0)
    b.episode(0)
    assert len(b.agent.memory.groups) == 1
    b.agent.set_knob("pathwise", 1.0)
    assert not b.agent.memory.groups


def test_the_way_back_does_not_underflow_in_half_precision(bench):
    """Images of a real model have tiny derivatives each; scaled by a power of two, their direction is that of large ones."""
    b = bench()
    trajectory = b.rollout()
    slope = torch.randn(trajectory.images.shape, generator=torch.Generator().manual_seed(3))
    one, tiny = (noise_gradient(b.agent.backbone, b.agent.policy, trajectory, slope * size, 6) for size in (1.0, 2.0**-40))
    assert torch.equal(one, tiny * 2.0**40)
    seen = []
    handle = b.agent.backbone.vae.decoder.register_full_backward_hook(lambda module, into, out: seen.append(float(out[0].abs().max())))
    noise_gradient(b.agent.backbone, b.agent.policy, trajectory, slope * 1e-9, 6)
    handle.remove()
    assert all(0.1 < size < 10 for size in seen) and seen
