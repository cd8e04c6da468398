"""Rendered sets that evaluation compares with: the ceiling of obedient diversity, and held-out craters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from backend.evaluation.cache import cached_arrays, files_digest
from backend.evaluation.protocol import Protocol
from backend.reference import captions, renderer

HELD_OUT = 2000  # renders that stand for the real side of precision and recall
HELD_OUT_SMALL = 400  # enough for a first look; used below the published number of images
CEILING_STREAM, HELD_OUT_STREAM = 7001, 7002  # keep the random numbers of the two sets apart from each other and from training
CHUNK = 16


def renderer_digest() -> str:
    """SHA-256 of the renderer's and the captions' source: another renderer draws other sets."""
    folder = Path(renderer.__file__).parent
    return files_digest([*folder.glob("*.py"), Path(captions.__file__)])


def _render(parameters: list, seeds: list[int], size: int, should_stop: Callable[[], bool] | None, progress: Callable[[float], None] | None) -> np.ndarray:
    from backend.diffusion.sampler import check_stop

    parts = []
    for start in range(0, len(parameters), CHUNK):
        check_stop(should_stop)
        parts.append(renderer.render_batch(parameters[start : start + CHUNK], seeds[start : start + CHUNK], size))
        if progress is not None:
            progress(min(1.0, (start + CHUNK) / len(parameters)))
    return np.concatenate(parts)


def ceiling_images(protocol: Protocol, size: int, should_stop: Callable[[], bool] | None = None, progress: Callable[[float], None] | None = None) -> np.ndarray:
    """Renders of the protocol's captions with every attribute free that the caption does not name: uint8 [N, size, size, 3].

    It is what an obedient and perfectly diverse model would reach. Image i depends on its caption and seed only.
    """
    facts = {"renderer": renderer_digest(), "prompts": protocol.prompts, "seeds": [protocol.first_seed, protocol.images], "size": size}

    def build() -> dict[str, np.ndarray]:
        drawn = [captions.sample_for_caption(text, np.random.default_rng([CEILING_STREAM, seed])) for text, seed in zip(protocol.captions, protocol.seeds, strict=True)]
        return {"images": _render(drawn, protocol.seeds, size, should_stop, progress)}

    return cached_arrays("ceiling", facts, build)["images"]


def held_out(count: int, size: int, should_stop: Callable[[], bool] | None = None, progress: Callable[[float], None] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Renders of freely drawn craters that neither the base model nor a policy was shown.

    Returns:
        Images uint8 [count, size, size, 3] and their attributes [count, A] in the order of `captions.ATTRIBUTES`.
    """
    facts = {"renderer": renderer_digest(), "count": count, "size": size}

    def build() -> dict[str, np.ndarray]:
        seeds = [HELD_OUT_STREAM * 1_000_000 + i for i in range(count)]
        drawn = [renderer.sample_parameters(np.random.default_rng([HELD_OUT_STREAM, i])) for i in range(count)]
        targets = [[captions.attribute_targets(p)[name] for name in captions.ATTRIBUTES] for p in drawn]
        return {"images": _render(drawn, seeds, size, should_stop, progress), "targets": np.asarray(targets, dtype=np.float64)}

    stored = cached_arrays("heldout", facts, build)
    return stored["images"], stored["targets"]


def prompt_targets(prompts: tuple[str, ...]) -> np.ndarray:
    """What each prompt says of each attribute, NaN where it is silent: [P, A]."""
    return np.array([[captions.caption_targets(text)[name] for name in captions.ATTRIBUTES] for text in prompts], dtype=np.float64)
