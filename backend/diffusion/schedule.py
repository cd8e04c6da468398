"""Noise levels of a sampling run: the stock DDIM steps, and any fractional timestep between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from backend.errors import InputError


@dataclass(frozen=True)
class Schedule:
    """Where T denoising steps begin and end, for one image [T] or several [T, B].

    Attributes:
        timesteps: float64, descending; fractional values are allowed.
        alphas: cumulative alpha at each step's begin, float64.
        alphas_prev: cumulative alpha at each step's end, float64.
        gap: timesteps between the end of a step and the begin of the next, where 1000 is no multiple of T (diffusers' rounding); [T].
    """

    timesteps: torch.Tensor
    alphas: torch.Tensor
    alphas_prev: torch.Tensor
    gap: torch.Tensor

    def expand(self, batch: int) -> Schedule:
        """The same steps for each of B images: [T] to [T, B]."""
        wide = [x[:, None].expand(-1, batch) for x in (self.timesteps, self.alphas, self.alphas_prev)]
        return Schedule(*wide, self.gap)


def stock_schedule(scheduler: Any, steps: int, device: torch.device | str = "cpu") -> Schedule:
    """The steps that diffusers' DDIMScheduler takes for `steps` inference steps.

    Args:
        scheduler: a `DDIMScheduler` made from the pipeline's scheduler_config.json (leading, trailing or linspace spacing).
        steps: T.

    Raises:
        InputError: more steps than the model was trained with, or than fit behind its offset.
    """
    total = scheduler.config.num_train_timesteps
    if not 1 <= steps <= total:
        raise InputError(f"num_inference_steps {steps}: the model knows {total} noise levels; give 1 to {total}", field="num_inference_steps")
    scheduler.set_timesteps(steps)
    table = scheduler.alphas_cumprod.to(torch.float64)
    begin = scheduler.timesteps.to(torch.long).cpu()
    if begin.max() >= total:  # leading spacing with an offset, as Stable Diffusion has it
        raise InputError(
            f"num_inference_steps {steps}: with this model's spacing a step would begin at noise level {int(begin.max())}, and the last is {total - 1}; give 1 to {total - 1}",
            field="num_inference_steps",
        )
    end = begin - total // steps
    final = torch.as_tensor(scheduler.final_alpha_cumprod, dtype=torch.float64)
    alphas_prev = torch.where(end >= 0, table[end.clamp(min=0)], final)
    gap = torch.zeros(steps, dtype=torch.float64)
    gap[:-1] = (end[:-1] - begin[1:]).to(torch.float64)
    return Schedule(begin.to(torch.float64).to(device), table[begin].to(device), alphas_prev.to(device), gap.to(device))


def alpha_at(table: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    """Cumulative alpha at fractional timesteps, linear in log signal-to-noise ratio between the levels the model knows.

    Args:
        table: cumulative alphas [levels] float64.
        timesteps: any shape, cut to the range of the table.

    Returns:
        float64, the shape of `timesteps`; at whole timesteps exactly the table's value.
    """
    t = timesteps.to(torch.float64).clamp(0, len(table) - 1)
    low = t.floor().long()
    high = (low + 1).clamp(max=len(table) - 1)
    weight = t - low
    safe = table.clamp(1e-12, 1 - 1e-12)
    log_snr = torch.log(safe) - torch.log1p(-safe)
    between = torch.sigmoid(log_snr[low] * (1 - weight) + log_snr[high] * weight)
    return torch.where(weight == 0, table[low], between)
