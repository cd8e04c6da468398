"""What PPO and TRPO share: the loss of recorded pairs, the critic's step, and the figures they gather."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import nn

from backend.diffusion.kernel import Gaussian
from backend.diffusion.trajectory import Transitions
from backend.policies.base import Policy
from backend.ppo.batch import Batch
from backend.ppo.losses import clipped_surrogate, value_loss
from backend.ppo.ranks import Ranks
from backend.ppo.stats import UpdateStats

MEMORY_GUARD = 4.0  # replayed pairs whose joint log-ratio exceeds this many clip ranges are left out


@dataclass
class Settings:
    """What an update needs of the configuration at this moment.

    `clip_range` is per action element; `target_kl` in joint nats; `micro_batch` counts pairs replayed at once (0: as many as a minibatch has images).
    """

    clip_range: float
    target_kl: float
    epochs: int
    minibatches: int
    micro_batch: int
    max_grad_norm: float
    vf_coef: float
    clip_range_value: float
    entropy_coef: float
    kl_base_coef: float
    base_share: float = 1.0  # share of the pairs whose base mean is known
    pathwise: float = 0.0  # share of the pathwise gradient where there is one


@dataclass
class Tally:
    """Per-pair figures gathered over an update, kept on the device until its end."""

    rows: dict[str, list[torch.Tensor]] = field(default_factory=dict)
    skipped: int = 0
    steps: int = 0
    clipped_steps: int = 0
    early_stopped: bool = False
    norms: list[float] = field(default_factory=list)
    norms_after: list[float] = field(default_factory=list)
    critic_norms: list[float] = field(default_factory=list)
    last_kl: float = 0.0

    def add(self, **values: torch.Tensor) -> None:
        """Keep detached values [m] by name."""
        for name, value in values.items():
            self.rows.setdefault(name, []).append(value.detach())

    def gather(self, ranks: Ranks) -> None:
        """Take in what the other processes gathered."""
        everywhere = ranks.gather({name: torch.cat(values).cpu() for name, values in self.rows.items()})
        self.rows = {name: [rows[name] for rows in everywhere if name in rows] for name in sorted(set().union(*everywhere))}

    def get(self, name: str) -> torch.Tensor:
        """Finite values gathered under a name; one zero where there are none."""
        values = torch.cat(self.rows[name]) if self.rows.get(name) else torch.zeros(1)
        values = values[values.isfinite()]
        return values if len(values) else torch.zeros(1)


def loss_scale_of(policy: Policy) -> float:
    """What a loss is multiplied by on its way back: losses are per action element, so in half precision their gradients would underflow; about d_a, a power of two."""
    return 2.0 ** round(math.log2(policy.action_dimension)) if policy.backbone.dtype != torch.float32 else 1.0


def pair_loss(policy: Policy, chunk: Batch, settings: Settings, tally: Tally) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed loss of some pairs, and the exact KL per action element of the fresh ones to the policy that sampled them [m].

    Clipped surrogate, minus the entropy bonus of a learned spread, plus the penalty on KL to the base where base means are known.
    Where the pairs carry pulls, surrogate and pathwise term are mixed. Both estimate the gradient of the same expected reward
    without bias, and so does every mixture of them (as in PIPPS: Parmas et al. 2018, arXiv 1902.01240). A replayed pair keeps the
    pull of its own rollout, as it keeps its advantage: a first-order estimate at a policy near by, and left out where that is too far.
    """
    t = chunk.transitions
    log_prob, entropy, distribution = policy.evaluate(t)
    log_ratio = log_prob - t.log_prob
    seen = log_ratio.detach()
    stale = ~chunk.fresh & ((seen.abs() > MEMORY_GUARD * settings.clip_range) | ~seen.isfinite())
    surrogate = clipped_surrogate(torch.where(stale, 0.0, log_ratio), torch.where(stale, 0.0, chunk.advantages), settings.clip_range)
    share = 0.0 if t.pull is None else settings.pathwise
    tally.add(stale=stale.float())
    kl = distribution.kl_from(t.mean, t.log_std)
    loss = (1 - share) * surrogate.sum()
    if share:
        loss = loss - share * torch.where(stale, 0.0, pathwise_gain(distribution, t)).sum()
    if settings.entropy_coef:
        loss = loss - settings.entropy_coef * torch.where(stale, 0.0, entropy).sum()
    base, known = (torch.zeros_like(t.mean), torch.ones_like(chunk.fresh)) if policy.base_is_zero else (t.base_mean, t.base_known)
    if base is not None:
        counted = known & ~stale  # what is left out of the reward's part pays no penalty either
        kl_base = torch.where(counted, distribution.mean_shift_kl(base), 0.0)
        tally.add(kl_base=kl_base[counted])
        if settings.kl_base_coef:
            # The pairs with a known base mean stand for all: an unbiased estimate of the penalty.
            loss = loss + settings.kl_base_coef * kl_base.sum() / settings.base_share
    ratio = seen.exp()
    tally.add(surrogate=surrogate, entropy=entropy, kl=kl[chunk.fresh], ratio=ratio, up=(ratio > 1 + settings.clip_range).float(), down=(ratio < 1 - settings.clip_range).float())
    return loss, kl.detach()[chunk.fresh]


def pathwise_gain(distribution: Gaussian, transitions: Transitions) -> torch.Tensor:
    """First-order gain in advantage per action element [m] where the same noise gives the present policy's action."""
    t = transitions
    noise = (t.action - t.mean) * torch.exp(-t.log_std)
    return (t.pull * (distribution.sample(noise) - t.action)).flatten(1).mean(1)


def critic_step(critic: nn.Module, optimiser: torch.optim.Optimizer, part: Batch, settings: Settings, tally: Tally) -> bool:
    """One step of the value network on its own optimiser; False where its loss is not finite."""
    optimiser.zero_grad(set_to_none=True)
    values = critic(part.transitions.embeds, part.transitions.timestep)
    losses = value_loss(values, part.values, part.returns, settings.clip_range_value)
    loss = settings.vf_coef * losses.mean()
    if not bool(loss.isfinite()):
        return False
    loss.backward()
    tally.critic_norms.append(float(torch.nn.utils.clip_grad_norm_(critic.parameters(), settings.max_grad_norm)))
    optimiser.step()
    tally.add(value_loss=losses)
    return True


def fill_stats(stats: UpdateStats, tally: Tally, settings: Settings, dimension: int) -> None:
    """Write what an update gathered into its report."""
    ratio = tally.get("ratio") if tally.rows.get("ratio") else torch.ones(1)
    kl_base = float(tally.get("kl_base").mean())
    stats.actor_loss = float(tally.get("surrogate").mean())
    stats.critic_loss = float(tally.get("value_loss").mean())
    stats.entropy = float(tally.get("entropy").mean())
    stats.entropy_loss = -settings.entropy_coef * stats.entropy
    stats.kl_divergence = float(tally.get("kl").mean()) * dimension
    stats.kl_base = kl_base * dimension
    stats.distance_to_base = (2 * max(kl_base, 0.0)) ** 0.5
    stats.ratio_mean, stats.ratio_max = float(ratio.mean()), float(ratio.max())
    stats.ratio_std = float(ratio.std(correction=0))
    stats.clip_fraction_up, stats.clip_fraction_down = float(tally.get("up").mean()), float(tally.get("down").mean())
    stats.grad_norm_actor, stats.grad_norm_actor_after = _mean(tally.norms), _mean(tally.norms_after)
    stats.grad_norm_critic = _mean(tally.critic_norms)
    stats.grad_clipped = tally.clipped_steps / max(1, tally.steps)
    stats.skipped_nonfinite += tally.skipped
    stats.early_stopped = float(tally.early_stopped)
    stats.optimiser_steps = float(tally.steps)
    stats.samples_used = float(sum(len(v) for v in tally.rows.get("ratio", [])))
    stats.replayed_dropped = float(tally.get("stale").sum())


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
