"""What a run will take, from measured constants: seconds per episode and memory, before it starts. Imports no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from backend.config import TrainConfig
from backend.training.record import threads

CONSTANTS = Path(__file__).with_name("cost_constants.json")
EMBEDDED = "embedded"
SAMPLE_IMAGES = 9  # a sample grid and the denoising strip beside it
EVALUATED_SETS = 4  # that an evaluation draws `eval_images` of: base, tuned, and the base at two other constant guidances
LATER_BASE_GROUPS = 2
SAVED_UNET, SAVED_DECODER = 0.35, 0.55  # what gradient checkpointing leaves; a decoder's largest block alone is half of it


@dataclass(frozen=True)
class Estimate:
    """What a run is expected to take.

    Attributes:
        seconds_per_episode: samples, probes and checkpoints shared out over the episodes.
        seconds_total: training and the evaluation at its end.
        evaluation_seconds: that evaluation alone.
        startup_seconds: until the first episode begins.
        memory_gib: highest resident memory (or the device's, where there is one).
        text: one line for a person.
        machine: where the constants were measured; empty where they are only derived from published sizes and speeds.
    """

    seconds_per_episode: float
    seconds_total: float
    evaluation_seconds: float
    startup_seconds: float
    memory_gib: float
    text: str
    machine: str


@lru_cache(maxsize=1)
def constants() -> dict[str, Any]:
    """Measured constants by kind of model and device; see `measure_cost`."""
    return json.loads(CONSTANTS.read_text(encoding="utf-8"))


def model_kind(config: TrainConfig) -> str:
    """Which row of constants a base model is costed by: the embedded model, or one of Stable Diffusion's size."""
    folder = Path(config.base_model)
    if not folder.is_dir():
        return "sd15" if folder.name != "crater-tiny" else EMBEDDED
    size = sum(p.stat().st_size for p in (folder / "unet").glob("*.safetensors"))
    return EMBEDDED if size < 200 * 2**20 else "sd15"


class Forwards(NamedTuple):
    """UNet forwards per image; a backward counts as one more forward.

    Attributes:
        rollout: of one rollout.
        update: of one update, through a graph.
        beside: of one update, without one: at the noise levels to either side.
    """

    rollout: float
    update: float
    beside: float


def unet_forwards(config: TrainConfig) -> Forwards:
    """UNet forwards per image.

    A rollout is T steps, twice with guidance, and the twins of the baseline take another. Only LORA_UNET replays the UNet: K steps, E epochs, forward and backward of
    both branches, and the base's means of one step where KL to the base is penalised. The two other policies recompute
    their own small networks only. The pathwise gradient walks forward and backward through every step behind the window's first,
    and through all of them, with a forward at two noise levels beside each, where they are planned together.
    """
    branches = 2 if config.guidance_scale > 1 else 1
    rollout = branches * config.num_inference_steps
    planned = config.mode == "SCHEDULER_POLICY"
    walked = 2 * config.num_inference_steps if planned else 2 * (config.num_inference_steps - config.window_start) - 1
    back = branches * walked if config.pathwise_share else 0
    if config.mode != "LORA_UNET":
        return Forwards(rollout, back, back if planned else 0)
    replay = 2 * branches * config.window_size * config.ppo_epochs * (1 + config.replay_groups)
    return Forwards(rollout, back + replay + (branches if config.kl_base_coef else 0), 0)


def estimate(config: TrainConfig, device: str | None = None) -> Estimate:
    """Expected cost of settings, edited or not.

    Args:
        config: the settings.
        device: `cpu` or `cuda`; by default the settings' own, `auto` counting as what the constants' machine has.
    """
    kind = model_kind(config)
    wanted = device or ("cuda" if config.device.startswith("cuda") or kind != EMBEDDED else "cpu")
    known = constants()[kind][wanted]
    images = config.group_size
    forwards = unet_forwards(config)
    per_forward = known["forward_seconds"] * (_thread_factor(config, known) if wanted == "cpu" else 1.0)
    per_image = forwards.rollout * per_forward + known["decode_seconds"] + known["reward_seconds"]
    own = known["policy_seconds"].get(config.mode, 0.0) * config.ppo_epochs * (1 + config.replay_groups)  # of one pass over one group; a plug-in's is not known
    update = (forwards.update * known["replay_factor"] + forwards.beside) * per_forward + own
    episode = images * (config.rollouts * per_image + update) + known["episode_seconds"]
    every = SAMPLE_IMAGES * per_image / config.sample_every + known["checkpoint_seconds"] / config.save_every
    every += config.probe_images * per_image / config.probe_every if config.probe_every else 0.0
    startup = known["startup_seconds"] + (images + SAMPLE_IMAGES) * per_image
    once = LATER_BASE_GROUPS * images * per_image + known["levels_seconds"]
    evaluation = EVALUATED_SETS * config.eval_images * (per_image + known["reward_seconds"])
    total = startup + once + config.episodes * (episode + every) + evaluation
    memory = known["base_gib"] + _activations(config, known)
    text = f"about {say_duration(episode + every)} an episode, {say_duration(total)} in all, {memory:.1f} GiB"
    source = f"measured on {known['machine']}" if known["machine"] else "derived from published sizes and speeds, not measured"
    return Estimate(episode + every, total, evaluation, startup, memory, f"{text} ({wanted}, {source})", known["machine"])


def _activations(config: TrainConfig, known: dict[str, Any]) -> float:
    """GiB beside the weights: a group in the UNet and what an update holds of it, or the decoder's few images where they need more."""
    differentiated = config.mode == "LORA_UNET" or config.pathwise_share > 0
    replayed = min(config.group_size, config.micro_batch or -(-config.group_size // config.minibatches)) if differentiated else 0
    unet, decoder = (SAVED_UNET, SAVED_DECODER) if config.gradient_checkpointing else (1.0, 1.0)
    decoded = max(known["decode_gib"], known["decode_back_gib"] * decoder if config.pathwise_share else 0.0)
    return max(config.group_size * known["rollout_gib"] + replayed * known["replay_gib"] * unet, decoded)


def _thread_factor(config: TrainConfig, known: dict[str, Any]) -> float:
    """Amdahl's law (1967) with the measured serial share, relative to the threads that the constants were measured with."""
    serial, measured, have = known["serial_share"], known["threads"], threads(config)
    return (serial + (1 - serial) / have) / (serial + (1 - serial) / measured)


def say_duration(seconds: float) -> str:
    """Seconds in words for a person."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
