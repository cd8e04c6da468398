"""Noise, the denoising kernel and the schedule against diffusers, torch.distributions and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.diffusion.kernel import Gaussian, denoise, predict_clean, stochastic_step
from backend.diffusion.noise import NoiseSource, mix
from backend.diffusion.schedule import alpha_at, stock_schedule
from backend.errors import InputError

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False, "set_alpha_to_one": False}


def test_noise_of_an_image_does_not_depend_on_its_companions():
    together, alone = NoiseSource([7, 8, 9]), NoiseSource([8])
    for draw in (lambda n: n.initial((4, 3)), lambda n: n.step(2, (5,)), lambda n: n.plan((6,))):
        assert torch.equal(draw(together)[1], draw(alone)[0])


def test_noise_streams_differ_and_are_standard_normal():
    source = NoiseSource([1])
    draws = torch.cat([source.initial((20000,)), source.plan((20000,)), source.step(0, (20000,)), source.step(1, (20000,))])
    correlation = torch.corrcoef(draws) - torch.eye(4)
    assert correlation.abs().max() < 4 / math.sqrt(20000)
    assert draws.mean().abs() < 4 / math.sqrt(80000)
    assert (draws.var() - 1).abs() < 4 * math.sqrt(2 / 80000)


@given(st.lists(st.integers(0, 2**31 - 1), min_size=2, max_size=50, unique=True))
@settings(max_examples=30, deadline=None)
def test_seeds_do_not_collide(seeds):
    assert len({mix(s, stream) for s in seeds for stream in range(4)}) == 4 * len(seeds)


def test_no_seeds_is_refused():
    with pytest.raises(InputError, match="seed"):
        NoiseSource([])


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_step_agrees_with_diffusers(kind, eta):
    scheduler = DDIMScheduler(**SD | {"prediction_type": kind})
    scheduler.set_timesteps(10)
    generator = torch.Generator().manual_seed(0)
    x, output, noise = (torch.randn(1, 4, 3, 3, generator=generator) for _ in range(3))
    for i in (0, 4, 8):
        t = scheduler.timesteps[i]
        expected = scheduler.step(output, t, x, eta=eta, variance_noise=noise).prev_sample
        alpha, alpha_prev = scheduler.alphas_cumprod[t][None], scheduler.alphas_cumprod[t - 100][None]
        plain = denoise(*predict_clean(x, output, alpha, kind), alpha_prev)
        ours = stochastic_step(x, output, alpha, alpha_prev, eta, kind).sample(noise) if eta else plain
        assert torch.allclose(ours, expected, atol=2e-6, rtol=1e-5)


def test_log_prob_entropy_and_kl_agree_with_torch_distributions():
    generator = torch.Generator().manual_seed(1)
    mean, other, action = (torch.randn(3, 2, 5, generator=generator) for _ in range(3))
    log_std, other_std = torch.randn(3, 2, 1, generator=generator) * 0.3, torch.randn(3, 1, 1, generator=generator) * 0.3
    ours, theirs = Gaussian(mean, log_std), torch.distributions.Normal(mean, log_std.exp().expand_as(mean))
    old = torch.distributions.Normal(other, other_std.exp().expand_as(other))
    assert torch.allclose(ours.log_prob(action), theirs.log_prob(action).mean((1, 2)), atol=1e-6)
    unit = torch.distributions.Normal(0.0, 1.0).entropy()
    assert torch.allclose(ours.relative_entropy(), (theirs.entropy() - unit).mean((1, 2)), atol=1e-6)
    assert torch.allclose(ours.kl_from(other, other_std), torch.distributions.kl_divergence(old, theirs).mean((1, 2)), atol=1e-5)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [4, 7, 10, 30])
def test_schedule_is_that_of_diffusers(spacing, steps):
    scheduler = DDIMScheduler(**SD, timestep_spacing=spacing, steps_offset=1 if spacing == "leading" else 0)
    ours = stock_schedule(scheduler, steps)
    x, output = torch.ones(1, 1), torch.full((1, 1), 0.3)
    for i, t in enumerate(scheduler.timesteps):
        expected = scheduler.step(output, t, x).prev_sample
        got = denoise(*predict_clean(x, output, ours.alphas[i : i + 1], "epsilon"), ours.alphas_prev[i : i + 1])
        assert torch.allclose(got, expected, atol=1e-6)
    ends = ours.timesteps - 1000 // steps
    assert torch.equal(ours.timesteps[1:] + ours.gap[:-1], ends[:-1])


def test_more_steps_than_levels_is_refused():
    with pytest.raises(InputError, match="1001"):
        stock_schedule(DDIMScheduler(**SD), 1001)


def test_as_many_steps_as_levels_do_not_fit_behind_an_offset():
    with pytest.raises(InputError, match="num_inference_steps 1000: .*begin at noise level 1000, and the last is 999; give 1 to 999"):
        stock_schedule(DDIMScheduler(**SD, timestep_spacing="leading", steps_offset=1), 1000)
    assert len(stock_schedule(DDIMScheduler(**SD, timestep_spacing="leading", steps_offset=1), 999).timesteps) == 999
    assert len(stock_schedule(DDIMScheduler(**SD, timestep_spacing="trailing"), 1000).timesteps) == 1000


def test_fractional_alpha_is_exact_on_levels_monotone_between_and_halves_log_snr():
    table = DDIMScheduler(**SD).alphas_cumprod.double()
    assert torch.equal(alpha_at(table, torch.arange(1000)), table)
    fine = alpha_at(table, torch.linspace(0, 999, 7001))
    assert (fine.diff() < 0).all()
    middle = alpha_at(table, torch.tensor([500.5], dtype=torch.float64))
    log_snr = lambda a: (a / (1 - a)).log()  # noqa: E731
    assert torch.allclose(log_snr(middle), (log_snr(table[500]) + log_snr(table[501])) / 2)
