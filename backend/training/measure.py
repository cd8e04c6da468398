"""Measures the constants that the cost model works with, on this machine."""

from __future__ import annotations

import json
import platform
import resource
import time
from collections.abc import Callable
from typing import Any

import psutil
import torch

from backend.config import POLICIES, TrainConfig
from backend.training.cost import CONSTANTS, constants, model_kind, unet_forwards
from backend.training.record import threads
from backend.training.seeds import choose_group, update_generator
from backend.training.session import Session, build_session

GIB = 2**30
REPEATS = 7


def _timed(work: Callable[[], Any], device: torch.device, repeats: int = REPEATS) -> float:
    """Least seconds of some repeats, after one that does not count: what other programs do can only add to it."""
    work()
    seconds = []
    for _ in range(repeats):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def _peak_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB


def measure_costs(config: TrainConfig, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Constants of one model on one device; see `backend.training.cost`.

    Args:
        config: gives model, device, group and steps; the group should be as large as usual.
        say: told what was measured.
    """
    count = threads(config)
    torch.set_num_threads(count)
    began = time.perf_counter()
    session = build_session(config)
    startup = time.perf_counter() - began
    device, agent, images = session.device, session.agent, config.group_size
    base = _peak_gib(device) if device.type == "cuda" else psutil.Process().memory_info().rss / GIB
    forward = _forward(session, images)
    serial = 1.0
    if device.type == "cpu" and count > 1:
        torch.set_num_threads(1)
        alone = _forward(session, images)
        torch.set_num_threads(count)
        serial = min(1.0, max(0.0, (forward / alone - 1 / count) / (1 - 1 / count)))  # Amdahl's law solved for the serial share
    index, seeds = choose_group(config, len(session.train_prompts), 1)
    trajectory = agent.rollout(session.train_embeds[index], seeds, 1)
    after_rollout = _peak_gib(device)
    prompts = [session.train_prompts[i] for i in index]
    reward = session.make_reward(trajectory.images)
    where = (trajectory.images, prompts, torch.tensor(index))
    slope = reward.image_gradient(*where) if agent.wants_image_gradient else None
    result = reward(*where)
    order = update_generator(config, 1)
    update = _timed(lambda: agent.update(trajectory, result.total, where[2], session.train_embeds[index], order, group_score=result.score, image_gradient=slope), device, 4)
    after_update = _peak_gib(device)
    found = {
        "machine": f"{torch.cuda.get_device_name(device)}" if device.type == "cuda" else f"{count} cores of {platform.machine()}",
        "threads": count,
        "serial_share": serial,
        "forward_seconds": forward,
        "replay_factor": max(1.0, update / (images * forward * unet_forwards(config).update)) if config.mode == "LORA_UNET" else 1.0,
        "decode_seconds": _timed(lambda: agent.backbone.decode(trajectory.final_latents), device) / images,
        "reward_seconds": _timed(lambda: reward.score_set(trajectory.images, prompts), device) / images,
        "policy_seconds": {mode: _policy_seconds(config, mode) for mode in POLICIES.names()},
        "episode_seconds": 0.1,  # files of one episode, written and synced
        "checkpoint_seconds": 0.2,
        "levels_seconds": 8 * images * _timed(lambda: reward.score_set(trajectory.images, prompts), device) / images,
        "startup_seconds": startup,
        "base_gib": base,
        "rollout_gib": max(0.0, after_rollout - base) / images,
        "replay_gib": max(0.0, after_update - after_rollout) / (images / config.minibatches),
        "decode_gib": 0.0,  # within the two peaks above
        "decode_back_gib": 0.0,
    }
    say(json.dumps(found, indent=1))
    return found


def _forward(session: Session, images: int) -> float:
    """Seconds of one UNet forward of one latent, in a batch of a group with guidance."""
    backbone = session.agent.backbone
    latents = torch.zeros(2 * images, *backbone.latent_shape, device=session.device, dtype=backbone.dtype)
    embeds = session.train_embeds[:1].expand(2 * images, -1, -1).to(backbone.dtype)
    with torch.inference_mode():
        return _timed(lambda: backbone.unet(latents, 500, encoder_hidden_states=embeds), session.device) / (2 * images)


def _policy_seconds(config: TrainConfig, mode: str) -> float:
    """Seconds per image of an update of a policy that does not replay the UNet; 0 for the one that does."""
    if mode == "LORA_UNET":
        return 0.0
    settings = config.model_copy(update={"mode": mode})
    session = build_session(settings)
    index, seeds = choose_group(settings, len(session.train_prompts), 1)
    embeds = session.train_embeds[index]
    trajectory = session.agent.rollout(embeds, seeds, 1)
    credit = torch.linspace(-1, 1, len(index))
    return _timed(lambda: session.agent.update(trajectory, credit, torch.tensor(index), embeds, update_generator(settings, 1)), session.device, 4) / len(index)


def write_costs(config: TrainConfig, say: Callable[[str], None] = print) -> None:
    """Measure and keep the constants beside the cost model."""
    found = measure_costs(config, say)
    known = json.loads(json.dumps(constants()))
    known[model_kind(config)]["cuda" if torch.device(found_device(config)).type == "cuda" else "cpu"] = found
    CONSTANTS.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def found_device(config: TrainConfig) -> str:
    """Name of the device that the settings come to on this machine."""
    return config.device if config.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
