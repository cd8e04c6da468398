"""Updates of the agent on the miniature pipeline: gradients, guards, early stop, memory, knobs, exact resume."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import load, save

from backend.diffusion.sampler import Stopped
from backend.errors import InputError
from backend.ppo.batch import Batch
from backend.ppo.objective import Tally, pair_loss

MODES = ["LORA_UNET", "DIVERSITY_POLICY", "SCHEDULER_POLICY"]


def weights(b) -> torch.Tensor:
    return torch.cat([t.flatten() for t in b.agent.policy.trainable_state().values()])


@pytest.mark.parametrize("mode", MODES)
def test_first_gradient_is_the_policy_gradient(bench, mode):
    b = bench(mode=mode, kl_base_coef=0.0, entropy_coef=0.0)
    policy, trajectory = b.agent.policy, b.rollout()
    credit = b.agent.advantages(trajectory, torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0, -1.0]), b.index)
    batch = Batch.of(trajectory, credit)
    loss, _ = pair_loss(policy, batch.used(), b.agent._settings(6), Tally())
    loss.backward()
    got = torch.cat([p.grad.flatten() for p in policy.trainable().values()])
    # At ratio 1 the surrogate's gradient is -A grad log pi: REINFORCE, image by image and step by step.
    expected = torch.zeros_like(got)
    for k in range(trajectory.steps):
        for i in range(6):
            one = trajectory.transitions(torch.tensor([i]), torch.tensor([k]))
            mean, log_std = policy.distribution(one).mean, policy.distribution(one).log_std
            density = torch.distributions.Normal(mean, log_std.exp().expand_as(mean)).log_prob(one.action).mean()
            gradients = torch.autograd.grad(density, list(policy.trainable().values()), allow_unused=True)
            flat = torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(gradients, policy.trainable().values(), strict=True)])
            expected -= credit.advantages[k, i] * flat
    assert torch.allclose(got, expected, atol=1e-5 * float(expected.abs().max()) + 1e-8, rtol=1e-3)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("micro", [1, 5])
def test_micro_batches_do_not_change_the_update(bench, mode, micro):
    whole, parts = bench(mode=mode), bench(mode=mode, micro_batch=micro)
    first, second = whole.episode(0), parts.episode(0)
    assert first.grad_norm_actor == pytest.approx(second.grad_norm_actor, rel=1e-3)
    assert first.actor_loss == pytest.approx(second.actor_loss, abs=1e-4)
    assert first.optimiser_steps == second.optimiser_steps == 2


@pytest.mark.parametrize("mode", MODES)
def test_second_minibatch_is_off_policy_and_the_report_says_so(bench, mode):
    stats = bench(mode=mode, learning_rate=0.01, ppo_epochs=4, target_kl_nats=1e6).episode(0)
    assert stats.optimiser_steps == 8
    assert stats.ratio_std > 0
    assert stats.clip_fraction_up + stats.clip_fraction_down > 0
    assert stats.kl_divergence > 0
    assert all(math.isfinite(v) for v in stats.to_dict().values())


def test_a_group_may_have_another_guidance_and_evaluation_the_window_of_the_settings(bench):
    b, other = bench(window_mode="sliding", guidance_scale=7.5), bench(window_mode="sliding", guidance_scale=3.0)
    drawn = b.agent.rollout(b.embeds, list(range(len(b.embeds))), 1, guidance_scale=3.0)
    assert torch.equal(drawn.images, other.agent.rollout(other.embeds, list(range(len(other.embeds))), 1).images)
    assert b.agent.config.guidance_scale == 7.5 and b.agent.window(None) == b.agent.window(0) != b.agent.window(1)


def test_images_without_advantage_are_not_replayed(bench):
    stats = bench().episode(0, reward=lambda images: torch.tensor([1.0, 0.0, 0.0, -1.0, 0.0, 0.0]))
    assert stats.samples_used == 4  # two images, two steps


def test_the_step_does_not_depend_on_the_size_of_the_gradient(bench):
    """Losses are means per action element: at the usual epsilon of 1e-8 gradients of that size are all but frozen."""
    for epsilon, alike in (({}, True), ({"adam_eps": 1e-8}, False)):
        moved = {}
        for size in (1e-3, 1e-10):
            agent = bench(learning_rate=1e-3, **epsilon).agent
            p = next(iter(agent.policy.trainable().values()))
            before, p.grad = p.detach().clone(), torch.full_like(p, size)
            agent.optimiser.step()
            moved[size] = before - p.detach()
        assert torch.allclose(moved[1e-10], moved[1e-3], rtol=1e-3) == alike


def test_clip_range_is_nats_over_the_action_dimension(bench):
    assert bench().agent.clip_range == pytest.approx(1.6 / 256)
    assert bench(mode="SCHEDULER_POLICY").agent.clip_range == pytest.approx(0.2 / 5)
    assert bench(clip_range_nats=3.2).agent.clip_range == pytest.approx(3.2 / 256)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("algorithm", ["PPO", "TRPO"])
def test_rewards_that_are_not_finite_change_nothing_and_are_counted(bench, mode, algorithm):
    b = bench(mode=mode, algorithm=algorithm)
    before = weights(b)
    stats = b.episode(0, reward=lambda images: torch.full((6,), float("nan")))
    assert torch.equal(weights(b), before)
    assert stats.skipped_nonfinite >= 1
    assert stats.optimiser_steps == 0


@pytest.mark.parametrize("algorithm", ["PPO", "TRPO"])
def test_a_loss_that_is_not_finite_skips_the_step(bench, algorithm):
    b = bench(algorithm=algorithm)
    before, trajectory = weights(b), b.rollout()
    trajectory.states[0, 2, 0, 0, 0] = float("nan")
    stats = b.agent.update(trajectory, torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0]), b.index, None, torch.Generator().manual_seed(0))
    assert stats.skipped_nonfinite == 1
    assert weights(b).isfinite().all()
    assert (stats.optimiser_steps == 1) == (not torch.equal(weights(b), before)) == (algorithm == "PPO")


def test_degenerate_group_is_reported_and_left(bench):
    b = bench()
    before = weights(b)
    stats = b.episode(0, reward=lambda images: torch.ones(6))
    assert stats.degenerate_share == 1
    assert torch.equal(weights(b), before)


def test_a_stop_in_the_update_is_seen_between_micro_batches(bench):
    asked = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 2

    with pytest.raises(Stopped):
        bench(micro_batch=1).episode(0, should_stop=stop)
    assert len(asked) == 3


@pytest.mark.parametrize("mode", MODES)
def test_an_image_paid_like_its_twin_teaches_nothing(bench, mode):
    b = bench(mode=mode, kl_base_coef=0.0, entropy_coef=0.0)
    before, trajectory = weights(b), b.rollout(1)
    reward = torch.arange(6.0)
    stats = b.agent.update(trajectory, reward, b.index, None, torch.Generator().manual_seed(0), baseline=reward.clone())
    assert torch.equal(weights(b), before) and stats.explained_variance == 1.0 and stats.degenerate_share == 1.0


@pytest.mark.parametrize("mode", MODES)
def test_the_twin_takes_away_what_the_initial_noise_decided(bench, mode):
    """Credit by brightness: across seeds it varies with the initial noise; the twin shares that noise and the prompt."""
    b = bench(mode=mode)
    own, twins = [], []
    for episode in range(1, 5):
        own.append(b.rollout(episode).images.mean((1, 2, 3)))
        twins.append(b.rollout(episode, deterministic=True).images.mean((1, 2, 3)))
    own, twins = torch.cat(own), torch.cat(twins)
    assert (own - twins).var() < 0.7 * own.var()


def test_twins_are_wanted_for_the_difference_reward_alone(bench):
    assert bench(baseline="twin").agent.wants_twins
    assert not bench(baseline="prompt").agent.wants_twins and not bench(advantage="gae").agent.wants_twins


@pytest.mark.parametrize("mode", MODES)
def test_memory_is_trained_on_again_and_guards_its_ratio(bench, mode):
    b = bench(mode=mode, replay_groups=2)
    used = [b.episode(number).samples_used for number in range(4)]
    steps = b.rollout().steps
    assert used == [6 * steps, 12 * steps, 18 * steps, 18 * steps]
    far = bench(mode=mode, replay_groups=1, learning_rate=0.3, target_kl_nats=1e6)
    far.episode(0)
    assert far.episode(1).replayed_dropped > 0


def test_critic_learns_what_prompts_are_worth(bench):
    b = bench(mode="SCHEDULER_POLICY", advantage="gae", learning_rate_critic=3e-3, ppo_epochs=8, clip_range_value=0.0)
    worth = torch.tensor([2.0, -1.0, 0.5])[b.index]
    for number in range(25):
        stats = b.episode(number, reward=lambda images: worth + 0.01 * torch.randn(6, generator=torch.Generator().manual_seed(0)))
    assert stats.explained_variance > 0.9
    assert stats.critic_loss < 0.05


def test_windows_stay_before_the_last_two_steps(bench):
    fixed, sliding, random = (bench(window_mode=mode, num_inference_steps=8).agent for mode in ("fixed", "sliding", "random"))
    assert [fixed.window(e) for e in range(3)] == [(0, 2)] * 3
    assert [sliding.window(e)[0] for e in range(7)] == [0, 1, 2, 3, 4, 0, 1]
    drawn = {random.window(e)[0] for e in range(60)}
    assert drawn == {0, 1, 2, 3, 4}
    assert random.window(5) == bench(window_mode="random", num_inference_steps=8).agent.window(5)


def test_average_lies_between_start_and_present(bench):
    b = bench(ema_decay=0.9)
    start = b.agent.policy.trainable_state()
    for number in range(3):
        b.episode(number)
    now = b.agent.policy.trainable_state()
    name = max(now, key=lambda n: float((now[n] - start[n]).abs().max()))
    share = ((b.agent.ema.tensors[name] - start[name]).norm() / (now[name] - start[name]).norm()).item()
    assert 0.1 < share < 1.0
    assert torch.equal(b.agent.policy.trainable_state()[name], now[name])


def test_knobs_take_hold_and_are_bounded(bench):
    b = bench(advantage="gae")
    for name, value in {"learning_rate": 5e-4, "learning_rate_critic": 2e-3, "guidance_scale": 3.0, "clip_range_nats": 2.0, "kl_base_coef": 0.1, "entropy_coef": 0.2}.items():
        b.agent.set_knob(name, value)
    assert b.agent.optimiser.param_groups[0]["lr"] == 5e-4
    assert b.agent.critic_optimiser.param_groups[0]["lr"] == 2e-3
    assert b.agent.clip_range == 2.0 / 256
    assert (b.agent.kl_base_coef.value, b.agent.entropy_coef.value) == (0.1, 0.2)
    assert b.rollout().guidance[0] == 3.0
    for name, value in (("learning_rate", float("nan")), ("learning_rate", -1), ("lora_rank", 8), ("nonsense", 1)):
        with pytest.raises(InputError):
            b.agent.set_knob(name, value)


@pytest.mark.parametrize("values", [{"mode": m} for m in MODES] + [{"advantage": "gae", "replay_groups": 2}, {"algorithm": "TRPO", "mode": "DIVERSITY_POLICY"}], ids=str)
def test_resume_is_exact_to_the_bit(bench, values):
    straight, stopped = bench(**values), bench(**values)
    for number in range(2):
        straight.episode(number)
        stopped.episode(number)
    stopped.agent.set_knob("learning_rate", 2e-3)
    straight.agent.set_knob("learning_rate", 2e-3)
    state = stopped.agent.state_dict()
    kept = {"tensors": load(save(state["tensors"])), "scalars": json.loads(json.dumps(state["scalars"]))}
    resumed = bench(**values)
    resumed.episode(17)
    resumed.agent.load_state_dict(kept)
    for number in range(2, 4):
        assert resumed.episode(number).to_dict() == straight.episode(number).to_dict()
    one, two = straight.agent.state_dict(), resumed.agent.state_dict()
    assert one["scalars"] == two["scalars"]
    assert set(one["tensors"]) == set(two["tensors"])
    assert all(torch.equal(one["tensors"][n], two["tensors"][n]) for n in one["tensors"])


def test_state_of_another_mode_is_refused(bench):
    with pytest.raises(InputError, match="other layers or ranks"):
        bench(mode="DIVERSITY_POLICY").agent.load_state_dict(bench().agent.state_dict())


def test_gradients_of_a_half_precision_model_are_about_those_of_the_full_one(bench):
    full, half = bench(kl_base_coef=0.0), bench(dtype=torch.bfloat16, kl_base_coef=0.0)
    assert half.agent.ppo.loss_scale == 256
    assert half.episode(0).grad_norm_actor == pytest.approx(full.episode(0).grad_norm_actor, rel=0.3)


def test_as_many_prompts_as_seeds_are_needed(bench):
    b = bench()
    with pytest.raises(InputError, match="3 prompt embeddings for 2 seeds"):
        b.agent.rollout(b.embeds, [1, 2])


@pytest.mark.parametrize("mode", MODES)
def test_one_image_alone_works(bench, mode):
    b = bench(mode=mode)
    trajectory = b.agent.rollout(b.embeds[:1], [5])
    stats = b.agent.update(trajectory, torch.tensor([1.0]), torch.tensor([0]), None, torch.Generator().manual_seed(0))
    assert stats.optimiser_steps == 1
