"""Images from the base model or a checkpoint, each by its own prompt and seed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backend.config import TrainConfig
from backend.diffusion.backbone import Backbone, load_backbone
from backend.diffusion.kernel import Gaussian
from backend.diffusion.noise import NoiseSource
from backend.diffusion.sampler import Plan, ShouldStop, check_stop, rollout
from backend.diffusion.schedule import Schedule, alpha_at
from backend.diffusion.trajectory import Transitions
from backend.errors import InputError
from backend.evaluation.cache import cached_arrays
from backend.evaluation.protocol import Protocol
from backend.features.device import resolve_device
from backend.policies.base import Policy, build_policy
from backend.policies.mixture import mix_checkpoints
from backend.runs import Run, RunStore
from backend.runs.files import disk_errors

BATCH = 16  # images in one pass
UNITS = {"LORA_UNET": "lora_alpha", "DIVERSITY_POLICY": "perturbation_scale"}  # what a policy's saved weights are measured in
Progress = Callable[[str, float], None]
DTYPES = (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16))


class ConstantPolicy(Policy):
    """The base model with a constant guidance and a constant warp of the timesteps; nothing is learned.

    Args:
        config: any settings.
        backbone: the model.
        warp: w; step i of T begins where the stock schedule's step (T-1) (i / (T-1))^w would, by linear interpolation.
            1 is the stock schedule itself, above 1 spends more steps on coarse structure, below 1 on detail.
    """

    default_clip_nats = 0.0

    def __init__(self, config: TrainConfig, backbone: Backbone, warp: float = 1.0) -> None:
        super().__init__(config, backbone)
        if not warp > 0:
            raise InputError(f"warp {warp}: give a number above 0; 1 is the stock schedule")
        self.warp = warp

    @property
    def action_dimension(self) -> int:
        """0: it never acts."""
        return 0

    def trainable(self) -> dict[str, torch.nn.Parameter]:
        """Nothing."""
        return {}

    def distribution(self, transitions: Transitions) -> Gaussian:
        """It has none.

        Raises:
            InputError: always.
        """
        raise InputError("a constant policy cannot be trained: choose a mode")

    def plan(self, schedule: Schedule, embeds: torch.Tensor, noise: NoiseSource, guidance_scale: float, deterministic: bool) -> Plan:
        """The warped schedule [T, B] and the same guidance for all."""
        plan = super().plan(schedule, embeds, noise, guidance_scale, deterministic)
        return plan if self.warp == 1 else Plan(warped(schedule, self.warp, self.backbone.alphas_cumprod), plan.guidance)


def warped(schedule: Schedule, warp: float, table: torch.Tensor) -> Schedule:
    """The same first and last step, the steps between moved: [T, B] -> [T, B]; see `ConstantPolicy`."""
    begin = schedule.timesteps
    steps = len(begin)
    place = (steps - 1) * torch.linspace(0, 1, steps, dtype=torch.float64, device=begin.device) ** warp
    low = place.floor().long().clamp(max=steps - 2)
    weight = (place - low)[:, None]
    moved = begin[low] * (1 - weight) + begin[low + 1] * weight
    alphas = alpha_at(table, moved)
    alphas_prev = torch.cat([alphas[1:], schedule.alphas_prev[-1:]])
    return Schedule(moved, alphas, alphas_prev, torch.zeros_like(schedule.gap))


def open_backbone(config: TrainConfig, device: str = "auto") -> Backbone:
    """The run's base model in the run's precision."""
    return load_backbone(config.base_model, resolve_device(device), dict(DTYPES)[config.precision])


def weights_digest(backbone: Backbone) -> str:
    """SHA-256 over every tensor of UNet, autoencoder and text encoder, and the noise schedule; take it before adapters are added."""
    digest = hashlib.sha256(f"{backbone.prediction_type}|0.0|{backbone.dtype}".encode())  # 0.0: a cut of the latents that is no more; published figures name these digests
    digest.update(backbone.alphas_cumprod.cpu().numpy().tobytes())
    for part in (backbone.unet, backbone.vae, backbone.text_encoder):
        for name, tensor in part.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if tensor.ndim else str(tensor.item()).encode())
    return digest.hexdigest()


def settings_digest(backbone: Backbone, prompts: Sequence[str]) -> str:
    """SHA-256 of what shapes images beside the weights: every part's configuration (timestep spacing, scaling of the latents, ...) and the prompts' tokens."""
    tokens = backbone.tokenizer([*prompts, ""], padding="max_length", max_length=backbone.tokenizer.model_max_length, truncation=True).input_ids
    facts: dict[str, Any] = {"tokens": [list(map(int, row)) for row in tokens]}
    for name in ("scheduler", "unet", "vae", "text_encoder"):
        config = getattr(backbone, name).config
        values = config.to_dict() if hasattr(config, "to_dict") else dict(config)
        facts[name] = {key: value for key, value in values.items() if not key.startswith("_") and not key.endswith("_version")}  # folders and releases
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def draw(
    backbone: Backbone,
    policy: Policy,
    prompts: Sequence[str],
    seeds: Sequence[int],
    steps: int,
    guidance: float,
    progress: Callable[[float], None] | None = None,
    should_stop: ShouldStop | None = None,
) -> np.ndarray:
    """Mean actions, no noise but the initial one: what evaluation, probes and the page show.

    Args:
        backbone: the model.
        policy: who acts.
        prompts: N prompts; each distinct one is encoded once.
        seeds: N seeds.
        steps: T.
        guidance: of policies that do not choose their own.
        progress: told the finished share.
        should_stop: asked before each denoising step.

    Returns:
        uint8 [N, h, w, 3].

    Raises:
        Stopped: the callback said so.
        InputError: lengths differ.
    """
    if len(prompts) != len(seeds) or not prompts:
        raise InputError(f"{len(prompts)} prompts for {len(seeds)} seeds: give one of each per image, at least one")
    distinct = list(dict.fromkeys(prompts))
    embeds = backbone.encode(distinct)
    index = torch.tensor([distinct.index(p) for p in prompts], device=embeds.device)
    window = (policy.config.window_start, policy.config.window_size)
    out = []
    for start in range(0, len(seeds), BATCH):
        check_stop(should_stop)
        part = slice(start, start + BATCH)
        noise = NoiseSource(seeds[part], backbone.device)
        trajectory = rollout(backbone, policy, embeds[index[part]], noise, window, num_inference_steps=steps, guidance_scale=guidance, deterministic=True, should_stop=should_stop)
        out.append((trajectory.images.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).cpu().numpy())
        if progress is not None:
            progress(min(1.0, (start + BATCH) / len(seeds)))
    return np.concatenate(out)


def base_images(
    config: TrainConfig,
    protocol: Protocol,
    backbone: Backbone,
    digest: str,
    warp: float = 1.0,
    progress: Callable[[float], None] | None = None,
    should_stop: ShouldStop | None = None,
) -> np.ndarray:
    """The base model's images of a protocol, uint8 [N, h, w, 3], drawn once per model, its configuration, prompts, seeds and sampler.

    Args:
        config: any run of that base.
        protocol: what to draw.
        backbone: the base, without adapters.
        digest: its `weights_digest`.
        warp: see `ConstantPolicy`.
        progress, should_stop: as in `draw`.
    """
    facts = {"model": digest, "settings": settings_digest(backbone, protocol.prompts), "protocol": protocol.digest, "warp": warp, "device": backbone.device.type}

    def build() -> dict[str, np.ndarray]:
        policy = ConstantPolicy(config, backbone, warp)
        return {"images": draw(backbone, policy, protocol.captions, protocol.seeds, protocol.steps, protocol.guidance, progress, should_stop)}

    return cached_arrays("base", facts, build)["images"]


def load_policy(config: TrainConfig, backbone: Backbone, checkpoint: Path) -> Policy:
    """The policy of a checkpoint on that backbone (adapters are added to its UNet).

    Raises:
        InputError: the checkpoint has no policy of this mode.
    """
    policy = build_policy(config, backbone)
    policy.to(backbone.device)
    policy.load(checkpoint / "policy" if (checkpoint / "policy").is_dir() else checkpoint)
    return policy


def find_checkpoint(run: Run, name: str | None = None) -> Path:
    """A checkpoint's folder: by name or episode number, `best`, or the newest; or a mixture, as `best+last` or `last+OTHER_RUN:last`.

    A mixture is the average of the policies named (`mix_checkpoints`), written under the run's `mixtures`. Runs beside this one may take part.

    Raises:
        InputError: there is none of that name, and the message lists those there are; or policies that cannot be mixed, as of runs that scale theirs otherwise.
    """
    if name and "+" in name:
        return _mixture(run, name)
    return run.checkpoint(name).path


def _mixture(run: Run, names: str) -> Path:
    """The folder of the average of several checkpoints."""
    folders, unit = [], UNITS.get(run.config.mode)
    for part in names.split("+"):
        other, _, name = part.strip().rpartition(":")
        owner = RunStore(run.path.parent).get(other) if other else run
        folders.append(find_checkpoint(owner, name) / "policy")
        here, there = (getattr(r.config, unit) if unit else None for r in (run, owner))
        if here != there:
            raise InputError(f"run {owner.id} has {unit} {there:g} and {run.id} {here:g}, so the same weights do not mean the same: mix runs with one {unit}", field=unit)
    target = run.path / "mixtures" / re.sub(r"[^\w+.-]", "_", names)
    try:
        with disk_errors():
            mix_checkpoints(folders, target / "policy")
    except OSError as error:
        raise InputError(f"the mixture cannot be written to {target} ({error.strerror}): make room, or copy the runs to a folder that can be written") from error
    return target


def generate_images(
    prompts: Sequence[str],
    seeds: Sequence[int],
    run: Run | None = None,
    checkpoint: str | None = None,
    config: TrainConfig | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    device: str = "auto",
    should_stop: ShouldStop | None = None,
) -> np.ndarray:
    """Images of a run's checkpoint, or of the base model.

    Args:
        prompts: N prompts; one alone is used for every seed.
        seeds: N seeds.
        run: whose checkpoint; None draws with the base model.
        checkpoint: name, episode number, `best` or `last` (default).
        config: settings for the base model where there is no run; the defaults if None.
        steps, guidance: other than the run's.
        device: auto, cpu, cuda.
        should_stop: asked before each denoising step.

    Returns:
        uint8 [N, h, w, 3].
    """
    prompts = list(prompts) * (len(seeds) if len(prompts) == 1 else 1)
    path = find_checkpoint(run, checkpoint) if run is not None else None
    chosen = run.config_at(path) if path is not None else config or TrainConfig()
    backbone = open_backbone(chosen, device)
    policy = load_policy(chosen, backbone, path) if path is not None else ConstantPolicy(chosen, backbone)
    steps, guidance = steps or chosen.num_inference_steps, chosen.guidance_scale if guidance is None else guidance
    return draw(backbone, policy, prompts, seeds, steps, guidance, should_stop=should_stop)
