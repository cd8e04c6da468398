"""The derivative of the images by the noise behind the actions, against finite differences."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from backend.diffusion import pathwise
from backend.diffusion.noise import NoiseSource
from backend.diffusion.pathwise import TIME_REACH, follow_time, noise_gradient
from backend.diffusion.sampler import Stopped
from tests.learner_bench import bench

__all__ = ["bench"]
MODES = ["LORA_UNET", "DIVERSITY_POLICY", "SCHEDULER_POLICY"]
SETTINGS = {"window_start": 1, "window_size": 2, "guidance_scale": 3.0}


@pytest.fixture
def shifted(monkeypatch):
    """`shifted(step, change)`: from now on that step's noise (None: the plan's) is moved by `change` [B, ...]."""
    drawn, planned = NoiseSource.step, NoiseSource.plan

    def move(step: int | None, change: torch.Tensor) -> None:
        monkeypatch.setattr(NoiseSource, "step", lambda self, i, shape: drawn(self, i, shape) + (change if i == step else 0))
        monkeypatch.setattr(NoiseSource, "plan", lambda self, shape: planned(self, shape) + (change if step is None else 0))

    return move


@pytest.mark.parametrize(("mode", "step"), [*((mode, step) for mode in MODES[:2] for step in (1, 2)), ("SCHEDULER_POLICY", None)])
def test_it_is_the_slope_of_the_images(bench, shifted, monkeypatch, mode, step):
    monkeypatch.setattr(pathwise, "TIME_REACH", 0.05)  # so near that the quotient is the derivative
    b = bench(mode=mode, **SETTINGS)
    trajectory = b.rollout()
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(trajectory.images.shape, generator=generator)
    inside = (trajectory.images > 0.02) & (trajectory.images < 0.98)  # a clipped pixel has no slope
    weight = weight * inside
    found = noise_gradient(b.agent.backbone, b.agent.policy, trajectory, weight, 4)
    assert found.shape == trajectory.actions.shape
    change = torch.randn(trajectory.actions.shape[1:], generator=generator)
    size = {"LORA_UNET": 1e-2, "DIVERSITY_POLICY": 0.1, "SCHEDULER_POLICY": 1e-3}[mode]  # float32's rounding below, curvature above; a push is narrow, timesteps are rough
    values = []
    for sign in (1, -1):
        shifted(step, sign * size * change)
        values.append((weight * b.rollout().images).double().sum((1, 2, 3)))
    slope = (values[0] - values[1]) / (2 * size)
    expected = (found[(step or 1) - 1] * change).flatten(1).sum(1).double()
    assert torch.allclose(slope, expected, rtol=0.03, atol=0.01 * float(expected.abs().max()))


@pytest.mark.parametrize(("device", "drawn", "differentiated"), [("cuda", [2, 2, 1], [1] * 5), ("cpu", [1] * 5, [1] * 5)])
def test_a_full_size_decoder_meets_few_images_at_once(bench, monkeypatch, device, drawn, differentiated):
    backbone = bench().agent.backbone
    backbone.device, backbone.latent_shape, met = torch.device(device), (4, 64, 64), []
    monkeypatch.setattr(type(backbone), "image_size", (512, 512))

    def decode(latents: torch.Tensor) -> SimpleNamespace:
        met.append(len(latents))
        return SimpleNamespace(sample=latents[:, :3])

    monkeypatch.setattr(backbone.vae, "decode", decode)
    latents = torch.zeros(5, *backbone.latent_shape)
    backbone.decode(latents)
    assert met == drawn
    met.clear()
    pathwise._through_decoder(backbone, latents, torch.zeros(5, 3, 64, 64))
    assert met == differentiated


def test_slicing_is_that_of_the_autoencoder(bench, monkeypatch):
    plain, sliced = (bench(attention_slicing=on) for on in (False, True))
    kinds = [{type(p) for p in b.agent.backbone.unet.attn_processors.values()} for b in (plain, sliced)]
    assert kinds[0] == kinds[1]  # diffusers' slices of the UNet's attention need more memory in a backward pass, not less
    backbone, met = sliced.agent.backbone, []
    decode = backbone.vae.decode
    monkeypatch.setattr(backbone.vae, "decode", lambda latents: met.append(len(latents)) or decode(latents))
    latents = torch.randn(5, *backbone.latent_shape, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(backbone.decode(latents), plain.agent.backbone.decode(latents), atol=1e-5)
    pathwise._through_decoder(backbone, latents, torch.zeros(5, 3, *backbone.image_size))
    assert met == [1] * 10


def test_checkpointing_reaches_the_decoder_and_leaves_the_gradient(bench):
    plain, saving = (bench(**SETTINGS, gradient_checkpointing=on) for on in (False, True))
    vae = saving.agent.backbone.vae
    assert vae.is_gradient_checkpointing and saving.agent.backbone.unet.is_gradient_checkpointing and not plain.agent.backbone.vae.is_gradient_checkpointing
    weight = torch.randn(plain.rollout().images.shape, generator=torch.Generator().manual_seed(3))
    found, expected = (noise_gradient(b.agent.backbone, b.agent.policy, b.rollout(), weight, 4) for b in (saving, plain))
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    held = {}
    for b in (saving, plain):
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t.numel()) or t, lambda t: t):
            b.agent.backbone.decode(torch.zeros(1, *b.agent.backbone.latent_shape, requires_grad=True), preserve_gradients=True)
        held[b] = sum(kept)
    assert held[saving] < held[plain] / 2


def test_waves_between_whole_timesteps_do_not_pull_a_plan(bench, monkeypatch):
    backbone, wave = bench().agent.backbone, torch.tensor([0.5, 2.0])

    def predicted(backbone, latents, timesteps, *args, **kwargs):
        """A trend over the noise levels, and a wave as short as the shortest in a time embedding."""
        return (timesteps / 200 + wave * timesteps.sin()).float().reshape(-1, 1, 1, 1).expand_as(latents)

    monkeypatch.setattr(pathwise, "guided_prediction", predicted)
    x, at = torch.zeros(2, 4, 8, 8), torch.tensor([400.0, 990.0], dtype=torch.float64, requires_grad=True)  # the second reaches beyond the last level
    prediction = predicted(backbone, x, at.detach())
    followed = follow_time(backbone, prediction, x, at, torch.zeros(2, 1, 1), torch.ones(2), True)
    assert torch.equal(followed, prediction)
    slope = torch.autograd.grad(followed[:, 0, 0, 0].sum(), at)[0]
    assert ((slope - 1 / 200).abs() <= 2 * wave / (TIME_REACH + 9)).all()
    steep = torch.autograd.grad(predicted(backbone, x, at)[:, 0, 0, 0].sum(), at)[0]
    assert ((steep - 1 / 200).abs() > 0.3 * wave).any()


def test_a_plan_of_guidance_alone_is_differentiated_without_other_noise_levels(bench, monkeypatch):
    b = bench(mode="SCHEDULER_POLICY", **SETTINGS)
    monkeypatch.setattr(b.agent.policy, "shaped", lambda schedule, u: schedule)
    monkeypatch.setattr(pathwise, "follow_time", lambda *args: pytest.fail("the timesteps are not planned"))
    trajectory = b.rollout()
    found = noise_gradient(b.agent.backbone, b.agent.policy, trajectory, torch.ones_like(trajectory.images), 6)
    assert found.shape == trajectory.actions.shape
    assert found[..., :-1].eq(0).all() and found[..., -1].ne(0).all()


@pytest.mark.parametrize("mode", MODES)
def test_micro_batches_do_not_change_it_and_the_policy_stays_trainable(bench, mode):
    b = bench(mode=mode, **SETTINGS)
    trajectory = b.rollout()
    weight = torch.ones_like(trajectory.images)
    whole = noise_gradient(b.agent.backbone, b.agent.policy, trajectory, weight, 6)
    parts = noise_gradient(b.agent.backbone, b.agent.policy, trajectory, weight, 1)
    assert torch.allclose(whole, parts, rtol=1e-3, atol=1e-5 * float(whole.abs().max()))
    assert all(p.requires_grad and p.grad is None for p in b.agent.policy.trainable().values())


def test_one_image_does_not_pull_another(bench):
    b = bench(**SETTINGS)
    trajectory = b.rollout()
    weight = torch.zeros_like(trajectory.images)
    weight[2] = 1.0
    norms = noise_gradient(b.agent.backbone, b.agent.policy, trajectory, weight, 6).flatten(2).norm(dim=2)
    assert (norms[:, 2] > 0).all() and (norms[:, [0, 1, 3, 4, 5]] == 0).all()


def test_a_stop_leaves_the_policy_trainable(bench):
    b = bench(**SETTINGS)
    trajectory = b.rollout()
    with pytest.raises(Stopped):
        noise_gradient(b.agent.backbone, b.agent.policy, trajectory, torch.ones_like(trajectory.images), 6, should_stop=lambda: True)
    assert all(p.requires_grad for p in b.agent.policy.trainable().values())
