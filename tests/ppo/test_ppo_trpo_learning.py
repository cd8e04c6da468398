"""Trust-region steps, and learning of a toy reward."""

from __future__ import annotations

import pytest
import torch

from backend.ppo.batch import Batch
from backend.ppo.objective import Tally, pair_loss
from backend.ppo.trpo import TRPO, kl_bound

MODES = ["LORA_UNET", "DIVERSITY_POLICY", "SCHEDULER_POLICY"]
CREDIT = torch.tensor([1.0, -2.0, 0.5, 0.2, 3.0, -1.0])


def measured(b, batch: Batch) -> tuple[float, float]:
    """Surrogate without its clip, and joint KL, of the present policy."""
    with torch.no_grad():
        log_prob, _, distribution = b.agent.policy.evaluate(batch.transitions)
        surrogate = (batch.advantages * (log_prob - batch.transitions.log_prob).exp()).mean()
        kl = distribution.kl_from(batch.transitions.mean, batch.transitions.log_std).mean() * b.agent.policy.action_dimension
    return float(surrogate), float(kl)


@pytest.mark.parametrize("mode", MODES)
def test_step_stays_in_the_trust_region_and_improves_the_surrogate(bench, mode):
    b = bench(mode=mode, algorithm="TRPO", kl_base_coef=0.0, entropy_coef=0.0)
    trajectory = b.rollout()
    estimate = b.agent.credit.state()
    batch = Batch.of(trajectory, b.agent.advantages(trajectory, CREDIT, b.index))
    b.agent.credit.load_state(estimate)
    before, _ = measured(b, batch)
    stats = b.agent.update(trajectory, CREDIT, b.index, None, torch.Generator().manual_seed(0))
    after, kl = measured(b, batch)
    bound = kl_bound(b.agent.clip_nats)
    assert stats.optimiser_steps == 1
    assert after > before
    assert 0.05 * bound < stats.kl_divergence <= bound * 1.001
    assert kl == pytest.approx(stats.kl_divergence, rel=0.1 if b.agent.policy.learns_std else 1e-3)  # the spread's own step comes after it


@pytest.mark.parametrize("mode", MODES[1:])
def test_the_entropy_bonus_moves_the_spread_alone(bench, mode):
    """It is in other units than credit: in one natural gradient it would take the whole trust region, and the spread would grow for ever."""
    moved = {}
    for coefficient in (0.0, 10.0):
        b = bench(mode=mode, algorithm="TRPO", kl_base_coef=0.0, entropy_coef=coefficient)
        start = b.agent.policy.trainable_state()
        b.agent.update(b.rollout(), CREDIT, b.index, None, torch.Generator().manual_seed(0))
        moved[coefficient] = {name: t - start[name] for name, t in b.agent.policy.trainable_state().items()}
        rate = b.config.learning_rate
    for name, step in moved[0.0].items():
        if name.startswith("spread"):
            assert torch.allclose(moved[10.0][name], torch.full_like(step, rate), rtol=1e-3)  # one step of Adam, upward
        else:
            assert torch.equal(moved[10.0][name], step)
    assert any(bool(step.any()) for name, step in moved[0.0].items() if not name.startswith("spread"))


@pytest.mark.parametrize("mode", ["DIVERSITY_POLICY", "LORA_UNET"])
def test_fisher_product_is_that_of_the_explicit_matrix(bench, mode):
    b = bench(mode=mode, **({"lora_targets": "attention", "lora_rank": 1} if mode == "LORA_UNET" else {}))
    trpo, trajectory = b.agent.trpo, b.rollout()
    part = Batch.of(trajectory, b.agent.advantages(trajectory, CREDIT, b.index)).take(torch.arange(2))
    spread = {id(p) for p in b.agent.policy.spread_parameters()}
    names = [name for name, p in b.agent.policy.trainable().items() if id(p) not in spread]
    assert len(names) == len(b.agent.policy.trainable()) - (mode == "DIVERSITY_POLICY")
    v = torch.randn(sum(b.agent.policy.trainable()[name].numel() for name in names), generator=torch.Generator().manual_seed(0))
    # For a Gaussian, v F v = mean over pairs of |J v / sigma|^2: J v by a central difference of the mean.
    start, step = b.agent.policy.trainable_state(), 1e-3

    def at(sign: int):
        offset, moved = 0, dict(start)
        for name in names:
            t = start[name]
            moved[name] = t + sign * step * v[offset : offset + t.numel()].view_as(t)
            offset += t.numel()
        b.agent.policy.load_trainable(moved)
        with torch.no_grad():
            return b.agent.policy.distribution(part.transitions)

    high, low = at(1), at(-1)
    b.agent.policy.load_trainable(start)
    sigma = part.transitions.log_std.exp()
    shift = (((high.mean - low.mean) / (2 * step)) / sigma).square().flatten(1).sum(1)
    assert float(v.dot(trpo.fisher_product(part, v))) == pytest.approx(float(shift.mean()), rel=0.01)


def test_nothing_moves_where_no_step_improves(bench, monkeypatch):
    b = bench(mode="SCHEDULER_POLICY", algorithm="TRPO")
    before = b.agent.policy.trainable_state()
    monkeypatch.setattr(TRPO, "_measure", lambda *args: (float("inf"), 0.0, Tally()))
    assert b.episode(0).optimiser_steps == 0
    assert all(torch.equal(before[n], t) for n, t in b.agent.policy.trainable_state().items())


def test_minibatches_say_how_noisy_the_gradient_is_and_leave_it_as_it_is(bench):
    """The gradient of a TRPO step is that of the whole group, also where one image has no credit; parts of it feed the noise scale."""
    b = bench(mode="LORA_UNET", algorithm="TRPO")
    trajectory = b.rollout()
    credit = b.agent.advantages(trajectory, torch.tensor([1.0, 0.0, 2.0, -1.0, 0.5, 3.0]), b.index)
    credit.advantages[:, 0] = 0
    batch, settings = Batch.of(trajectory, credit), b.agent._settings(6)
    parameters = list(b.agent.policy.trainable().values())
    loss, _ = pair_loss(b.agent.policy, batch.used(), settings, Tally())
    whole = torch.cat([g.flatten() for g in torch.autograd.grad(loss / len(batch.used()), parameters)])
    assert b.agent.noise_scale.value == 0
    before, gradient = b.agent.trpo._gradient(batch, settings, Tally(), torch.Generator().manual_seed(0), None)
    assert before == pytest.approx(float(loss.detach()) / len(batch.used()), rel=1e-4)
    assert torch.allclose(gradient, whole, atol=1e-4 * float(whole.abs().max()))
    assert b.episode(0).gradient_noise_scale > 0


def test_a_half_precision_models_gradient_and_fisher_product_do_not_underflow(bench):
    """Tiny credit on its way back, and a tiny vector through the Fisher matrix, are what they are in full precision."""
    found = []
    for dtype in (torch.float32, torch.float16):
        b = bench(dtype=dtype, algorithm="TRPO", kl_base_coef=0.0)
        trajectory = b.rollout()
        credit = b.agent.advantages(trajectory, CREDIT, b.index)
        credit.advantages *= 2.0**-14
        batch = Batch.of(trajectory, credit)
        _, gradient = b.agent.trpo._gradient(batch, b.agent._settings(6), Tally(), torch.Generator().manual_seed(0), None)
        v = 1e-7 * torch.nn.functional.normalize(found[0][0] if found else gradient, dim=0)
        found.append((gradient, b.agent.trpo.fisher_product(batch.used().take(torch.arange(2)), v)))
    for full, half in zip(*found, strict=True):
        assert float((half - full).norm()) < 0.05 * float(full.norm())


def test_a_gradient_of_zeros_is_a_skipped_step(bench, monkeypatch):
    """It can only have underflowed: pairs without an advantage are not in use. Where all pairs are too old there is nothing to step along."""
    b = bench(mode="SCHEDULER_POLICY", algorithm="TRPO")
    size = sum(t.numel() for t in b.agent.policy.trainable_state().values())
    for stale, skipped in ((0.0, 1), (1.0, 0)):

        def nothing(self, batch, settings, tally, *args, stale=stale):
            tally.add(stale=torch.full((6,), stale))
            return 0.0, torch.zeros(size)

        monkeypatch.setattr(TRPO, "_gradient", nothing)
        stats = b.episode(0)
        assert stats.skipped_nonfinite == skipped and stats.optimiser_steps == 0


def test_ppo_and_trpo_share_one_loss(bench):
    b = bench(mode="SCHEDULER_POLICY")
    trajectory = b.rollout()
    batch = Batch.of(trajectory, b.agent.advantages(trajectory, CREDIT, b.index))
    loss, kl = pair_loss(b.agent.policy, batch, b.agent._settings(6), Tally())
    entropy = batch.transitions.log_std.mean()
    # Ratio 1, the mean still the base's: what remains is -A and the entropy bonus.
    assert float(loss.detach()) == pytest.approx(float(-batch.advantages.sum() - 6 * 0.01 * entropy), rel=1e-4)
    assert kl.abs().max() < 1e-6


def brightness(b, **kwargs) -> float:
    rows = [b.rollout(1000 + i, deterministic=True, **kwargs).images.mean((1, 2, 3)) for i in range(4)]
    return float(torch.cat(rows).mean())


@pytest.mark.parametrize("sign", [1, pytest.param(-1, marks=pytest.mark.slow)])
def test_brightness_follows_the_reward(bench, sign):
    b = bench(learning_rate=1e-2, num_inference_steps=6, window_start=0, window_size=4, kl_base_coef=0.0)
    start = brightness(b)
    for number in range(25):
        b.episode(number, reward=lambda images: sign * (images.mean((1, 2, 3)) - images.mean()) * 50)
    assert sign * (brightness(b, use_ema=True) - start) > 0.005


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "episodes", "rise"), [("PPO", 100, 0.02), ("TRPO", 50, 0.0015)])  # TRPO makes one step an episode, bounded by its KL
def test_brightness_goes_on_rising(bench, algorithm, episodes, rise):
    b = bench(algorithm=algorithm, learning_rate=2e-3, num_inference_steps=6, window_start=0, window_size=4, kl_base_coef=0.0)
    start = brightness(b)
    for number in range(episodes):
        b.episode(number, reward=lambda images: (images.mean((1, 2, 3)) - images.mean()) * 50)
    assert brightness(b, use_ema=True) - start > rise
