"""The three policies: the base at episode 0, ratio 1 in replay, bounds, saved files."""

from __future__ import annotations

import pytest
import torch

from backend.diffusion.backbone import load_backbone
from backend.diffusion.trajectory import Transitions
from backend.errors import InputError
from backend.evaluation.generate import warped
from backend.policies.scheduler import cosines

MODES = ["LORA_UNET", "DIVERSITY_POLICY", "SCHEDULER_POLICY"]


def stir(policy, size: float = 0.05) -> None:
    """Move every trained parameter."""
    generator = torch.Generator().manual_seed(5)
    policy.load_trainable({n: t + size * torch.randn(t.shape, generator=generator) for n, t in policy.trainable_state().items()})


@pytest.mark.parametrize("mode", MODES)
def test_mean_action_at_the_start_is_the_base_exactly(bench, mode):
    b = bench(mode=mode)
    tuned, base = b.rollout(deterministic=True), b.rollout(deterministic=True, base=True)
    untouched = bench(mode="LORA_UNET").rollout(deterministic=True, base=True)
    assert torch.equal(tuned.images, base.images)
    assert torch.equal(tuned.images, untouched.images)
    assert torch.equal(tuned.guidance, torch.full((6,), 7.5))


@pytest.mark.parametrize("mode", MODES)
def test_base_is_recovered_after_training_and_the_policy_after_that(bench, mode):
    b = bench(mode=mode)
    before = b.rollout(deterministic=True).images
    stir(b.agent.policy, 0.3)
    tuned = b.rollout(deterministic=True).images
    assert (tuned - before).abs().max() > 1e-4
    assert torch.equal(b.rollout(deterministic=True, base=True).images, before)
    assert torch.equal(b.rollout(deterministic=True).images, tuned)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("micro", [1, 3, 12])
def test_ratio_is_one_at_unchanged_weights(bench, mode, micro):
    b = bench(mode=mode)
    stir(b.agent.policy, 0.02 if mode == "DIVERSITY_POLICY" else 0.05)  # its gain makes means of a few units of it, as after hundreds of episodes
    trajectory = b.rollout()
    worst = 0.0
    for chunk in trajectory.transitions(torch.arange(6)).split(micro):
        log_prob, _, distribution = b.agent.policy.evaluate(chunk)
        worst = max(worst, float(((log_prob - chunk.log_prob).exp() - 1).abs().max().detach()))
        assert distribution.kl_from(chunk.mean, chunk.log_std).abs().max() < 1e-6
    assert worst < 1e-6


@pytest.mark.parametrize("mode", ["LORA_UNET", "DIVERSITY_POLICY"])
def test_policies_without_their_own_guidance_take_the_configured_one(bench, mode):
    b = bench(mode=mode, guidance_scale=3.0)
    assert torch.equal(b.rollout().guidance, torch.full((6,), 3.0))


def test_detached_branch_has_the_same_value_and_another_gradient(bench):
    gradients = {}
    for detach in (False, True):
        b = bench(detach_uncond=detach)
        stir(b.agent.policy)
        chunk = b.rollout().transitions(torch.arange(2))
        log_prob, _, _ = b.agent.policy.evaluate(chunk)
        assert ((log_prob - chunk.log_prob).exp() - 1).abs().max() < 1e-6
        log_prob.sum().backward()
        gradients[detach] = torch.cat([p.grad.flatten() for p in b.agent.policy.trainable().values()])
    assert (gradients[True] - gradients[False]).norm() > 0.1 * gradients[False].norm()


def test_lora_gradient_agrees_with_finite_differences(bench):
    b = bench()
    stir(b.agent.policy)
    policy, chunk = b.agent.policy, b.rollout().transitions(torch.arange(2))
    policy.evaluate(chunk)[0].sum().backward()
    gradient, start = {n: p.grad.clone() for n, p in policy.trainable().items()}, policy.trainable_state()
    norm = float(torch.cat([g.flatten() for g in gradient.values()]).norm())

    def value(step: float) -> float:
        policy.load_trainable({n: start[n] + step / norm * gradient[n] for n in start})
        with torch.no_grad():
            return float(policy.evaluate(chunk)[0].double().sum())

    # Along the gradient the slope is its norm; the step is large enough for float32 and small enough for the curvature.
    assert (value(0.01) - value(-0.01)) / 0.02 == pytest.approx(norm, rel=0.01)


def test_base_weights_are_frozen_and_only_adapters_train(bench):
    b = bench()
    named = dict(b.agent.backbone.unet.named_parameters())
    trained = {n for n, p in named.items() if p.requires_grad}
    assert trained == set(b.agent.policy.trainable())
    layers = {n.partition(".lora_")[0].rsplit(".", 1)[-1] for n in trained}
    assert layers == {"to_q", "to_k", "to_v", "0", "conv1", "conv2"}
    attention = bench(lora_targets="attention").agent.policy.trainable()
    assert {n.partition(".lora_")[0].rsplit(".", 1)[-1] for n in attention} == {"to_q", "to_k", "to_v", "0"}
    projections = tuple(f"{name}.base_layer" for name in ("to_q", "to_k", "to_v", "to_out.0"))
    adapted = [m for n, m in bench(lora_targets="attention").agent.backbone.unet.named_modules() if n.endswith(projections)]
    expected = sum(4 * (m.in_features + m.out_features) for m in adapted)  # rank 4
    assert sum(p.numel() for p in attention.values()) == expected


@pytest.mark.parametrize("alpha", [4.0, 9.0])
def test_saved_adapters_in_a_stock_pipeline_give_the_evaluation_images(bench, tiny_pipeline, tmp_path, alpha):
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    b = bench(lora_alpha=alpha)
    stir(b.agent.policy)
    b.agent.ema.reset()
    b.agent.save_policy(tmp_path)
    ours = b.rollout(deterministic=True, use_ema=True)
    stock = StableDiffusionPipeline.from_pretrained(tiny_pipeline, safety_checker=None)
    stock.scheduler = DDIMScheduler.from_config(stock.scheduler.config)
    stock.set_progress_bar_config(disable=True)
    from backend.diffusion.noise import NoiseSource

    noise = NoiseSource(ours.seeds).initial(b.agent.backbone.latent_shape)
    prompts = [p for p in ["aerial view of young crater", "old crater with soft rims", "dark rocky crater"] for _ in range(2)]
    untuned = stock(prompts, num_inference_steps=6, guidance_scale=7.5, latents=noise, eta=0.0, output_type="pt").images
    stock.load_lora_weights(str(tmp_path))
    expected = stock(prompts, num_inference_steps=6, guidance_scale=7.5, latents=noise, eta=0.0, output_type="pt").images
    assert (expected - untuned).abs().max() > 1e-3
    assert (ours.images - expected).abs().max() < 1e-5


@pytest.mark.parametrize("mode", MODES)
def test_saved_policy_is_read_back(bench, mode, tmp_path):
    b, other = bench(mode=mode), bench(mode=mode, seed=3)
    stir(b.agent.policy)
    b.agent.save_policy(tmp_path, use_ema=False)
    other.agent.load_policy(tmp_path)
    assert torch.equal(other.rollout(deterministic=True, use_ema=True).images, b.rollout(deterministic=True).images)


def test_a_policy_of_another_shape_is_refused(bench, tmp_path):
    bench().agent.save_policy(tmp_path)
    with pytest.raises(InputError, match="lora_rank"):
        bench(lora_rank=2).agent.load_policy(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        bench(mode="DIVERSITY_POLICY").agent.load_policy(tmp_path)


def test_a_policy_that_pushed_patterns_is_refused(bench):
    policy = bench(mode="DIVERSITY_POLICY").agent.policy
    earlier = {name.replace("network.gains", "network.details"): t for name, t in policy.trainable_state().items()}
    with pytest.raises(InputError, match="other layers"):
        policy.load_trainable(earlier)


def test_adapters_are_replaced_when_a_policy_is_built_twice(bench, tiny_pipeline):
    from backend.policies.base import build_policy

    b = bench()
    stir(b.agent.policy)
    again = build_policy(b.config, b.agent.backbone)
    assert all(t.eq(0).all() for n, t in again.trainable_state().items() if "lora_B" in n)
    fresh = build_policy(b.config, load_backbone(tiny_pipeline))
    assert all(torch.equal(t, fresh.trainable_state()[n]) for n, t in again.trainable_state().items())


def test_pushes_are_bounded_and_their_spread_keeps_its_floor(bench):
    b = bench(mode="DIVERSITY_POLICY", perturbation_scale=0.1, log_std_floor=-2.0)
    policy = b.agent.policy
    u = torch.randn(4, *policy.backbone.latent_shape, generator=torch.Generator().manual_seed(0))
    assert policy.push(1e9 * u, 1e3 * u).abs().max() == pytest.approx(0.1)
    clean = torch.full_like(u, 2.0)
    clean[..., :2, :2] = 3.0  # one corner has something that the rest has not
    push = policy.push(u, clean).abs()
    assert push[..., :2, :2].mean() > 2 * push[..., 2:, 2:].mean() > 0
    assert policy.push(u, torch.full_like(u, 2.0)).abs().max() == 0, "where nothing is drawn, nothing is pushed: no lattice, no cast"
    policy.load_trainable({n: t - 1e6 if "offset" in n else t for n, t in policy.trainable_state().items()})
    assert float(policy.spread().min()) == pytest.approx(-2.0)
    policy.load_trainable({n: torch.zeros_like(t) if "offset" in n else t for n, t in policy.trainable_state().items()})
    assert float(policy.spread().max()) == pytest.approx(-1.0, abs=1e-6)


@pytest.mark.parametrize("mode", ["DIVERSITY_POLICY", "SCHEDULER_POLICY"])
def test_start_spread_must_be_above_the_floor(bench, mode):
    with pytest.raises(InputError, match="init_log_std"):
        bench(mode=mode, init_log_std=-3.0)


@pytest.mark.parametrize("steps", [5, 6, 7])
def test_schedules_are_monotone_with_stock_end_points_for_any_action(bench, steps):
    policy = bench(mode="SCHEDULER_POLICY", num_inference_steps=steps).agent.policy
    stock = policy.backbone.schedule(steps).expand(64)
    u = 4 * torch.randn(64, policy.action_dimension - 1, generator=torch.Generator().manual_seed(0))
    shaped = policy.shaped(stock, u)
    assert (shaped.timesteps.diff(dim=0) <= 0).all()
    assert torch.equal(shaped.timesteps[[0, -1]], stock.timesteps[[0, -1]])
    assert torch.equal(shaped.alphas_prev[-1], stock.alphas_prev[-1])
    assert (shaped.alphas_prev >= shaped.alphas).all()
    at_zero = policy.shaped(stock, torch.zeros(64, policy.action_dimension - 1))
    for name in ("timesteps", "alphas", "alphas_prev"):
        assert torch.equal(getattr(at_zero, name), getattr(stock, name)), name


@pytest.mark.parametrize(("power", "off"), [(0.7, 15), (1.4, 5), (2.0, 15), (2.8, 40)])
def test_four_cosines_make_every_spacing_of_the_grid(bench, power, off):
    policy = bench(mode="SCHEDULER_POLICY", num_inference_steps=10).agent.policy
    stock = policy.backbone.schedule(10).expand(1)
    wanted = warped(stock, power, policy.backbone.alphas_cumprod).timesteps
    exponent = (wanted.diff(dim=0) / stock.timesteps.diff(dim=0)).log()
    columns = torch.cat([cosines(policy.action_dimension - 1, 9), torch.ones(1, 9, dtype=torch.float64)]).T
    u = torch.linalg.lstsq(columns, exponent).solution[:-1].T
    assert u.abs().max() < 1  # within reach of a mean that a hundred updates can move by two
    assert (policy.shaped(stock, u).timesteps - wanted).abs().max() < off


def test_guidance_is_squashed_between_one_and_twenty(bench):
    policy = bench(mode="SCHEDULER_POLICY").agent.policy
    value = policy.guidance(torch.tensor([-50.0, 0.0, 50.0]), 7.5)
    assert value.tolist() == [1.0, 7.5, 20.0]
    with pytest.raises(InputError, match="guidance_scale 1.0"):
        bench(mode="SCHEDULER_POLICY", guidance_scale=1.0)


def test_timesteps_differ_per_image_and_description_gives_the_curves(bench):
    b = bench(mode="SCHEDULER_POLICY")
    trajectory = b.rollout()
    assert len(set(trajectory.schedule_timesteps[2].tolist())) == 6
    facts = b.agent.policy.describe(b.embeds)
    assert len(facts["betas"]) == 3
    assert facts["betas"][0] == pytest.approx(facts["stock_betas"])
    assert facts["guidance"] == pytest.approx([7.5] * 3)


def test_an_action_states_what_it_needs_to_be_scored_again(bench):
    trajectory = bench(mode="SCHEDULER_POLICY").rollout()
    chunk = trajectory.transitions(torch.arange(6))
    assert isinstance(chunk, Transitions)
    assert chunk.action.shape == (6, 5)
    normal = torch.distributions.Normal(chunk.mean, chunk.log_std.exp())
    assert torch.allclose(chunk.log_prob, normal.log_prob(chunk.action).mean(1), atol=1e-6)
