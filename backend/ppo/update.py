"""One PPO update: minibatches, micro-batches, guards and early stop."""

from __future__ import annotations

import torch

from backend.diffusion.sampler import ShouldStop, check_stop
from backend.policies.base import Policy
from backend.ppo.batch import Batch
from backend.ppo.noise_scale import GradientNoiseScale
from backend.ppo.objective import Settings, Tally, critic_step, loss_scale_of, pair_loss
from backend.ppo.ranks import Ranks


class PPO:
    """Clipped-surrogate updates of a policy and, where there is one, its critic.

    Args:
        policy: what is trained.
        optimiser: over `policy.trainable()`.
        critic, critic_optimiser: the value network, or None.
        noise_scale: running estimate that the minibatch gradients feed.
    """

    def __init__(
        self,
        policy: Policy,
        optimiser: torch.optim.Optimizer,
        critic: torch.nn.Module | None,
        critic_optimiser: torch.optim.Optimizer | None,
        noise_scale: GradientNoiseScale,
    ) -> None:
        self.policy, self.optimiser, self.critic, self.critic_optimiser, self.noise_scale = policy, optimiser, critic, critic_optimiser, noise_scale
        self.ranks = Ranks()
        self.loss_scale = loss_scale_of(policy)

    def run(self, batch: Batch, settings: Settings, generator: torch.Generator, should_stop: ShouldStop | None = None) -> Tally:
        """Epochs over a batch; parameters are changed in place.

        Raises:
            Stopped: between micro-batches; a begun minibatch is discarded.
        """
        tally = Tally()
        for epoch in range(settings.epochs):
            gradients: list[torch.Tensor] = []
            for part, images in batch.minibatches(settings.minibatches, generator):
                first = self._minibatch(part, images, settings, tally, should_stop)
                if first is not None and epoch == 0:
                    gradients.append(first)
                if tally.last_kl > settings.target_kl:
                    tally.early_stopped = True
                    break
            self.noise_scale.observe(gradients, max(1, batch.images // settings.minibatches))
            if tally.early_stopped:
                break
        if self.ranks.size > 1:
            tally.gather(self.ranks)
        return tally

    def _minibatch(self, part: Batch, images: int, settings: Settings, tally: Tally, should_stop: ShouldStop | None) -> torch.Tensor | None:
        """One optimiser step; returns the flat gradient, or None where nothing was stepped."""
        pairs, part = len(part), part.used()
        if not len(part):
            return None
        self.optimiser.zero_grad(set_to_none=True)
        kls, finite = [], True
        mine = part if self.ranks.size == 1 else part.take(self.ranks.share(len(part)).to(part.image.device))
        for chunk in mine.split(settings.micro_batch or images):
            check_stop(should_stop)
            loss, kl = pair_loss(self.policy, chunk, settings, tally)
            finite = finite and bool(loss.isfinite())
            if not finite:
                break
            (loss * (self.loss_scale / pairs)).backward()
            kls.append(kl)
        finite = all(self.ranks.gather(finite))
        kl = self.ranks.join(torch.cat(kls) if kls else torch.zeros(0))
        tally.last_kl = float(kl.mean()) * self.policy.action_dimension if len(kl) else 0.0
        if tally.last_kl > settings.target_kl:
            self.optimiser.zero_grad(set_to_none=True)
            return None
        if self.critic is not None:
            finite = critic_step(self.critic, self.critic_optimiser, part, settings, tally) and finite
        return self._step(settings, tally, finite)

    def _add_gradients(self) -> None:
        """Give every process the sum of all gradients; a parameter that had none anywhere keeps none."""
        parameters = list(self.policy.trainable().values())
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
        there = torch.tensor([p.grad is not None for p in parameters], dtype=flat.dtype, device=flat.device)
        total = self.ranks.total(torch.cat([flat, there]))
        for p, grad, known in zip(parameters, total[: len(flat)].split([p.numel() for p in parameters]), total[len(flat) :].tolist(), strict=True):
            p.grad = grad.view_as(p).clone() if known else None

    def _step(self, settings: Settings, tally: Tally, finite: bool) -> torch.Tensor | None:
        if self.ranks.size > 1 and finite:
            self._add_gradients()
        parameters = [p for p in self.policy.trainable().values() if p.grad is not None]
        for p in parameters if self.loss_scale != 1 else []:
            p.grad.div_(self.loss_scale)
        flat = torch.cat([p.grad.flatten() for p in parameters]) if finite and parameters else None
        norm = float(flat.norm()) if flat is not None else float("nan")
        if flat is None or not norm < float("inf"):
            self.optimiser.zero_grad(set_to_none=True)
            tally.skipped += 1
            return None
        torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
        self.optimiser.step()
        tally.steps += 1
        tally.clipped_steps += norm > settings.max_grad_norm
        tally.norms.append(norm)
        tally.norms_after.append(min(norm, settings.max_grad_norm))
        return flat
