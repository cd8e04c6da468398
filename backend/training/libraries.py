"""The trainer's libraries, imported once and by one thread at a time.

diffusers and transformers import their parts when a name is first asked for, in circles. Two threads that do so at once see half-made
modules, and one of them fails with an ImportError: so whoever needs a model in the page's process comes here first.
"""

from __future__ import annotations

import importlib
import threading

TRAINER = ("backend.training.session", "backend.training.trainer", "backend.diffusion.backbone", "backend.policies.lora", "backend.ppo.agent", "backend.rewards.composition")
PIPELINE = ("StableDiffusionPipeline", "UNet2DConditionModel", "AutoencoderTiny", "DDIMScheduler")  # of diffusers

_importing = threading.Lock()


def import_trainer() -> None:
    """Import what drawing and training need, which takes seconds the first time; returns at once where that is done."""
    with _importing:
        for name in TRAINER:
            importlib.import_module(name)
        for name in PIPELINE:
            getattr(importlib.import_module("diffusers"), name)
