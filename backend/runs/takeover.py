"""Taking a run over: exactly one process becomes the writer of an attempt."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from backend.errors import InputError
from backend.runs.files import read_json, write_json
from backend.runs.process import host_name, identity, is_same_process_alive

PATIENCE_SECONDS = 2.0  # between a rival's mkdir and its name inside; far longer than both take


def claim_attempt(folder: Path, known: int) -> int:
    """Become the next attempt's only writer by an exclusive `mkdir attempts/<n>`.

    Args:
        folder: the run's `attempts` folder.
        known: attempt that status.json names; the caller has seen that its writer is dead.

    Returns:
        The number of the attempt that this process now owns.

    Raises:
        InputError: another process owns it or is just taking it.
    """
    folder.mkdir(exist_ok=True)
    number = known + 1
    while (folder / str(number)).exists():
        if _owner_lives(folder / str(number)):
            raise InputError(f"run {folder.parent.name} is being taken over by another process: look again in a moment")
        number += 1
    try:
        (folder / str(number)).mkdir()
    except FileExistsError:
        raise InputError(f"run {folder.parent.name} was taken over by another process at this moment") from None
    write_json(folder / str(number) / "owner.json", identity())
    return number


def release_attempt(folder: Path, number: int) -> None:
    """Give back an attempt that wrote nothing: its owner may live on, and the next one need not wait for its death."""
    shutil.rmtree(folder / str(number), ignore_errors=True)


def _owner_lives(attempt: Path) -> bool:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (owner := read_json(attempt / "owner.json")) is None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    if owner.get("host") != host_name():
        return True
    return is_same_process_alive(int(owner.get("pid") or 0), owner.get("pid_create_time"))
