"""What happens where an update is not finite: it is told and counted, and after three in a row the run goes back and slows down."""

from __future__ import annotations

from typing import Any

from backend.config import TrainConfig
from backend.runs import Run
from backend.training.checkpoint import newest_sound
from backend.training.progress import Progress
from backend.training.recorder import Recorder

SKIPS_BEFORE_RESTORE = 3


def count_damage(progress: Progress, recorder: Recorder, damaged: bool, stepped: bool) -> bool:
    """Count an update that was skipped, and say where something was not finite.

    Args:
        progress: counts.
        recorder: told.
        damaged: something was not finite.
        stepped: a step was taken all the same, without what was damaged.

    Returns:
        Whether it is time to go back to a checkpoint.
    """
    skipped = damaged and not stepped
    progress.skipped += skipped
    progress.skipped_in_a_row = progress.skipped_in_a_row + 1 if skipped else 0
    if damaged:
        then = f"that step was skipped ({progress.skipped} so far)" if skipped else "what it touched was left out of that step"
        recorder.alert(f"episode {progress.episode}: not a finite number in the images, the reward, the loss or its gradient, or a gradient of nothing but zeros; {then}")
    return progress.skipped_in_a_row >= SKIPS_BEFORE_RESTORE


def sound_before(run: Run, episode: int, every: int) -> tuple[str, dict[str, Any]]:
    """Name and state of the newest sound checkpoint from before the bad updates that end with `episode`; an empty state where there is none.

    One that a Stop or a wish saved, not a multiple of `every`, comes second: a run that was never stopped would not have it to go back to.
    Failing both, the newest of all.
    """
    before = episode - SKIPS_BEFORE_RESTORE
    found = newest_sound(run, before, every) or newest_sound(run, before) or newest_sound(run)
    return (found.info.name, found.state) if found else ("no checkpoint", {})


def halved_pace(live: TrainConfig, clip_nats: float) -> dict[str, float]:
    """Settings that halve the pace: the learning rates, and TRPO's clip range, since its steps are as long as the trust region that follows from it."""
    halved = {"learning_rate": live.learning_rate / 2, "learning_rate_critic": live.learning_rate_critic / 2}
    return halved | ({"clip_range_nats": clip_nats / 2} if live.algorithm == "TRPO" else {})


def said_of(halved: dict[str, float]) -> str:
    """What was halved, in words."""
    return f"clip range ({halved['clip_range_nats']:g} nats)" if "clip_range_nats" in halved else f"learning rate ({halved['learning_rate']:g})"
