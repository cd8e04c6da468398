"""`python -m backend doctor`: is everything here that training needs, and does it do what it says?"""

from __future__ import annotations

import platform
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from backend.config import TrainConfig, make_config
from backend.errors import InputError

app = typer.Typer()
GIB = 2**30
NUDGE = 1e-5  # a hundredth of Adam's first step: what it does to a policy is rounding, in fp32 a millionth of a nat
ROUNDED_SHARE = 0.1  # of the KL that ends an update: rounding alone may take no more of it
SMALL = {"prompts_per_group": 2, "images_per_prompt": 2, "num_inference_steps": 6, "window_start": 2, "window_size": 2}


@app.command("doctor")
def doctor(
    base_model: Annotated[str | None, typer.Option(help="Pipeline folder or hub id (default: the embedded model).")] = None,
    reference: Annotated[str | None, typer.Option(help="Folder of the reference set.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[str, typer.Option(help="fp32, bf16 or fp16, as the run will have it.")] = "fp32",
    train_prompts: Annotated[str | None, typer.Option(help="File of training prompts.")] = None,
    measure_costs: Annotated[bool, typer.Option("--measure-costs", help="Instead, measure the constants of the cost model on this machine and keep them.")] = False,
) -> None:
    """Check environment, device, memory, reference set, model, gradient flow, ratio = 1 and what rounding costs, each by name."""
    given = {"base_model": base_model, "reference": reference, "device": device, "precision": precision, "train_prompts": train_prompts}
    if measure_costs:
        from backend.training.measure import write_costs

        write_costs(make_config({k: v for k, v in given.items() if v is not None}))
        return
    config = make_config({**SMALL, **{k: v for k, v in given.items() if v is not None}})
    if not run_checks(config):
        sys.exit(1)


def run_checks(config: TrainConfig, say: Callable[[str], None] = print) -> bool:
    """All checks in order, one line each; whether all passed."""
    memory: dict[str, Any] = {}
    sound = True
    for name, check in CHECKS.items():
        began = time.monotonic()
        try:
            line = check(config, memory)
        except Exception as error:  # whatever a library says of this machine is a finding, and the other checks go on
            kind = "" if isinstance(error, (InputError, AssertionError)) else f"{type(error).__name__}: "
            line, passed = kind + " ".join(str(error).split())[:300], False
        else:
            passed = True
        sound = sound and passed
        say(f"{'ok  ' if passed else 'FAIL'} {name}: {line} ({time.monotonic() - began:.1f} s)")
    return sound


def _needed(memory: dict[str, Any], check: str) -> Any:
    """What an earlier check left.

    Raises:
        InputError: it did not get that far.
    """
    if check not in memory:
        raise InputError(f"not checked: needs the check {check!r} before it")
    return memory[check]


def _environment(config: TrainConfig, memory: dict[str, Any]) -> str:
    from backend.training.record import machine_record

    if not (3, 11) <= sys.version_info[:2] < (3, 13):
        raise InputError(f"Python {platform.python_version()}: use 3.11 or 3.12, `make env` makes such an environment")
    packages = machine_record(config)["packages"]
    lacking = [p for p in ("torch", "diffusers", "transformers", "peft", "safetensors") if p not in packages]
    if lacking:
        raise InputError(f"not installed: {', '.join(lacking)}; run `make env`")
    return f"Python {platform.python_version()}, " + ", ".join(f"{k} {v}" for k, v in packages.items())


def _device(config: TrainConfig, memory: dict[str, Any]) -> str:
    import torch

    from backend.features.device import resolve_device
    from backend.training.record import threads

    memory["device"] = resolve_device(config.device)
    if memory["device"].type == "cuda":
        return f"{memory['device']}: {torch.cuda.get_device_name(memory['device'])}"
    return f"{memory['device']}, {threads(config)} threads"


def _memory(config: TrainConfig, memory: dict[str, Any]) -> str:
    import psutil

    from backend.training.cost import estimate

    free, disk = psutil.virtual_memory().available / GIB, shutil.disk_usage(Path.cwd()).free / GIB
    need = estimate(TrainConfig()).memory_gib
    if free < need:
        raise InputError(f"{free:.1f} GiB of memory are free and the defaults need about {need:.1f}: close something, or lower prompts_per_group")
    if disk < 1:
        raise InputError(f"{disk:.2f} GiB of disk are free: a run writes up to 1 GiB")
    return f"{free:.1f} GiB of memory and {disk:.0f} GiB of disk are free; the defaults need about {need:.1f} GiB"


def _reference(config: TrainConfig, memory: dict[str, Any]) -> str:
    from backend.reference.dataset import load_reference

    return f"{load_reference(config.reference).label}, every checksum right"


def _prompts(config: TrainConfig, memory: dict[str, Any]) -> str:
    from backend.reference.prompts import load_prompts

    return f"{len(load_prompts(config.train_prompts))} for training, {len(load_prompts(config.test_prompts))} for tests"


def _model(config: TrainConfig, memory: dict[str, Any]) -> str:
    from backend.training.session import build_session

    memory["model"] = session = build_session(config)
    backbone = session.agent.backbone
    millions = sum(p.numel() for p in backbone.unet.parameters()) / 1e6
    return f"{config.base_model}: UNet of {millions:.1f} M parameters, latents {tuple(backbone.latent_shape)}, {backbone.prediction_type}"


def _rollout(config: TrainConfig, memory: dict[str, Any]) -> str:
    import torch

    from backend.training.seeds import choose_group

    session = _needed(memory, "model")
    index, seeds = choose_group(config, len(session.train_prompts), 1)
    trajectory = session.agent.rollout(session.train_embeds[index], seeds, 1)
    memory["rollout"] = index, trajectory
    again = session.agent.rollout(session.train_embeds[index], seeds, 1)
    assert torch.isfinite(trajectory.images).all(), "the model draws values that are not finite: use precision fp32"
    assert torch.equal(trajectory.images, again.images), "the same seeds gave other images: results on this device cannot be repeated exactly"
    return f"{len(seeds)} finite images, the same again from the same seeds"


def _ratio(config: TrainConfig, memory: dict[str, Any]) -> str:
    import torch

    (_, trajectory), agent = _needed(memory, "rollout"), _needed(memory, "model").agent
    worst = 0.0
    for step in range(trajectory.steps):  # a batch of the rollout's shape: other shapes take other kernels, which round otherwise (TF32 by 1e-3)
        transitions = trajectory.transitions(torch.arange(len(trajectory)), torch.tensor([step], device=trajectory.log_probs.device))
        with torch.no_grad():
            log_prob, _, _ = agent.policy.evaluate(transitions)
        worst = max(worst, float((torch.exp(log_prob - transitions.log_prob) - 1).abs().max()))
    assert worst < 1e-5, f"max |ratio - 1| is {worst:.2e} at unchanged weights: sampler and replay disagree on this device"
    return f"max |ratio - 1| = {worst:.1e} at unchanged weights"


def _rounding(config: TrainConfig, memory: dict[str, Any]) -> str:
    import torch

    (_, trajectory), agent = _needed(memory, "rollout"), _needed(memory, "model").agent
    transitions, policy = trajectory.transitions(torch.arange(len(trajectory))), agent.policy
    before, generator = policy.trainable_state(), torch.Generator().manual_seed(config.seed)
    policy.load_trainable({name: p + NUDGE * torch.randn(p.shape, generator=generator).to(p) for name, p in before.items()})
    with torch.no_grad():
        parts = [policy.distribution(part).kl_from(part.mean, part.log_std) for part in transitions.split(len(trajectory))]
    policy.load_trainable(before)
    nats, limit = float(torch.cat(parts).mean()) * policy.action_dimension, config.target_kl_nats * policy.kl_unit
    line = f"a change of {NUDGE:g} in each weight moves the policy by {nats:.2g} nats a step in {config.precision}"
    assert nats <= ROUNDED_SHARE * limit, f"{line}, of the {limit:g} that end an update: guidance amplifies rounding; use precision fp16 or fp32"
    return line


def _gradient(config: TrainConfig, memory: dict[str, Any]) -> str:
    import torch

    (_, trajectory), agent = _needed(memory, "rollout"), _needed(memory, "model").agent
    transitions = trajectory.transitions(torch.arange(len(trajectory)))
    log_prob, _, _ = agent.policy.evaluate(transitions)
    sign = torch.where(transitions.image % 2 == 0, 1.0, -1.0).to(log_prob)
    (sign * log_prob).mean().backward()
    grads = [p.grad for p in agent.policy.trainable().values() if p.grad is not None]
    norm = float(torch.stack([g.float().norm() for g in grads]).norm()) if grads else 0.0
    assert norm > 0, "no gradient reaches the policy"
    assert norm < float("inf"), "the policy's gradient is not finite: use precision fp32"
    for p in agent.policy.trainable().values():
        p.grad = None
    return f"norm {norm:.2e} over {agent.policy.trainable_count:,} trained parameters"


def _reward(config: TrainConfig, memory: dict[str, Any]) -> str:
    import torch

    session, (index, trajectory) = _needed(memory, "model"), _needed(memory, "rollout")
    reward = session.make_reward(trajectory.images)
    result = reward(trajectory.images, [session.train_prompts[i] for i in index], torch.tensor(index))
    assert torch.isfinite(result.total).all(), "the reward is not finite"
    return f"{config.metric} = {result.score:.4f} for {len(result.total)} images"


CHECKS: dict[str, Callable[[TrainConfig, dict[str, Any]], str]] = {
    "environment": _environment,
    "device": _device,
    "memory": _memory,
    "reference set": _reference,
    "prompts": _prompts,
    "model": _model,
    "rollout": _rollout,
    "ratio": _ratio,
    "rounding": _rounding,
    "gradient flow": _gradient,
    "reward": _reward,
}
