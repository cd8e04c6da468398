"""Where a run goes on: its newest sound checkpoint, tables cut back to it, live changes that came after it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from backend.runs import TABLES, Run
from backend.runs.control import drop_requests
from backend.runs.events import standing_changes
from backend.runs.run import FOLDERS
from backend.runs.tables import cut_after
from backend.training.checkpoint import newest_sound, put_away, sweep
from backend.training.control import Control
from backend.training.recorder import Recorder


@dataclass
class Beginning:
    """What a run goes on from.

    Attributes:
        episode: completed episodes.
        state: the checkpoint's content; None where the run starts from the beginning.
        checkpoint: its name.
        sentences: what a person should know (damaged checkpoints, dropped requests).
        changes: live changes recorded after the checkpoint, by the episode that they took effect in.
    """

    episode: int = 0
    state: dict[str, Any] | None = None
    checkpoint: str = ""
    sentences: list[str] = field(default_factory=list)
    changes: dict[int, list[dict[str, Any]]] = field(default_factory=dict)


def begin(run: Run) -> Beginning:
    """Prepare a run's folder for a new attempt: readers that see the new attempt's number find only rows up to the checkpoint.

    Raises:
        OSError: the folder cannot be written.
    """
    for folder in FOLDERS:
        (run.path / folder).mkdir(exist_ok=True)  # empty folders do not survive a zip
    sweep(run)
    found = newest_sound(run)
    start = Beginning()
    newest_first = run.checkpoints()[::-1]
    damaged = newest_first[: len(found.passed_over)] if found else newest_first
    if found:
        start.episode, start.state, start.checkpoint = found.info.episode, found.state, found.info.name
    faults = found.passed_over if found else [f"{info.name} is damaged" for info in damaged]
    instead = f"{start.checkpoint} is used instead" if found else "no other is left, so the run begins anew"
    for info, fault in zip(damaged, faults, strict=True):
        start.sentences.append(f"checkpoint {fault}: {instead}; it is kept as checkpoints/{put_away(run, info)}")
    for name in TABLES:
        cut_after(run.table_path(name), start.episode + 1)
    # What waits while a run is queued was meant for this attempt; what a dead process left was not.
    dropped = drop_requests(run.control_dir) if run.status().state != "queued" else []
    if dropped:
        start.sentences.append(
            f"{len(dropped)} request{'s' if len(dropped) > 1 else ''} left for the earlier process were dropped: {', '.join(r.kind or 'rubbish' for r in dropped)[:100]}"
        )
    start.changes = recorded_changes(run, start.episode + 1)
    return start


def leave_changes(control: Control, recorder: Recorder) -> None:
    """Record live changes that were accepted and that no episode has taken as changes of the next one, so that a resumed run applies them."""
    for change in control.take_changes():
        recorder.event("change", episode=recorder.status.episode + 1, **change)


def recorded_changes(run: Run, from_episode: int) -> dict[int, list[dict[str, Any]]]:
    """Live changes that people made and that still stand, by episode, from an episode on. What the trainer changed by itself it will change again."""
    found: dict[int, list[dict[str, Any]]] = {}
    for event in standing_changes(run.events()):
        if event.get("source") != "recovery" and isinstance(event.get("episode"), int) and event["episode"] >= from_episode:
            found.setdefault(event["episode"], []).append({"field": event.get("field"), "value": event.get("value"), "old": event.get("old")})
    return found
