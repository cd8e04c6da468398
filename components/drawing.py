"""Draw with a checkpoint or the base model: waits for the device, in a worker thread, with the backend's own functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from backend.config import make_config
from backend.errors import InputError
from backend.runs import Owner, Run
from components.attach import parse_choice
from components.context import PageContext

MAX_PROMPT = 4000
BASE = "base model"


def check_prompt(prompt: str) -> str:
    """The prompt, trimmed.

    Raises:
        InputError: empty or too long.
    """
    prompt = " ".join(str(prompt or "").split())
    if not prompt:
        raise InputError("the prompt is empty: describe a crater, for example 'aerial view of fresh mars craters on smooth plains'")
    if len(prompt) > MAX_PROMPT:
        raise InputError(f"the prompt has {len(prompt)} characters: give at most {MAX_PROMPT}")
    return prompt


def check_count(count: float | None, context: PageContext) -> int:
    """How many images.

    Raises:
        InputError: not a whole number from 1 to the server's cap.
    """
    most = context.settings.max_generate
    if count is None or count != int(count) or not 1 <= count <= most:
        raise InputError(f"number of images {count!r}: give a whole number from 1 to {most}")
    return int(count)


def unknown_words(prompt: str) -> list[str]:
    """Words of a prompt that the embedded model never saw in a caption."""
    from backend.reference.captions import VOCABULARY

    known = {word.lower() for phrase in VOCABULARY for word in phrase.split()}
    words = [w.strip(".,;:!?\"'()").lower() for w in prompt.split()]
    return list(dict.fromkeys(w for w in words if w and w not in known))


def check_mixture(context: PageContext, choice: Any, checkpoint: str | None, owner: Owner | None) -> None:
    """Refuse a mixture, as `best+last`, to who may not steer the run: mixing writes into its folder.

    Args:
        context: knows the owners.
        choice: `source/id` of the run.
        checkpoint: name of a checkpoint, or several joined by +.
        owner: who asks.

    Raises:
        InputError: not the run's owner, or a recorded run on a server that others can reach.
    """
    source, run_id = parse_choice(choice)
    mine = not context.manager.require_token or (source == "runs" and context.manager.may_steer(run_id, owner))
    if "+" in (checkpoint or "") and not mine:
        raise InputError(f"checkpoint {checkpoint!r} mixes several, which writes into the run's folder: only its owner may; choose one checkpoint")


def draw_pair(
    context: PageContext, run: Run | None, checkpoint: str | None, prompts: Sequence[str], seeds: Sequence[int], guidance: float | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Base and tuned images of the same prompts, seeds and settings (those in force at the checkpoint), uint8 [N, h, w, 3] each; tuned is None for the base alone.

    Raises:
        InputError: no checkpoint, no weights, or a prompt that cannot be drawn.
    """
    with context.manager.device("generate"):
        from backend.evaluation.generate import config_at, find_checkpoint, generate_images

        config = config_at(run, find_checkpoint(run, checkpoint)) if run is not None else make_config(context.default_values())
        generate = context.on_device(generate_images)
        base = generate(prompts, seeds, config=config, guidance=guidance)
        tuned = generate(prompts, seeds, run=run, checkpoint=checkpoint, guidance=guidance) if run is not None else None
    return base, tuned


def evaluate(context: PageContext, run: Run, checkpoint: str | None, images: int) -> None:
    """Judge a checkpoint against the base and leave evaluation.json in the run's folder.

    Args:
        context: lends the device.
        run: whose checkpoint.
        checkpoint: its name; the newest where None.
        images: of base and tuned each.

    Raises:
        InputError: no checkpoint, or a missing model, prompt file or reference set.
    """
    with context.manager.device("evaluate"):
        from backend.evaluation.evaluate import evaluate_run

        context.on_device(evaluate_run)(run, images=images, checkpoint=checkpoint)


def reference_features(context: PageContext, images: np.ndarray, extractor: str) -> tuple[np.ndarray, dict[str, Any]]:
    """Features of reference images by an extractor, float32 [M, D], and what the extractor says of itself.

    Raises:
        InputError: unknown extractor, or its weights are not here.
    """
    with context.manager.device("features"):
        from backend.reference.embedding import image_features

        return context.on_device(image_features)(images, extractor)


def checkpoint_choices(run: Run) -> list[tuple[str, str]]:
    """Checkpoints for a dropdown, newest first."""
    found = run.checkpoints()
    return [(f"episode {c.episode}" + (" (best)" if c.best else "") + (" (newest)" if c is found[-1] else ""), c.name) for c in reversed(found)]
