"""Draw with a checkpoint or the base model: waits for the device, in a worker thread, with the backend's own functions."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from backend.config import make_config
from backend.errors import InputError, is_out_of_memory
from backend.evaluation.protocol import PUBLISHED
from backend.runs import Owner, Run
from components.attach import parse_choice
from components.context import PageContext

MAX_PROMPT = 4000
BASE = "base model"
NEWEST, BEST = "last", "best"  # what is asked for stays right while a run goes on; a name may be pruned
USUALLY_EVALUATED = STRANGERS_EVALUATE = 64  # images: a first look, a minute on two cores
FEWEST = 4  # see `protocol_for`
RECORDED = "This recorded run comes without checkpoints: start one of your own to draw with it."


class Drawn(NamedTuple):
    """Images uint8 [N, h, w, 3] of the base and, where a run was named, of its checkpoint of that name."""

    base: np.ndarray
    tuned: np.ndarray | None
    checkpoint: str


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


def most_evaluated(context: PageContext) -> int | None:
    """Most images that an evaluation from the page may draw; None on a person's own machine."""
    if context.settings.public_demo:
        return STRANGERS_EVALUATE
    return PUBLISHED if context.settings.require_token else None


def usually_evaluated(run: Run, context: PageContext) -> int:
    """Images that an evaluation of the run draws unless a person says otherwise: as many as the one at its end, within the server's cap."""
    usual, most = run.config.eval_images or USUALLY_EVALUATED, most_evaluated(context)
    return usual if most is None else min(usual, most)


def check_evaluated(count: float | None, context: PageContext) -> int:
    """How many images an evaluation draws.

    Raises:
        InputError: not a whole number from 4 to the server's cap.
    """
    most = most_evaluated(context)
    if count is None or count != int(count) or count < FEWEST or count > (most or count):
        raise InputError(f"number of images to evaluate {count!r}: give a whole number " + (f"from {FEWEST} to {most}" if most else f"of at least {FEWEST}, better {PUBLISHED}"))
    return int(count)


def unknown_words(prompt: str) -> list[str]:
    """Words of a prompt that the embedded model never saw in a caption."""
    from backend.reference.captions import VOCABULARY

    known = {word.lower() for phrase in VOCABULARY for word in phrase.split()}
    words = [w.strip(".,;:!?\"'()").lower() for w in prompt.split()]
    return list(dict.fromkeys(w for w in words if w and w not in known))


def check_mixture(context: PageContext, choice: Any, checkpoint: str | None, owner: Owner | None) -> None:
    """Refuse a mixture, as `best+last`, of a recorded run, or to who may not steer the run: mixing writes into its folder.

    Args:
        context: knows the owners.
        choice: `source/id` of the run.
        checkpoint: name of a checkpoint, or several joined by +.
        owner: who asks.

    Raises:
        InputError: not the run's owner, or a recorded run, which is no one's.
    """
    source, run_id = parse_choice(choice)
    mine = source == "runs" and (not context.manager.require_token or context.manager.may_steer(run_id, owner))
    if "+" in (checkpoint or "") and not mine:
        raise InputError(f"checkpoint {checkpoint!r} mixes several, which writes into the run's folder: only its owner may; choose one checkpoint")


@contextmanager
def explained(doing: str, remedies: Sequence[str]) -> Iterator[None]:
    """Say in one sentence what to change where memory or disk give out within the block.

    Args:
        doing: what the block does, as "drawing 32 images".
        remedies: what helps where memory is short.

    Raises:
        InputError: in the place of an error of memory, disk or files.
    """
    said = ""
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        if is_out_of_memory(error):
            said = f"out of memory while {doing}: {', or '.join(remedies)}"
        elif isinstance(error, OSError):
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            why = error.strerror or " ".join(str(error).split())[:300]
            said = f"{doing} failed ({why}{f': {error.filename}' if error.filename else ''}): " + ("free space" if full else "see that the file is there and can be used")
        else:
            raise
        traceback.clear_frames(error.__traceback__)  # they hold the model, and with it the device's memory
    if said:
        raise InputError(said)


def _others_memory(context: PageContext) -> str:
    """What frees memory that other work holds."""
    return "stop the run that trains here (Resume takes it up again)" if context.manager.active() else "close what else uses its memory"


def recorded_only(source: str, run: Run) -> bool:
    """Whether it is a recorded run that came without its policy, so that nothing can be drawn with it."""
    return source == "demo" and not run.checkpoints()


def check_drawable(source: str, run: Run) -> None:
    """Refuse a recorded run without checkpoints.

    Raises:
        InputError: it is one, and what to do instead.
    """
    if recorded_only(source, run):
        raise InputError(RECORDED)


def guidance_at(run: Run, checkpoint: str | None) -> float:
    """Guidance in force at a checkpoint; the run's own for a mixture, and where there is no checkpoint of that name."""
    try:
        return run.config_at(run.checkpoint(checkpoint).path).guidance_scale
    except InputError:
        return run.config.guidance_scale


def draw_pair(context: PageContext, run: Run | None, checkpoint: str | None, prompts: Sequence[str], seeds: Sequence[int], guidance: float | None = None) -> Drawn:
    """Base and tuned images of the same prompts, seeds and settings (those in force at the checkpoint).

    Raises:
        InputError: no checkpoint, no weights, a prompt that cannot be drawn, or memory or disk gave out.
    """
    with context.manager.device("generate"):
        from backend.evaluation.generate import BATCH, find_checkpoint, generate_images

        fewer = min(len(seeds), BATCH) // 2  # it draws so many at a time
        with explained(f"drawing {len(seeds)} images", [*([f"try {fewer}"] if fewer else []), _others_memory(context)]):
            path = find_checkpoint(run, checkpoint) if run is not None else None
            config = run.config_at(path) if path is not None else make_config(context.default_values())
            generate = context.on_device(generate_images)
            base = generate(prompts, seeds, config=config, guidance=guidance)
            if path is None:
                return Drawn(base, None, "")
            exact = checkpoint if "+" in (checkpoint or "") else path.name  # the same one, whatever is saved meanwhile
            return Drawn(base, generate(prompts, seeds, run=run, checkpoint=exact, guidance=guidance), path.name)


def evaluate(context: PageContext, run: Run, checkpoint: str | None, images: int) -> None:
    """Judge a checkpoint against the base and leave evaluation.json in the run's folder.

    Args:
        context: lends the device.
        run: whose checkpoint.
        checkpoint: its name; the newest where None.
        images: of base and tuned each.

    Raises:
        InputError: no checkpoint, a missing model, prompt file or reference set, or memory or disk gave out.
    """
    with context.manager.device("evaluate"):
        from backend.evaluation.evaluate import evaluate_run

        with explained(f"evaluating {images} images", [_others_memory(context), f"run `python -m backend evaluate {run.id} --device cpu`"]):
            context.on_device(evaluate_run)(run, images=images, checkpoint=checkpoint)


def reference_features(context: PageContext, images: np.ndarray, extractor: str) -> tuple[np.ndarray, dict[str, Any]]:
    """Features of reference images by an extractor, float32 [M, D], and what the extractor says of itself.

    Raises:
        InputError: unknown extractor, its weights are not here, or memory or disk gave out.
    """
    with context.manager.device("features"):
        from backend.reference.embedding import image_features

        with explained(f"building features of {len(images)} images", ["choose a smaller extractor", _others_memory(context)]):
            return context.on_device(image_features)(images, extractor)


def checkpoint_choices(run: Run) -> list[tuple[str, str]]:
    """Checkpoints for a dropdown: the newest and the best by these words, then each by its name, newest first."""
    found = run.checkpoints()
    newest = [(f"newest (episode {found[-1].episode})", NEWEST)] if found else []
    best = [(f"best (episode {c.episode})", BEST) for c in found if c.best]
    return [*newest, *best, *((f"episode {c.episode}", c.name) for c in reversed(found))]


def offered_checkpoints(run: Run, chosen: str | None) -> tuple[list[tuple[str, str]], str | None]:
    """The checkpoints that there are now, and the one chosen: the newest where that one is gone; a mixture stays."""
    choices = checkpoint_choices(run)
    stays = chosen in [value for _, value in choices] or (choices and "+" in (chosen or ""))
    return choices, chosen if stays else choices[0][1] if choices else None
