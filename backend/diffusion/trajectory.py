"""What a rollout recorded, and flat slices of it for replay."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch

FIRST = {"images", "guidance", "embeds"}  # tensors of a trajectory that begin with the image; the others begin with the step


@dataclass
class Transitions:
    """m (image, step) pairs; everything a policy needs to score an action again.

    Attributes:
        state: what the action was chosen from [m, ...] float32.
        action: the sampled action [m, ...] float32.
        mean, log_std: of the policy that sampled it; [m, ...] and broadcastable to it.
        log_prob: per action element in nats [m].
        timestep, alpha, alpha_prev: of the denoising step [m] float64.
        guidance: [m].
        embeds: prompt embeddings [m, L, E].
        image, step: index of the image in the group and of the trained step in the window [m] long.
        base_mean, base_known: mean of the base model [m, ...] and for which pairs it was computed [m] bool; None where for none.
        pull: pathwise gradient of the advantage by the action [m, ...]; None where it was not computed.
    """

    state: torch.Tensor
    action: torch.Tensor
    mean: torch.Tensor
    log_std: torch.Tensor
    log_prob: torch.Tensor
    timestep: torch.Tensor
    alpha: torch.Tensor
    alpha_prev: torch.Tensor
    guidance: torch.Tensor
    embeds: torch.Tensor
    image: torch.Tensor
    step: torch.Tensor
    base_mean: torch.Tensor | None = None
    base_known: torch.Tensor | None = None
    pull: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.log_prob)

    def take(self, index: torch.Tensor | slice) -> Transitions:
        """Some of the pairs."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return Transitions(**{name: None if v is None else v[index] for name, v in values.items()})

    @staticmethod
    def join(parts: list[Transitions]) -> Transitions:
        """Pairs of several groups one after another; what some groups lack (base means, pulls) is left out."""
        joined = {}
        for f in fields(Transitions):
            values = [getattr(p, f.name) for p in parts]
            joined[f.name] = None if any(v is None for v in values) else torch.cat(values)
        return Transitions(**joined)

    def split(self, size: int) -> list[Transitions]:
        """Chunks of at most `size` pairs."""
        return [self.take(slice(start, start + size)) for start in range(0, len(self), size)]


@dataclass
class Trajectory:
    """One group's rollout.

    Attributes:
        images: [B, 3, h, w] in [0, 1].
        path: latents before each of the T steps and after the last [T+1, B, C, H, W].
        states: what each action was chosen from [K, B, ...].
        actions, means: [K, B, ...]; log_stds broadcastable to them; log_probs per action element in nats [K, B].
        timesteps, alphas, alphas_prev: of the trained steps [K, B] float64.
        guidance: [B].
        embeds: [B, L, E].
        schedule_timesteps: all T steps of each image [T, B] float64.
        seeds: noise seed of each image [B].
        window: (first trained step, K).
    """

    images: torch.Tensor
    path: torch.Tensor
    states: torch.Tensor
    actions: torch.Tensor
    means: torch.Tensor
    log_stds: torch.Tensor
    log_probs: torch.Tensor
    timesteps: torch.Tensor
    alphas: torch.Tensor
    alphas_prev: torch.Tensor
    guidance: torch.Tensor
    embeds: torch.Tensor
    schedule_timesteps: torch.Tensor
    seeds: list[int]
    window: tuple[int, int]

    def __len__(self) -> int:
        return len(self.seeds)

    @property
    def final_latents(self) -> torch.Tensor:
        """x_0 [B, C, H, W]."""
        return self.path[-1]

    @property
    def steps(self) -> int:
        """K: actions per image."""
        return len(self.actions)

    def slice(self, index: torch.Tensor) -> Trajectory:
        """The rollout of some of the images [b] long."""
        values = {name: value[index] if name in FIRST else value[:, index] for name, value in self._tensors().items()}
        return replace(self, **values, seeds=[self.seeds[i] for i in index.tolist()])

    @staticmethod
    def join(parts: list[Trajectory]) -> Trajectory:
        """The rollout of the images of several, in order."""
        values = {name: torch.cat([getattr(part, name) for part in parts], 0 if name in FIRST else 1) for name in parts[0]._tensors()}
        return replace(parts[0], **values, seeds=[seed for part in parts for seed in part.seeds])

    def to(self, device: torch.device | str) -> Trajectory:
        """The same on another device."""
        return replace(self, **{name: value.to(device) for name, value in self._tensors().items()})

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {f.name: value for f in fields(self) if isinstance(value := getattr(self, f.name), torch.Tensor)}

    def transitions(self, index: torch.Tensor, steps: torch.Tensor | None = None) -> Transitions:
        """The (image, step) pairs of some images [b] long and steps (default all K), image by image: m = b K."""
        index = index.to(self.log_probs.device)
        steps = torch.arange(self.steps, device=index.device) if steps is None else steps
        image, step = index.repeat_interleave(len(steps)), steps.repeat(len(index))
        per_step = {
            "state": self.states, "action": self.actions, "mean": self.means, "log_std": self.log_stds, "log_prob": self.log_probs,
            "timestep": self.timesteps, "alpha": self.alphas, "alpha_prev": self.alphas_prev,
        }  # fmt: skip
        return Transitions(**{name: v[step, image] for name, v in per_step.items()}, guidance=self.guidance[image], embeds=self.embeds[image], image=image, step=step)
