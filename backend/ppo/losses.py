"""Losses of PPO (Schulman et al. 2017, arXiv 1707.06347) per (image, step) pair; pure functions."""

from __future__ import annotations

import torch


def clipped_surrogate(log_ratio: torch.Tensor, advantages: torch.Tensor, clip_range: float) -> torch.Tensor:
    """max(-A r, -A clamp(r, 1-eps, 1+eps)) (equation 7, negated) [m].

    Args:
        log_ratio: new minus old log-prob per action element [m].
        advantages: [m].
        clip_range: eps per action element.
    """
    ratio = log_ratio.exp()
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip_range, 1 + clip_range))


def value_loss(values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, clip_range: float) -> torch.Tensor:
    """Half the squared error, or the larger of it and that of the clipped estimate (Baselines' PPO2); `clip_range` 0 for none [m]."""
    plain = (values - returns).square()
    if clip_range <= 0:
        return 0.5 * plain
    clipped = old_values + (values - old_values).clamp(-clip_range, clip_range)
    return 0.5 * torch.maximum(plain, (clipped - returns).square())


def explained_variance(values: torch.Tensor, returns: torch.Tensor) -> float:
    """1 - Var(returns - values) / Var(returns); 0 where the returns do not vary."""
    variance = returns.var(correction=0)
    return float(1 - (returns - values).var(correction=0) / variance) if variance > 1e-12 else 0.0
