"""The rollout: one batched pass of guided denoising in which a policy acts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from backend.diffusion.backbone import Backbone
from backend.diffusion.guidance import guided_prediction, is_guided
from backend.diffusion.kernel import Gaussian
from backend.diffusion.noise import NoiseSource
from backend.diffusion.schedule import Schedule
from backend.diffusion.trajectory import Trajectory

ShouldStop = Callable[[], bool]


class Stopped(Exception):
    """Somebody asked to stop in the middle of a rollout or an update; what had been done of it is discarded."""


def check_stop(should_stop: ShouldStop | None) -> None:
    """Raise `Stopped` where the callback says so."""
    if should_stop is not None and should_stop():
        raise Stopped("stopped on request")


@dataclass
class Action:
    """One decision of a policy for B images: what it saw, its distribution, and what was drawn from it."""

    state: torch.Tensor
    value: torch.Tensor
    distribution: Gaussian


@dataclass
class Plan:
    """What a policy decides once per rollout.

    Attributes:
        schedule: steps per image [T, B].
        guidance: [B] float32.
        action: the decision, where it is one that is trained.
    """

    schedule: Schedule
    guidance: torch.Tensor
    action: Action | None = None


@dataclass
class StepState:
    """What a policy sees at denoising step i.

    Attributes:
        latents: x_t [B, C, H, W] float32.
        prediction: guided model output [B, C, H, W] float32.
        timestep, alpha, alpha_prev: [B] float64.
        embeds: [B, L, E].
        trained: this step lies in the window and may be stochastic; otherwise it is deterministic DDIM.
        deterministic: take mean actions.
    """

    index: int
    latents: torch.Tensor
    prediction: torch.Tensor
    timestep: torch.Tensor
    alpha: torch.Tensor
    alpha_prev: torch.Tensor
    embeds: torch.Tensor
    trained: bool
    deterministic: bool


@dataclass
class StepOutcome:
    """x_{t-1} [B, C, H, W] and, where one was taken, the action behind it."""

    latents: torch.Tensor
    action: Action | None = None


def rollout(
    backbone: Backbone,
    policy: Any,
    embeds: torch.Tensor,
    noise: NoiseSource,
    window: tuple[int, int],
    *,
    num_inference_steps: int,
    guidance_scale: float,
    deterministic: bool = False,
    should_stop: ShouldStop | None = None,
) -> Trajectory:
    """Draw B images and record the trained window.

    Args:
        backbone: the frozen model.
        policy: follows `backend.policies.base.Policy`.
        embeds: prompt embeddings [B, L, E].
        noise: B seeds.
        window: (first trained step, K).
        num_inference_steps: T.
        guidance_scale: guidance of the policies that do not choose their own.
        deterministic: mean actions and no noise in the window (evaluation).
        should_stop: asked before each denoising step.

    Raises:
        Stopped: the callback said so.
    """
    with torch.inference_mode():
        schedule = backbone.schedule(num_inference_steps).expand(len(noise))
        plan = policy.plan(schedule, embeds, noise, guidance_scale, deterministic)
        latents, guided = noise.initial(backbone.latent_shape), is_guided(plan.guidance)
        path, actions = [latents], [] if plan.action is None else [plan.action]
        for i in range(num_inference_steps):
            check_stop(should_stop)
            timestep, alpha, alpha_prev = plan.schedule.timesteps[i], plan.schedule.alphas[i], plan.schedule.alphas_prev[i]
            prediction = guided_prediction(backbone, latents, timestep, embeds, plan.guidance, guided=guided)
            trained = window[0] <= i < window[0] + window[1]
            outcome = policy.step(StepState(i, latents, prediction, timestep, alpha, alpha_prev, embeds, trained, deterministic), noise)
            if outcome.action is not None:
                actions.append(outcome.action)
            latents = outcome.latents
            path.append(latents)
        check_stop(should_stop)
        images = backbone.decode(latents)
    return _record(plan, images, path, actions, embeds, noise, window)


def _record(
    plan: Plan,
    images: torch.Tensor,
    path: list[torch.Tensor],
    actions: list[Action],
    embeds: torch.Tensor,
    noise: NoiseSource,
    window: tuple[int, int],
) -> Trajectory:
    """Copies outside inference mode, since autograd may not save inference tensors."""
    batch = len(noise)
    empty = torch.zeros(0, batch, device=images.device)
    rows = slice(0, 1) if plan.action is not None else slice(window[0], window[0] + len(actions))
    schedule = plan.schedule

    def stack(values: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack(values).clone() if values else empty.clone()

    means = [a.distribution.mean for a in actions]
    return Trajectory(
        images=images.clone(),
        path=stack(path),
        states=stack([a.state for a in actions]),
        actions=stack([a.value for a in actions]),
        means=stack(means),
        log_stds=stack([a.distribution.log_std.expand(batch, *a.distribution.log_std.shape[1:]) for a in actions]),
        log_probs=stack([a.distribution.log_prob(a.value) for a in actions]),
        timesteps=schedule.timesteps[rows].clone(),
        alphas=schedule.alphas[rows].clone(),
        alphas_prev=schedule.alphas_prev[rows].clone(),
        guidance=plan.guidance.clone(),
        embeds=embeds,
        schedule_timesteps=schedule.timesteps.clone(),
        seeds=list(noise.seeds),
        window=window,
    )
