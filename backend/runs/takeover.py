"""Taking a run over: exactly one process becomes the writer of an attempt."""

from __future__ import annotations

import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from backend.errors import InputError
from backend.runs.files import read_json, write_json
from backend.runs.process import host_name, identity, is_same_process_alive
from backend.runs.status import HEARTBEAT_SECONDS, STALE_SECONDS, read_status

PATIENCE_SECONDS = 2.0  # between a rival's mkdir and its name inside; far longer than both take
OWNER = "owner.json"


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
        if sentence := _why_owned(folder / str(number), known):
            raise InputError(f"run {folder.parent.name} {sentence}")
        number += 1
    try:
        (folder / str(number)).mkdir()
    except FileExistsError:
        raise InputError(f"run {folder.parent.name} was taken over by another process at this moment") from None
    write_json(folder / str(number) / OWNER, identity())
    return number


@contextmanager
def claimed(folder: Path, known: int) -> Iterator[int]:
    """`claim_attempt` for what comes before the attempt's first status.

    The claim shows that its owner lives as long as the block takes; where the block fails it is given back, since its
    owner may live on and nothing would ever come of it.

    Raises:
        InputError: as `claim_attempt`.
    """
    number, over = claim_attempt(folder, known), threading.Event()

    def beat() -> None:
        while not over.wait(HEARTBEAT_SECONDS):
            with suppress(OSError):
                os.utime(folder / str(number) / OWNER)

    beating = threading.Thread(target=beat, name=f"claim-{folder.parent.name}", daemon=True)
    beating.start()
    try:
        yield number
    except BaseException:
        shutil.rmtree(folder / str(number), ignore_errors=True)
        raise
    finally:
        over.set()
        beating.join()


def _why_owned(attempt: Path, known: int) -> str:
    """Why nobody else may take this attempt's run; empty where its owner is dead."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (owner := read_json(attempt / OWNER)) is None:
        if time.monotonic() > deadline:
            return ""
        time.sleep(0.02)
    if owner.get("host") != host_name():
        silent = _silent_seconds(attempt, known)
        said = f"is being taken over by a process on {owner.get('host')}, which showed itself {silent:.0f} s ago"
        return "" if silent > STALE_SECONDS else f"{said}: it counts as lost after {STALE_SECONDS:.0f} s without a sign, look again then"
    lives = is_same_process_alive(int(owner.get("pid") or 0), owner.get("pid_create_time"))
    return "is being taken over by another process: look again in a moment" if lives else ""


def _silent_seconds(attempt: Path, known: int) -> float:
    """Seconds since a claim or the run's status last moved, on the clock of the file system: this machine's may differ from the owner's."""
    status = attempt.parent.parent / "status.json"
    if read_status(status).attempt > known:
        return 0.0
    probe = attempt.parent / f".tmp-{uuid.uuid4().hex}"
    try:
        probe.touch()
        return probe.stat().st_mtime - max(_modified(attempt / OWNER), _modified(status))
    finally:
        probe.unlink(missing_ok=True)


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
