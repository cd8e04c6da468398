"""A learned standard deviation that cannot collapse."""

from __future__ import annotations

import math

import torch
from torch import nn

from backend.config import TrainConfig
from backend.errors import InputError

GAIN = 10.0  # log std is one number per action element, where weights work by the hundred: at one learning rate it needs larger steps


class LogStd(nn.Module):
    """log sigma = floor + softplus(raw + GAIN * parameter): never below the floor, and with a gradient everywhere.

    Args:
        config: `init_log_std` and `log_std_floor`.
        shape: of the parameter.

    Raises:
        InputError: the start value is not above the floor.
    """

    def __init__(self, config: TrainConfig, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.floor = config.log_std_floor
        span = config.init_log_std - self.floor
        if span <= 0:
            raise InputError(f"init_log_std {config.init_log_std} is not above log_std_floor {self.floor}: raise it or lower the floor", field="init_log_std")
        self.raw = span + math.log(-math.expm1(-span))  # softplus(raw) = span
        self.offset = nn.Parameter(torch.zeros(shape))

    def forward(self) -> torch.Tensor:
        """log sigma, the shape given."""
        return self.floor + nn.functional.softplus(self.raw + GAIN * self.offset)
