"""The trainer's libraries, imported once and by one thread at a time.

diffusers and transformers import their parts when a name is first asked for, in circles. Two threads that do so at once see half-made
modules, and one of them fails with an ImportError: so whoever needs a model in the page's process comes here first.
"""

from __future__ import annotations

import gc
import importlib
import sys
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


def free_cached_memory() -> None:
    """Give the GPU memory that torch keeps for later back, so that other processes can have it; does nothing in a process that has not used a GPU."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is not None and cuda.is_initialized():
        gc.collect()  # a model's modules refer to each other in circles
        cuda.empty_cache()
