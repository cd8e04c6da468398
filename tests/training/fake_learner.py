"""A learner of a few hundred numbers that keeps every promise of the real one: the trainer's mechanics without a model."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace

import torch

from backend.config import TrainConfig, make_config
from backend.diffusion.sampler import check_stop
from backend.ppo.ranks import Ranks
from backend.runs import Run, RunStore
from backend.training.control import Control
from backend.training.session import Session
from backend.training.trainer import train

SIDE = 8


class FakePolicy:
    def __init__(self) -> None:
        self.weight = torch.nn.Parameter(torch.zeros(3, SIDE, SIDE))
        self.trainable_count = self.weight.numel()


class FakeAgent:
    """Images are noise by seed plus a learned picture; the update pulls the picture toward well-paid noise."""

    wants_twins = wants_image_gradient = False

    def __init__(self, config: TrainConfig, step_seconds: float = 0.0, nan_from: tuple[int, ...] = ()) -> None:
        self.config, self.policy, self.step_seconds, self.nan_from = config, FakePolicy(), step_seconds, nan_from
        self.optimiser = torch.optim.Adam([self.policy.weight], lr=config.learning_rate)
        self.baseline = 0.0
        self.rolled = []
        self.ranks = Ranks()

    @property
    def clip_nats(self) -> float:
        return self.clip_nats_of(self.config)

    def clip_nats_of(self, config: TrainConfig) -> float:
        return config.clip_range_nats

    def join_ranks(self, ranks: Ranks) -> None:
        self.ranks = ranks

    def rollout(self, prompt_embeds, seeds, episode=0, deterministic=False, use_ema=False, should_stop=None, base=False, guidance_scale=None):
        guidance = self.config.guidance_scale if guidance_scale is None else guidance_scale
        own = [seeds[i] for i in self.ranks.share(len(seeds))]
        noise = self.ranks.join(torch.stack([torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)) for seed in own]) if own else None)
        for _ in range(self.config.num_inference_steps):
            check_stop(should_stop)
            time.sleep(self.step_seconds)
        weight = torch.zeros_like(self.policy.weight) if base else self.policy.weight.detach()
        images = (0.5 + 0.1 * noise + weight + 0.01 * (guidance - 7.5)).clamp(0, 1)
        self.rolled.append((episode, tuple(seeds), base))
        return SimpleNamespace(images=images, log_probs=-0.5 * noise.flatten(1).pow(2).mean(1).expand(2, -1), noise=noise, episode=episode)

    def describe(self, prompt_embeds, use_ema=True, base=False):
        return {"policy": "FakePolicy", "parameters": self.policy.trainable_count}

    def update(self, trajectory, total_reward, prompt_index, prompt_embeds, generator, should_stop=None, group_score=None, baseline=None, image_gradient=None):
        order = torch.randperm(len(total_reward), generator=generator)
        finite = trajectory.episode not in self.nan_from
        for part in order.chunk(2):
            check_stop(should_stop)
            time.sleep(self.step_seconds)
            loss = -((total_reward[part, None, None, None] - self.baseline) * trajectory.noise[part] * self.policy.weight).mean()
            self.optimiser.zero_grad()
            loss.backward()
            if finite:
                self.optimiser.step()
        self.baseline = 0.9 * self.baseline + 0.1 * float(total_reward.mean())
        check_stop(should_stop)
        stats = {"actor_loss": float(loss.detach()), "critic_loss": 0.0, "grad_norm_actor": float(self.policy.weight.grad.norm()), "learning_rate": self.config.learning_rate}
        stats |= {"skipped_nonfinite": float(not finite), "optimiser_steps": float(finite), "kl_divergence": 0.5}
        return SimpleNamespace(to_dict=lambda: stats)

    def set_knob(self, name, value):
        self.config = make_config({**self.config.model_dump(), name: value})
        if name == "learning_rate":
            self.optimiser.param_groups[0]["lr"] = value

    def state_dict(self):
        moments = self.optimiser.state.get(self.policy.weight, {})
        tensors = {"weight": self.policy.weight.detach().clone(), **{k: torch.as_tensor(v).clone() for k, v in moments.items()}}
        return {"tensors": tensors, "scalars": {"baseline": self.baseline, "learning_rate": self.config.learning_rate, "guidance_scale": self.config.guidance_scale}}

    def load_state_dict(self, state):
        tensors = state["tensors"]
        with torch.no_grad():
            self.policy.weight.copy_(tensors["weight"])
        self.optimiser.state.clear()
        if "step" in tensors:
            self.optimiser.state[self.policy.weight] = {k: tensors[k].clone() for k in ("step", "exp_avg", "exp_avg_sq")}
        self.baseline = state["scalars"]["baseline"]
        for name in ("learning_rate", "guidance_scale"):
            self.set_knob(name, state["scalars"][name])

    def save_policy(self, folder):
        (folder / "policy.bin").write_bytes(self.policy.weight.detach().numpy().tobytes())


@dataclass
class FakeReward:
    """Score: spread of the group; credit: distance from a remembered mean image."""

    memory: torch.Tensor = field(default_factory=lambda: torch.zeros(3, SIDE, SIDE))
    weight: float = 1.0
    scores_alone = True
    reference_share = 1.0

    def whole_reference(self):
        return nullcontext()

    def score_set(self, images, captions):
        small = torch.nn.functional.interpolate(images, size=(SIDE, SIDE))
        return float(small.flatten(1).std(0, unbiased=False).mean() + small.mean())

    def probe(self, images, captions):
        return {"score": self.score_set(images, captions), "quality": float(images.mean()), "adherence": None}

    def __call__(self, images, captions, prompt_index):
        credit = (images - self.memory).flatten(1).mean(1)
        self.memory = 0.9 * self.memory + 0.1 * images.mean(0)
        explanations = [{"attraction": float(c), "repulsion": 0.0, "companion": 0, "companion_kind": "group", "note": "<i>"} for c in credit]
        return SimpleNamespace(
            score=self.score_set(images, captions), total=self.weight * credit, components={"diversity": credit, "entropy": credit * 0}, scores={},
            raw_components={"diversity": credit * 2, "entropy": credit * 0}, explanations=explanations, features=images.flatten(1),
        )  # fmt: skip

    def set_weight(self, name, value):
        self.weight = value

    def set_reference_share(self, share):
        self.reference_share = share

    def state_dict(self):
        return {"memory": self.memory.clone(), "weight": self.weight}

    def load_state_dict(self, state):
        self.memory, self.weight = state["memory"].clone(), state["weight"]


def fake_build(step_seconds: float = 0.0, nan_from: tuple[int, ...] = (), keep: list | None = None, start_seconds: float = 0.0):
    """A `build` for `train`; the session it makes is appended to `keep`."""

    def build(config, say=lambda phase: None):
        say("loading the model")
        time.sleep(start_seconds)
        embeds = torch.zeros(5, 2, 3)
        prompts = [f"prompt {i} <img src=x onerror=alert(1)>" for i in range(5)]
        reference = torch.rand(12, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
        session = Session(FakeAgent(config, step_seconds, nan_from), lambda base: FakeReward(), prompts, prompts[:3], embeds, embeds[:3], reference, [])
        if keep is not None:
            keep.append(session)
        return session

    return build


SMALL = {
    "episodes": 12, "prompts_per_group": 2, "images_per_prompt": 2, "num_inference_steps": 6, "window_start": 0, "window_size": 2,
    "save_every": 4, "sample_every": 5, "probe_every": 5,
    "probe_images": 3, "eval_images": 0, "learning_rate": 0.01, "lr_scheduler": "constant", "threads": 1,
}  # fmt: skip


def small_config(**values) -> TrainConfig:
    """Settings of a run that takes a fraction of a second."""
    return TrainConfig(**{**SMALL, **values})


def finished(store: RunStore, config: TrainConfig, control: Callable[[Run], Control] | None = None, **keywords):
    """A run of the fake learner to its end, and the state it ended in."""
    run = store.create(config)
    state = train(config, run, control(run) if control else None, build=fake_build(**keywords))
    return run, state


def rows(run: Run, name: str) -> list[dict[str, str]]:
    """A table of a run as it stands on disk."""
    with open(run.table_path(name), newline="") as file:
        return list(csv.DictReader(file))


@contextmanager
def environment(**values: str):
    """Environment variables for the block only."""
    before = {k: os.environ.get(k) for k in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for k, v in before.items():
            os.environ.pop(k) if v is None else os.environ.__setitem__(k, v)
