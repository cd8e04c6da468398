"""Small rewards of single images that are added to the set's credit: sequential, spatial, entropy, quality.

Each is a pure function with one value per image; composition.py normalises and weights them.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from backend.rewards.attributes_model import AttributeModel
from backend.rewards.base import MetricContext, RewardBatch
from backend.rewards.kernels import nearest_squares, rbf, squared_distances

LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601
RECENT = 64  # images of the queue that the sequential bonus looks back on
LAYOUT = 8  # side of the luminance layout that compositions are compared by
REGIONS = 4  # regions per side whose contents should differ
REGION_SCALE = 0.25  # half of the largest standard deviation that luminances in [0, 1] can have
ENTROPY_BINS = 64
QUALITY_RANGE = 3.0  # nats; distances beyond a factor of 20 say nothing more


def root(values: Tensor) -> Tensor:
    """Square root with derivative 0 at 0 and below, where a root has none: the spread of what does not vary at all."""
    positive = values > 0
    return torch.where(positive, values, 1.0).sqrt() * positive


def luminance(images: Tensor) -> Tensor:
    """[B, 3, h, w] -> [B, h, w] float64."""
    weights = torch.tensor(LUMINANCE, dtype=torch.float64, device=images.device)
    return torch.einsum("bchw,c->bhw", images.double(), weights)


def sequential_bonus(x: Tensor, recent: Tensor, bandwidth: float) -> Tensor:
    """Unlikeness to the most recent images: 1 - mean RBF kernel.

    Args:
        x: [B, D] standardised features.
        recent: [Q, D] features of earlier images, oldest first; the last 64 count.
        bandwidth: of the kernel.

    Returns:
        [B] in [0, 1]; zeros while there is no earlier image.
    """
    if len(recent) == 0:
        return torch.zeros(len(x), dtype=torch.float64)
    return 1 - rbf(squared_distances(x.double(), recent[-RECENT:]), bandwidth).mean(1)


def layout_difference(images: Tensor) -> Tensor:
    """How unlike the other images' compositions each one is.

    The luminance is averaged to 8 x 8 and correlated between images: brightness and contrast do not count, where things are does.

    Returns:
        [B] in [0, 1]: mean over the other images of (1 - correlation) / 2; zeros at B = 1. A flat image has no composition
        and correlates with nothing: 0.5.
    """
    grey = luminance(images)
    if len(grey) < 2:
        return torch.zeros(len(grey), dtype=torch.float64)
    layout = F.adaptive_avg_pool2d(grey[:, None], LAYOUT).flatten(1)
    layout = layout - layout.mean(1, keepdim=True)
    layout = layout / layout.norm(dim=1, keepdim=True).clamp_min(1e-6)
    different = (1 - layout @ layout.T) / 2
    return (different.sum(1) - different.diagonal()) / (len(grey) - 1)


def region_variation(images: Tensor) -> Tensor:
    """How much the regions of one image differ from each other in brightness and in texture.

    Returns:
        [B] in [0, 1]: standard deviation over 4 x 4 regions of their mean and of their own standard deviation, combined.
    """
    grey = luminance(images)[:, None]
    means = F.adaptive_avg_pool2d(grey, REGIONS).flatten(1)
    squares = F.adaptive_avg_pool2d(grey**2, REGIONS).flatten(1)
    spreads = root(squares - means**2)
    combined = root(means.var(1, correction=0) + spreads.var(1, correction=0))
    return (combined / REGION_SCALE).clamp_max(1)


def spatial_bonus(images: Tensor) -> Tensor:
    """Varied composition across images and across the regions of one, half each: [B] in [0, 1]."""
    return (layout_difference(images) + region_variation(images)) / 2


def _histogram_entropy(values: Tensor) -> Tensor:
    """Shannon entropy of each row's histogram [B, n] in [0, 1], in units of its largest possible value."""
    bins = (values.clamp(0, 1) * ENTROPY_BINS).long().clamp_max(ENTROPY_BINS - 1)
    counts = torch.zeros(len(values), ENTROPY_BINS, dtype=torch.float64, device=values.device)
    counts.scatter_add_(1, bins, torch.ones_like(values, dtype=torch.float64))
    share = counts / counts.sum(1, keepdim=True)
    return torch.special.entr(share).sum(1) / math.log(ENTROPY_BINS)


def entropy_bonus(images: Tensor) -> Tensor:
    """Information content: entropy of the luminance histogram and of the histogram of neighbouring differences, half each.

    Returns:
        [B] in [0, 1]; 0 for a flat image, 1 for evenly used brightness and differences (noise: hence its small weight).
    """
    grey = luminance(images)
    steps = torch.cat([(grey[:, 1:] - grey[:, :-1]).flatten(1), (grey[:, :, 1:] - grey[:, :, :-1]).flatten(1)], 1)
    return (_histogram_entropy(grey.flatten(1)) + _histogram_entropy(steps.abs() * 4)) / 2


def quality_bonus(x: Tensor, reference: Tensor, k: int) -> Tensor:
    """Realism: how much nearer the reference is than its own images are to each other, in nats.

    The mean of -log distance to the k nearest reference images, as in nearest-neighbour estimates of a density, less the same of the reference
    itself. One neighbour alone draws images towards it, and distances in units of each reference image's own radius pay for moving
    to where the reference is thin (docs/results/trials.md).

    Args:
        x: [B, D]
        reference: [M, D], M > k.

    Returns:
        [B] in [-3, 3]; 0 is as near as reference images are to each other.
    """
    own = _log_distances(squared_distances(reference, reference), k, exclude_self=True).mean()
    return (own - _log_distances(squared_distances(x.double(), reference), k, exclude_self=False)).clamp(-QUALITY_RANGE, QUALITY_RANGE).mean(1)


def _log_distances(squares: Tensor, k: int, exclude_self: bool) -> Tensor:
    """[N, k] logarithms of the distances to the k nearest; a copy's is finite and has no derivative."""
    return nearest_squares(squares, k, exclude_self).clamp_min(1e-18).log() / 2


def group_bonuses(batch: RewardBatch, context: MetricContext, bandwidth: float, knn_k: int) -> dict[str, Tensor]:
    """The four bonuses [B] of a group, by name."""
    return {
        "sequential": sequential_bonus(batch.features, context.queue.recent(RECENT), bandwidth),
        "spatial": spatial_bonus(batch.images),
        "entropy": entropy_bonus(batch.images),
        "quality": quality_bonus(batch.features, context.reference, knn_k),
    }


def adherence_bonus(model: AttributeModel, batch: RewardBatch) -> Tensor:
    """How well each image [B] obeys its prompt; one whose prompt says nothing measurable takes the others' mean, as obeyed neither well nor badly."""
    said = model.adherence(batch.attributes, batch.captions)
    known = ~torch.isnan(said)
    return torch.where(known, said, said[known].mean() if known.any() else 0.0)


def guarded_means(batch: RewardBatch, reference: Tensor, k: int, model: AttributeModel | None) -> dict[str, float | None]:
    """Mean realism and mean prompt relevance of a set, whether or not they are paid for; None where there is no image, or no regressor to tell.

    Args:
        batch: the set.
        reference, k: as in `quality_bonus`.
        model: the attribute regressors, if there are any.
    """
    if len(batch) == 0:
        return {"quality": None, "adherence": None}
    adherence = None if model is None else float(adherence_bonus(model, batch).mean())
    return {"quality": float(quality_bonus(batch.features, reference, k).mean()), "adherence": adherence}
