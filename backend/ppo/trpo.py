"""Trust-region policy optimisation (Schulman et al. 2015, arXiv 1502.05477): a natural-gradient step inside a KL bound."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from backend.diffusion.sampler import ShouldStop, check_stop
from backend.policies.base import Policy
from backend.ppo.batch import Batch
from backend.ppo.noise_scale import GradientNoiseScale
from backend.ppo.objective import Settings, Tally, critic_step, loss_scale_of, pair_loss

CG_ITERATIONS = 5  # on the embedded model they find 96 % of the gain per nat that ten find, at half the price
DAMPING = 0.1  # times the Fisher matrix's Rayleigh quotient at the gradient
BACKTRACKS = 10
FISHER_PAIRS = 16


def conjugate_gradient(product: Callable[[torch.Tensor], torch.Tensor], target: torch.Tensor, iterations: int = CG_ITERATIONS, tolerance: float = 1e-10) -> torch.Tensor:
    """x with A x = target for a symmetric positive definite A given by its products (Hestenes & Stiefel 1952)."""
    x = torch.zeros_like(target)
    residual, direction = target.clone(), target.clone()
    square = residual.dot(residual)
    for _ in range(iterations):
        if square <= tolerance * target.dot(target):
            break
        image = product(direction)
        step = square / direction.dot(image)
        x = x + step * direction
        residual = residual - step * image
        following = residual.dot(residual)
        direction = residual + following / square * direction
        square = following
    return x


def kl_bound(clip_nats: float) -> float:
    """Joint KL per action that a step may reach: clip^2 / 4, which is the usual 0.01 nats at the usual clip range 0.2."""
    return clip_nats**2 / 4


class TRPO:
    """Steps of a policy inside a KL bound; its learned spread and its critic, where there are any, take ordinary steps.

    For a diagonal Gaussian the Fisher matrix has a block for the mean and one for a spread that all states share. They are stepped apart: the
    entropy bonus does not come in the reward's units, so that in one natural gradient it would take the whole step, whatever its coefficient.

    Args:
        policy: what is trained.
        optimiser: over `policy.trainable()`; it steps the spread.
        noise_scale: running estimate that the gradients of the group's minibatches feed.
        critic, critic_optimiser: the value network, or None.

    Cost: one gradient over the group, seven Fisher products over at most 16 pairs, and one forward per backtracking step.
    """

    def __init__(
        self,
        policy: Policy,
        optimiser: torch.optim.Optimizer,
        critic: nn.Module | None,
        critic_optimiser: torch.optim.Optimizer | None,
        noise_scale: GradientNoiseScale,
    ) -> None:
        self.policy, self.optimiser, self.critic, self.critic_optimiser, self.noise_scale = policy, optimiser, critic, critic_optimiser, noise_scale
        self.loss_scale = loss_scale_of(policy)

    def run(self, batch: Batch, settings: Settings, generator: torch.Generator, should_stop: ShouldStop | None = None) -> Tally:
        """One step; parameters are changed in place, or not at all where no step inside the bound improves the surrogate.

        Raises:
            Stopped: between micro-batches, with the parameters as they were.
        """
        tally, used = Tally(), batch.used()
        if not len(used):
            return tally
        before, gradient = self._gradient(batch, settings, tally, generator, should_stop)
        sound = bool(gradient.isfinite().all()) and math.isfinite(before)
        size = sum(p.numel() for p in self._parameters())
        gradient, of_spread = gradient[:size], gradient[size:]
        if not sound or not bool(gradient.any()):
            # Pairs in use have a gradient: zeros have underflowed, unless all pairs are too old to count.
            tally.skipped += int(not (sound and bool(tally.get("stale").all())))
            return tally
        chosen = torch.randperm(len(used), generator=generator)[:FISHER_PAIRS].to(used.image.device)
        part = used.take(chosen)
        damping = DAMPING * float(gradient.dot(self.fisher_product(part, gradient)) / gradient.dot(gradient))

        def product(v: torch.Tensor) -> torch.Tensor:
            check_stop(should_stop)
            return self.fisher_product(part, v) + damping * v

        direction = conjugate_gradient(product, -gradient)
        curvature = float(direction.dot(product(direction)))
        bound = kl_bound(settings.clip_range * self.policy.action_dimension)
        if not (math.isfinite(curvature) and curvature > 0):
            tally.skipped += 1
            return tally
        self._line_search(used, settings, tally, direction * math.sqrt(2 * bound / curvature), before, bound, should_stop)
        if tally.steps and len(of_spread):
            self._step_spread(of_spread, settings)
        tally.norms.append(float(gradient.norm()))
        tally.norms_after.append(float(gradient.norm()))
        if self.critic is not None:
            for _ in range(settings.epochs):
                critic_step(self.critic, self.critic_optimiser, used, settings, tally)
        return tally

    def _parameters(self) -> list[nn.Parameter]:
        """Those of the mean."""
        spread = {id(p) for p in self.policy.spread_parameters()}
        return [p for p in self.policy.trainable().values() if id(p) not in spread]

    def _step_spread(self, gradient: torch.Tensor, settings: Settings) -> None:
        """One step of the optimiser, which leaves alone what has no gradient."""
        self.optimiser.zero_grad(set_to_none=True)
        spread = self.policy.spread_parameters()
        for p, part in zip(spread, gradient.split([p.numel() for p in spread]), strict=True):
            p.grad = part.view_as(p).to(p)
        nn.utils.clip_grad_norm_(spread, settings.max_grad_norm)
        self.optimiser.step()

    def _gradient(self, batch: Batch, settings: Settings, tally: Tally, generator: torch.Generator, should_stop: ShouldStop | None) -> tuple[float, torch.Tensor]:
        """Loss and its flat gradient at the present weights, the spread's last, taken minibatch by minibatch for what these say of its noise."""
        parameters, pairs = [*self._parameters(), *self.policy.spread_parameters()], len(batch.used())
        total, parts = 0.0, []
        for part, _ in batch.minibatches(settings.minibatches, generator):
            used = part.used()
            if not len(used):
                continue
            flat = torch.zeros(sum(p.numel() for p in parameters), device=parameters[0].device)
            for chunk in used.split(settings.micro_batch):
                check_stop(should_stop)
                loss, _ = pair_loss(self.policy, chunk, settings, tally)
                flat += _flat(torch.autograd.grad(loss / len(used) * self.loss_scale, parameters, allow_unused=True), parameters).float() / self.loss_scale
                total += float(loss.detach()) / pairs
            parts.append((flat, len(used) / pairs))
        gradient = torch.stack([flat * share for flat, share in parts]).sum(dim=0)
        if bool(gradient.isfinite().all()):
            self.noise_scale.observe([flat for flat, _ in parts], max(1, batch.images // settings.minibatches))
        return total, gradient

    def fisher_product(self, part: Batch, v: torch.Tensor) -> torch.Tensor:
        """F v: the Hessian by the mean's parameters of the mean joint KL to the present policy, times a flat vector; exact, by two backward passes."""
        parameters, unit = self._parameters(), 1.0
        if self.loss_scale != 1:  # in half precision v goes through at about length 1: F v is linear in v, and a gradient is tiny
            unit = v.norm().clamp_min(1e-30).log2().floor().exp2()
        with _twice_differentiable():
            distribution = self.policy.distribution(part.transitions)
            kl = distribution.kl_from(distribution.mean.detach(), distribution.log_std.detach()).mean() * self.policy.action_dimension
            first = _flat(torch.autograd.grad(kl, parameters, create_graph=True, allow_unused=True), parameters)
            return _flat(torch.autograd.grad(first.dot(v / unit), parameters, allow_unused=True), parameters).detach().float() * unit

    def _line_search(self, used: Batch, settings: Settings, tally: Tally, step: torch.Tensor, before: float, bound: float, should_stop: ShouldStop | None) -> None:
        """Halve the step until the loss falls and the KL is within its bound; else put the parameters back."""
        saved = [p.detach().clone() for p in self._parameters()]
        accepted = False
        try:
            for attempt in range(BACKTRACKS):
                _move(self._parameters(), saved, step * 0.5**attempt)
                loss, kl, probe = self._measure(used, settings, should_stop)
                if loss < before and kl <= bound:
                    accepted = True
                    tally.steps, tally.last_kl, tally.rows = 1, kl, probe.rows
                    break
        finally:
            if not accepted:
                _move(self._parameters(), saved, torch.zeros_like(step))

    def _measure(self, used: Batch, settings: Settings, should_stop: ShouldStop | None) -> tuple[float, float, Tally]:
        """Loss and mean joint KL over all pairs."""
        probe, total, kls = Tally(), 0.0, []
        with torch.no_grad():
            for chunk in used.split(settings.micro_batch):
                check_stop(should_stop)
                loss, kl = pair_loss(self.policy, chunk, settings, probe)
                total += float(loss.detach()) / len(used)
                kls.append(kl)
        kl = torch.cat(kls)
        return total, float(kl.mean()) * self.policy.action_dimension if len(kl) else 0.0, probe


def _flat(gradients: tuple[torch.Tensor | None, ...], parameters: list[nn.Parameter]) -> torch.Tensor:
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(gradients, parameters, strict=True)])


def _move(parameters: list[nn.Parameter], origin: list[torch.Tensor], step: torch.Tensor) -> None:
    with torch.no_grad():
        offset = 0
        for p, start in zip(parameters, origin, strict=True):
            p.copy_(start + step[offset : offset + p.numel()].view_as(p))
            offset += p.numel()


def _twice_differentiable() -> AbstractContextManager:
    """Attention by its plain formula: the fused kernels have no second derivative."""
    return sdpa_kernel(SDPBackend.MATH)
