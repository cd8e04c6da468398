"""What is drawn in an evaluation: prompts, seeds and sampler, fixed before anything is measured."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from backend.config import TrainConfig
from backend.errors import InputError
from backend.reference.prompts import load_prompts

FIRST_SEED = 1_000_000_000  # far above the seeds that training draws with
PUBLISHED = 1024  # images each of base and tuned that published figures use


@dataclass(frozen=True)
class Protocol:
    """Image i has prompt i mod P and seed `first_seed + i`; base and tuned share both.

    Attributes:
        prompts: P test prompts.
        images: N.
        steps: T denoising steps, deterministic.
        guidance: guidance scale of the base (a policy may choose its own).
        first_seed: see above.
    """

    prompts: tuple[str, ...]
    images: int
    steps: int
    guidance: float
    first_seed: int = FIRST_SEED

    @property
    def seeds(self) -> list[int]:
        """[N] seeds."""
        return list(range(self.first_seed, self.first_seed + self.images))

    @property
    def captions(self) -> list[str]:
        """[N] the prompt of each image."""
        return [self.prompts[i % len(self.prompts)] for i in range(self.images)]

    @property
    def digest(self) -> str:
        """SHA-256 that names the protocol in results."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def protocol_for(config: TrainConfig, images: int, prompts: Sequence[str] | None = None) -> Protocol:
    """The protocol of a run: its test prompts, steps and guidance.

    Raises:
        InputError: fewer than 4 images, or prompts that cannot be read.
    """
    if images < 4:
        raise InputError(f"{images} images cannot be evaluated: give at least 4, better {PUBLISHED}", field="eval_images")
    chosen = tuple(prompts) if prompts is not None else tuple(load_prompts(config.test_prompts, field="test_prompts"))
    return Protocol(chosen, images, config.num_inference_steps, config.guidance_scale)
