"""What a run trains with: the model, the policy's agent, the reward, prompts and their cached embeddings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from backend.config import TrainConfig
from backend.errors import InputError
from backend.features.device import resolve_device
from backend.reference.dataset import load_reference
from backend.reference.prompts import load_prompts, not_held_out, said_of_overlap

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Session:
    """Everything the trainer calls.

    Attributes:
        agent: `backend.ppo.agent.Agent` or what behaves like it.
        make_reward: from base images [*, 3, h, w] (or None) to a `RewardFunction`.
        train_prompts, test_prompts: P prompts each list.
        train_embeds, test_embeds: [P, L, E], encoded once.
        reference_images: [M, 3, h, w] in [0, 1]; reference_captions: M, or none.
        device: where the agent runs.
        denoise: from an embedding [1, L, E], a seed and `base` to the model's view of the final image at each step, [T+1, 3, h, w].
        facts: goes into config.json's record.
        notes: sentences that whoever starts the run should read.
    """

    agent: Any
    make_reward: Callable[[torch.Tensor | None], Any]
    train_prompts: list[str]
    test_prompts: list[str]
    train_embeds: torch.Tensor
    test_embeds: torch.Tensor
    reference_images: torch.Tensor
    reference_captions: list[str]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    denoise: Callable[..., torch.Tensor] | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def check_inputs(config: TrainConfig, here: bool = False, begun: bool = False) -> None:
    """Look at every file that the settings name, before anything is written. Imports no diffusers.

    Args:
        config: the settings.
        here: it is this machine that will train, so their device is looked for too.
        begun: the run has trained already, so test prompts that are none are told in an alert and do not keep it from going on.

    Raises:
        InputError: one cannot be used; `field` names its setting.
    """
    if here:
        resolve_device(config.device)
    training, test = load_prompts(config.train_prompts, field="train_prompts"), load_prompts(config.test_prompts, field="test_prompts")
    if not begun and len(not_held_out(test, training)) == len(test):
        raise InputError(
            f"test_prompts {config.test_prompts!r} holds nothing but prompts of train_prompts {config.train_prompts!r}, so probes, evaluation and the gap closed would measure "
            "what was trained on: name a test_prompts file with other prompts, or take some out of train_prompts", field="test_prompts",
        )  # fmt: skip
    load_reference(config.reference, field="reference")
    folder = Path(config.base_model)
    if folder.is_dir():
        if not (folder / "model_index.json").is_file():
            raise InputError(f"base_model {config.base_model!r} has no model_index.json: name the folder of a diffusers pipeline, or run `make base-model`", field="base_model")
        for part in ("unet", "vae", "text_encoder"):
            if not any((folder / part).glob("*.safetensors")):
                raise InputError(
                    f"base_model {config.base_model!r} has no weights in {part}/ (*.safetensors): run `make base-model`, or download the complete model", field="base_model"
                )
    elif config.base_model.count("/") != 1 or config.base_model[0] in "./~":
        raise InputError(f"base_model {config.base_model!r}: no such folder; run `make base-model`, or name a diffusers pipeline folder or hub id", field="base_model")


def _quiet_loaders() -> None:
    """Progress bars and notices of the model loaders would tear up the terminal's own bar; errors still come through."""
    import diffusers.utils.logging as of_diffusers
    import transformers.utils.logging as of_transformers

    for library in (of_diffusers, of_transformers):
        library.disable_progress_bar()
        library.set_verbosity_error()


def build_session(config: TrainConfig, say: Callable[[str], None] = lambda phase: None) -> Session:
    """Load everything that a run needs.

    Args:
        config: the settings.
        say: told what is being loaded.

    Raises:
        InputError: a file, a device or a network's weights are missing.
    """
    check_inputs(config, begun=True)
    device = resolve_device(config.device)
    say("loading the model")
    _quiet_loaders()
    from backend.diffusion.backbone import load_backbone
    from backend.policies.base import build_policy
    from backend.ppo.agent import Agent

    backbone = load_backbone(config.base_model, device, DTYPES[config.precision])
    train_prompts, test_prompts = load_prompts(config.train_prompts), load_prompts(config.test_prompts)
    say("encoding the prompts")
    train_embeds, test_embeds = backbone.encode(train_prompts), backbone.encode(test_prompts)
    reference = load_reference(config.reference)
    agent = Agent(config, backbone, build_policy(config, backbone))

    def make_reward(base_images: torch.Tensor | None) -> Any:
        from backend.rewards.composition import RewardFunction

        return RewardFunction(config, reference.tensor(), reference.captions, device, base_images)

    notes = [*filter(None, [said_of_overlap(test_prompts, train_prompts)]), *said_of_cut(backbone, training=train_prompts, test=test_prompts)]
    facts = {"reference": reference.label, "reference_sha256": reference.digest, "simulated_reference": reference.simulated, "device": str(device)}
    return Session(
        agent, make_reward, train_prompts, test_prompts, train_embeds, test_embeds, reference.tensor(), list(reference.captions), device,
        partial(watch_denoising, agent), facts, notes,
    )  # fmt: skip


def said_of_cut(backbone: Any, **lists: list[str]) -> list[str]:
    """A sentence for each list of prompts of which some are longer than the text encoder reads."""
    limit, notes = backbone.tokenizer.model_max_length, []
    for name, prompts in lists.items():
        if cut := backbone.cut(prompts):
            said = f"{len(cut)} of {len(prompts)} {name} prompts have more than the {limit} tokens that the text encoder reads"
            notes.append(f"{said}: what follows is not seen (first {prompts[cut[0]][:60]!r}…)")
    return notes


class _Watcher:
    """A policy that acts as another does and keeps what the model takes for the clean latents at each step."""

    def __init__(self, policy: Any) -> None:
        self.policy = policy
        self.clean: list[torch.Tensor] = []

    def plan(self, *args: Any) -> Any:
        return self.policy.plan(*args)

    def step(self, state: Any, noise: Any) -> Any:
        from backend.diffusion.kernel import predict_clean

        backbone = self.policy.backbone
        clean, _ = predict_clean(state.latents, state.prediction, state.alpha, backbone.prediction_type)
        self.clean.append(clean)
        return self.policy.step(state, noise)


def watch_denoising(agent: Any, embeds: torch.Tensor, seed: int, base: bool = False, guidance_scale: float | None = None) -> torch.Tensor:
    """How one image comes out of noise: the decoded estimate of the clean image before each step, then the image itself.

    Args:
        agent: whose averaged policy draws, or with `base` the model without it.
        embeds: [1, L, E].
        seed: the image's noise seed.
        base: see above.
        guidance_scale: None takes the one in force.

    Returns:
        [T+1, 3, h, w] in [0, 1].
    """
    from backend.diffusion.noise import NoiseSource
    from backend.diffusion.sampler import rollout

    watcher, config = _Watcher(agent.policy), agent.config
    with agent.acting(use_ema=not base, base=base):
        trajectory = rollout(
            agent.backbone, watcher, embeds, NoiseSource([seed], agent.backbone.device), agent.window(None),
            num_inference_steps=config.num_inference_steps, guidance_scale=config.guidance_scale if guidance_scale is None else guidance_scale, deterministic=True,
        )  # fmt: skip
    return torch.cat([agent.backbone.decode(torch.cat(watcher.clean)), trajectory.images])
