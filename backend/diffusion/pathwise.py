"""The pathwise gradient: how the noise behind each recorded action moved the images, by the chain rule through the rollout.

Mohamed et al. 2020, Monte Carlo Gradient Estimation in Machine Learning (arXiv 1906.10652, section 5); through a sampler of
images as in DRaFT (Clark et al. 2023, arXiv 2309.17400). The chain is walked backward one step at a time from recorded latents,
so that never more than one step's activations of one micro-batch are held.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from backend.diffusion.backbone import Backbone
from backend.diffusion.guidance import guided_prediction, is_guided
from backend.diffusion.noise import NoiseSource
from backend.diffusion.sampler import ShouldStop, StepState, check_stop
from backend.diffusion.trajectory import Trajectory

TIME_REACH = 30.0  # timesteps to either side
DECODED_PIXELS = 4 * 128**2  # decoded at once: a full-size decoder's activations are the largest of all, 5.7 GiB for one image of 512 x 512


class TracedNoise(NoiseSource):
    """Noise whose last handed-out numbers can be differentiated by."""

    leaf: torch.Tensor

    def plan(self, shape: Sequence[int]) -> torch.Tensor:
        """As `NoiseSource.plan`; kept as `leaf`."""
        self.leaf = super().plan(shape).requires_grad_()
        return self.leaf

    def step(self, i: int, shape: Iterable[int]) -> torch.Tensor:
        """As `NoiseSource.step`; kept as `leaf`."""
        self.leaf = super().step(i, shape).requires_grad_()
        return self.leaf


@contextmanager
def frozen(parameters: Iterable[torch.nn.Parameter]) -> Iterator[None]:
    """Within it nothing is differentiated by these parameters."""
    trained = [p for p in parameters if p.requires_grad]
    for p in trained:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in trained:
            p.requires_grad_(True)


def noise_gradient(backbone: Backbone, policy: Any, trajectory: Trajectory, image_gradient: torch.Tensor, micro_batch: int, should_stop: ShouldStop | None = None) -> torch.Tensor:
    """Derivative of a function of the images by the standard normal numbers behind each action.

    Args:
        backbone: the frozen model.
        policy: the one that drew the trajectory, unchanged since.
        trajectory: what `rollout` recorded.
        image_gradient: the function's derivative by the images [B, 3, h, w].
        micro_batch: images at once.
        should_stop: asked before each step of each micro-batch.

    Returns:
        [K, B, ...] in the shape of the actions.

    Raises:
        Stopped: the callback said so.
    """
    parts = torch.arange(len(trajectory)).split(micro_batch)
    scale = _power_of_two(image_gradient)
    scaled = image_gradient * scale
    with frozen(policy.trainable().values()), torch.enable_grad():
        rows = [_walk_back(backbone, policy, trajectory.slice(index), scaled[index].to(backbone.device), should_stop) for index in parts]
    return torch.cat(rows, dim=1) / scale


def _power_of_two(gradient: torch.Tensor) -> float:
    """What brings the largest finite element near 1, where half precision neither underflows nor overflows; exact, so that float32 is left as it is."""
    largest = float(torch.where(gradient.isfinite(), gradient, 0.0).abs().max()) if gradient.numel() else 0.0
    return 2.0 ** -round(math.log2(largest)) if largest > 0 else 1.0


def _walk_back(backbone: Backbone, policy: Any, part: Trajectory, image_gradient: torch.Tensor, should_stop: ShouldStop | None) -> torch.Tensor:
    """`noise_gradient` of one micro-batch: vector-Jacobian products from the images to the window's first step, or to the plan behind all steps."""
    noise, steps = TracedNoise(part.seeds, backbone.device), len(part.path) - 1
    plan = policy.plan(backbone.schedule(steps).expand(len(part)), part.embeds, noise, policy.config.guidance_scale, False)
    planned = plan.action is not None
    chosen = (plan.schedule.timesteps, plan.schedule.alphas, plan.schedule.alphas_prev, plan.guidance)
    moved = [x.requires_grad for x in chosen]  # by the noise; what is not planned has no derivative
    timesteps, alphas, alphas_prev, guidance = leaves = [x.detach().clone().requires_grad_(planned) for x in chosen]
    first, count = (0, 0) if planned else part.window
    guided, adjoint = is_guided(guidance), _through_decoder(backbone, part.final_latents, image_gradient)
    found, by_plan = [], [torch.zeros_like(x) for x in leaves]
    for i in reversed(range(first, steps)):
        check_stop(should_stop)
        latents = part.path[i].clone().requires_grad_(i > first)  # the first step's latents are given
        with torch.set_grad_enabled(planned or i > first):
            prediction = guided_prediction(backbone, latents, timesteps[i].detach(), part.embeds, guidance, guided=guided)
            if moved[0]:
                prediction = follow_time(backbone, prediction, latents, timesteps[i], part.embeds, guidance, guided)
        trained = i < first + count
        outcome = policy.step(StepState(i, latents, prediction, timesteps[i], alphas[i], alphas_prev[i], part.embeds, trained, False), noise)
        wanted = ([latents] if i > first else []) + (leaves if planned else [noise.leaf] if trained else [])
        gradients = torch.autograd.grad(outcome.latents, wanted, adjoint, allow_unused=planned)
        if planned:
            by_plan = [total if g is None else total + g for total, g in zip(by_plan, gradients[-len(leaves) :], strict=True)]
        elif trained:
            found.append(gradients[-1])
        adjoint = gradients[0]
    if not planned:
        return torch.stack(found[::-1])
    ends, adjoints = zip(*((x, total) for x, total, by_noise in zip(chosen, by_plan, moved, strict=True) if by_noise), strict=True)
    return torch.autograd.grad(ends, noise.leaf, adjoints)[0][None]


def follow_time(
    backbone: Backbone, prediction: torch.Tensor, latents: torch.Tensor, timestep: torch.Tensor, embeds: torch.Tensor, guidance: torch.Tensor, guided: bool
) -> torch.Tensor:
    """The prediction, with a derivative by the timestep [b]: the difference quotient over `TIME_REACH` to either side.

    The model was trained at whole timesteps, and its embedding has waves as short as six of them: between two whole ones the
    output wiggles, and its own derivative says nothing of how another noise level would do (docs/results/version_4/policies.md has the figures).
    """
    here = timestep.detach()
    ends = [(here + side * TIME_REACH).clamp(0, len(backbone.alphas_cumprod) - 1) for side in (-1, 1)]
    with torch.no_grad():
        low, high = (guided_prediction(backbone, latents, end, embeds, guidance, guided=guided) for end in ends)
        slope = (high - low) / (ends[1] - ends[0]).float().reshape(-1, 1, 1, 1)
    return prediction + (timestep - here).float().reshape(-1, 1, 1, 1) * slope


def _through_decoder(backbone: Backbone, latents: torch.Tensor, image_gradient: torch.Tensor) -> torch.Tensor:
    """Derivative by the final latents [b, C, H, W]."""
    rows = []
    at_once = backbone.images_within(DECODED_PIXELS)
    for chunk, gradient in zip(latents.split(at_once), image_gradient.split(at_once), strict=True):
        leaf = chunk.clone().requires_grad_()
        rows.append(torch.autograd.grad(backbone.decode(leaf, preserve_gradients=True), leaf, gradient)[0])
    return torch.cat(rows)
