"""Pulls: the pathwise gradient of a group's reward by its recorded actions, as the update takes it."""

from __future__ import annotations

import torch

from backend.diffusion.backbone import Backbone
from backend.diffusion.pathwise import noise_gradient
from backend.diffusion.sampler import ShouldStop
from backend.diffusion.trajectory import Trajectory
from backend.policies.base import Policy
from backend.ppo.batch import Batch
from backend.ppo.ranks import Ranks

PULL_LIMIT = 3.0  # of the group's median norm


def pulls_of(
    backbone: Backbone,
    policy: Policy,
    ranks: Ranks,
    trajectory: Trajectory,
    image_gradient: torch.Tensor,
    scale: float,
    micro_batch: int,
    should_stop: ShouldStop | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Derivative of the advantage by each recorded action.

    The chain through the denoising steps can amplify: no image pulls harder than `PULL_LIMIT` times the group's median.

    Args:
        backbone, policy: those that drew the trajectory.
        ranks: processes that share the way back.
        trajectory: the group.
        image_gradient: derivative of the reward by the images [B, 3, h, w].
        scale: what the credit was divided by.
        micro_batch: images at once.
        should_stop: asked often.

    Returns:
        Pulls in the order of `Batch.of` [m, ...], and which images have none that is finite [B] bool; theirs are zero.

    Raises:
        Stopped: the callback said so.
    """
    mine = ranks.share(len(trajectory)).to(image_gradient.device)
    part = noise_gradient(backbone, policy, trajectory.slice(mine), image_gradient[mine], micro_batch, should_stop) if len(mine) else None
    found = ranks.join(part, 1).to(trajectory.actions.device).flatten(2)
    broken = ~found.isfinite().all(2).all(0)
    found = torch.where(broken[None, :, None], 0.0, found)
    norms = found.norm(dim=2, keepdim=True)
    limit = PULL_LIMIT * norms.median(1, keepdim=True).values
    pull = found * ((limit / norms.clamp_min(1e-30)).clamp_max(1.0) / scale)
    return (pull.view_as(trajectory.actions) * torch.exp(-trajectory.log_stds)).transpose(0, 1).flatten(0, 1), broken


def add_pulls(group: Batch, found: tuple[torch.Tensor, torch.Tensor] | None) -> bool:
    """Give a group its pulls and leave out its broken images; True where there were any.

    Args:
        group: fresh pairs.
        found: what `pulls_of` gave; None for a group without variation, whose pulls are zero (and there, so that remembered groups keep theirs).
    """
    if found is None:
        group.transitions.pull = torch.zeros_like(group.transitions.action)
        return False
    group.transitions.pull, broken = found
    group.advantages = torch.where(broken.to(group.image.device)[group.image], 0.0, group.advantages)
    return bool(broken.any())
