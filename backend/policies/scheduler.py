"""SCHEDULER_POLICY: chooses the sequence of noise levels and the guidance for each prompt."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from backend.config import TrainConfig
from backend.diffusion.backbone import Backbone
from backend.diffusion.kernel import Gaussian
from backend.diffusion.noise import NoiseSource, mix
from backend.diffusion.sampler import Action, Plan
from backend.diffusion.schedule import Schedule, alpha_at
from backend.diffusion.trajectory import Transitions
from backend.errors import InputError
from backend.policies.base import Policy
from backend.policies.initial import initialise, pool_text
from backend.policies.spread import LogStd

INIT_STREAM = 1 << 24
HIDDEN = 64
MEAN_GAIN = 1.0  # lets the mean cross its useful range (about 1) in some thirty updates at the common learning rate; three times as fast it wandered
GUIDANCE_SPAN = 19.0
EDGE = 1e-3
SHAPES = 4  # cosines over the steps that stretch the increments: enough for any even change of spacing, too few to jump from step to step
SHAPE_GAIN = 2.0  # amplitude of the first cosine at u = 1; the k-th has a k-th of it, as in the series of a power law's spacing
INCREMENT_LIMIT = 3.0  # an increment is stretched or shrunk by at most e^3
TIMESTEP_GRID, GUIDANCE_GRID = 4096, 1e6  # timesteps and guidance are rounded to these fractions, so that u = 0 gives the stock ones to the bit


class SchedulerPolicy(Policy):
    """One action per image: u of up to five elements, the shapes that stretch the T-1 increments of the noise level and the guidance. u = 0 is the base exactly.

    Shapes are the first cosines over the steps, so that what is explored are other spacings and not ragged ones, which spoil every
    picture. Denoising is deterministic. Scored is u before the squashing. An update needs no graph of the UNet but that of the
    pathwise gradient, which is walked back through every step to the timesteps and the guidance.
    """

    default_clip_nats = 0.2
    learns_std = True

    def __init__(self, config: TrainConfig, backbone: Backbone) -> None:
        super().__init__(config, backbone)
        if not 1.0 < config.guidance_scale < 1.0 + GUIDANCE_SPAN:
            raise InputError(
                f"guidance_scale {config.guidance_scale}: SCHEDULER_POLICY moves it inside 1 to 20; start from a value strictly between, as 7.5", field="guidance_scale"
            )
        generator = torch.Generator().manual_seed(mix(config.seed, INIT_STREAM))
        self.body = nn.Sequential(nn.Linear(backbone.null_embedding.shape[-1], HIDDEN), nn.Tanh())
        self.head = nn.Linear(HIDDEN, self.action_dimension)
        initialise(self, generator)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.spread = LogStd(config, (1, self.action_dimension))
        self.to(backbone.device)

    @property
    def action_dimension(self) -> int:
        """The shapes (T-1 increments with fixed ends have T-2 degrees of freedom, of which at most four are used) and one guidance value."""
        return min(SHAPES, max(0, self.config.num_inference_steps - 2)) + 1

    def _gaussian(self, pooled: torch.Tensor) -> Gaussian:
        mean = MEAN_GAIN * self.head(self.body(pooled))
        return Gaussian(mean, self.spread().expand(len(mean), -1))

    def distribution(self, transitions: Transitions) -> Gaussian:
        """The Gaussian over u for recorded prompts."""
        return self._gaussian(transitions.state)

    def plan(self, schedule: Schedule, embeds: torch.Tensor, noise: NoiseSource, guidance_scale: float, deterministic: bool) -> Plan:
        """Draw u once per image and turn it into noise levels and guidance."""
        pooled = pool_text(embeds)
        gaussian = self._gaussian(pooled)
        u = gaussian.mean if deterministic else gaussian.sample(noise.plan((self.action_dimension,)))
        return Plan(self.shaped(schedule, u[:, :-1]), self.guidance(u[:, -1], guidance_scale), Action(pooled, u, gaussian))

    def guidance(self, u: torch.Tensor, start: float) -> torch.Tensor:
        """1 + 19 sigmoid(u + offset) [m] float32, `start` at u = 0; a start moved to the very ends of the range while training counts as just inside."""
        share = min(max((start - 1) / GUIDANCE_SPAN, EDGE), 1 - EDGE)
        value = 1 + GUIDANCE_SPAN * torch.sigmoid(u.double() + math.log(share / (1 - share)))
        return rounded(value, GUIDANCE_GRID).float()

    def shaped(self, schedule: Schedule, u: torch.Tensor) -> Schedule:
        """Noise levels [T, m] whose increments are the stock ones, each stretched as u [m, shapes] says, rescaled to the stock end points."""
        stock = schedule.timesteps[:, :1].expand(-1, len(u))
        exponent = cosines(u.shape[1], len(stock) - 1).to(u.device).T @ u.double().T
        stretch = torch.exp(INCREMENT_LIMIT * torch.tanh(exponent / INCREMENT_LIMIT))
        weight = (stock[:-1] - stock[1:]) * stretch
        share = weight.cumsum(0) / weight.sum(0)
        inner = stock[:1] - share * (stock[:1] - stock[-1:])
        timesteps = rounded(torch.cat([stock[:1], inner]), TIMESTEP_GRID)
        ends = torch.minimum(timesteps[1:] + schedule.gap[:-1, None], timesteps[:-1])
        table = self.backbone.alphas_cumprod
        alphas_prev = torch.cat([alpha_at(table, ends), schedule.alphas_prev[-1:, :1].expand(-1, len(u))])
        return Schedule(timesteps, alpha_at(table, timesteps), alphas_prev, schedule.gap)

    def describe(self, embeds: torch.Tensor | None = None) -> dict[str, Any]:
        """JSON-able facts: for each prompt of `embeds` [P, L, E] (default: the empty one) the mean action's timesteps, implied betas and guidance."""
        with torch.no_grad():
            pooled = pool_text(self.backbone.null_embedding[None] if embeds is None else embeds.to(self.backbone.device))
            gaussian = self._gaussian(pooled)
            stock = self.backbone.schedule(self.config.num_inference_steps).expand(len(pooled))
            schedule = self.shaped(stock, gaussian.mean[:, :-1])
            guidance = self.guidance(gaussian.mean[:, -1], self.config.guidance_scale)
            curves = {
                "timesteps": schedule.timesteps.T.tolist(), "betas": _betas(schedule).T.tolist(), "stock_timesteps": stock.timesteps[:, 0].tolist(),
                "stock_betas": _betas(stock)[:, 0].tolist(), "guidance": guidance.tolist(), "stock_guidance": self.config.guidance_scale, "std": gaussian.log_std[0].exp().tolist(),
            }  # fmt: skip
        return super().describe(embeds) | curves


def cosines(count: int, steps: int) -> torch.Tensor:
    """The first `count` cosines over `steps` increments, the k-th with the amplitude `SHAPE_GAIN` / k: [count, steps] float64."""
    k = torch.arange(1, count + 1, dtype=torch.float64)[:, None]
    return SHAPE_GAIN / k * torch.cos(math.pi * k * (torch.arange(steps, dtype=torch.float64) + 0.5) / steps)


def rounded(value: torch.Tensor, grid: float) -> torch.Tensor:
    """Rounded to the nearest 1/grid; differentiated as if it were not (straight through)."""
    return value.detach().mul(grid).round().div(grid) + (value - value.detach())


def _betas(schedule: Schedule) -> torch.Tensor:
    """Noise that one sampling step stands for, 1 - alpha_t / alpha_prev."""
    return 1 - schedule.alphas / schedule.alphas_prev
