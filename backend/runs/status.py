"""status.json: the state machine of a run, its heartbeat, and how a reader tells a live run from a dead one."""

from __future__ import annotations

import dataclasses
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.runs.files import read_json, write_json
from backend.runs.process import host_name, identity, is_same_process_alive

NEXT: dict[str, tuple[str, ...]] = {
    "queued": ("starting", "stopped", "failed", "interrupted"),
    "starting": ("running", "stopping", "stopped", "failed", "interrupted"),
    "running": ("paused", "stopping", "stopped", "completed", "failed", "interrupted"),
    "paused": ("running", "stopping", "stopped", "failed", "interrupted"),
    "stopping": ("stopped", "completed", "failed", "interrupted"),
    "stopped": ("queued", "starting"),
    "completed": ("queued", "starting"),
    "failed": ("queued", "starting"),
    "interrupted": ("queued", "starting"),
}
LIVE = ("queued", "starting", "running", "paused", "stopping")
TERMINAL = ("stopped", "completed", "failed", "interrupted")
HEARTBEAT_SECONDS = 2.0
STALE_SECONDS = 45.0  # of a silent heartbeat on another machine; shared folders may lag by half a minute


@dataclass(frozen=True)
class Status:
    """What a run's executing process says of itself. `episode` counts completed episodes; times are epoch seconds."""

    state: str = "queued"
    host: str = ""
    pid: int = 0
    pid_create_time: float | None = None
    heartbeat: int = 0
    attempt: int = 0
    episode: int = 0
    total: int = 0
    error: str = ""
    message: str = ""
    phase: str = ""
    step: int = 0
    steps: int = 0
    score: float | None = None
    best_score: float | None = None
    best_episode: int | None = None
    base_level: float | None = None
    reference_level: float | None = None
    probe_score: float | None = None
    trend: str = ""
    seconds_per_episode: float | None = None
    eta_seconds: float | None = None
    requested: str = ""
    device: str = ""
    executor: str = ""
    trainable: int = 0
    skipped: int = 0
    memory_mib: float | None = None
    started_at: float | None = None
    updated_at: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able content."""
        return dataclasses.asdict(self)


_TYPES = {f.name: (str,) if "str" in str(f.type) else (int, float) for f in dataclasses.fields(Status)}


def read_status(path: Path) -> Status:
    """The status on disk; a missing or damaged file reads as an interrupted run that says so."""
    value = read_json(path)
    if value is None or value.get("state") not in NEXT:
        return Status(state="interrupted", error=f"{path.name} is missing or damaged: Resume continues from the newest sound checkpoint")
    good = {name: value[name] for name, types in _TYPES.items() if isinstance(value.get(name), types) and not isinstance(value.get(name), bool)}
    return Status(**good)


class Liveness:
    """A reader's memory of heartbeats: staleness is judged on the reader's own monotonic clock."""

    def __init__(self, stale_seconds: float = STALE_SECONDS) -> None:
        self.stale_seconds = stale_seconds
        self._seen: dict[str, tuple[int, float]] = {}

    def is_alive(self, key: str, status: Status) -> bool:
        """Whether the writer of a status still lives.

        On this machine by pid and create time; elsewhere by a heartbeat counter that moved within `stale_seconds`
        of this reader's first sight of its value.
        """
        if status.host == host_name():
            return is_same_process_alive(status.pid, status.pid_create_time)
        now = time.monotonic()
        counter, since = self._seen.get(key, (None, now))
        if counter != status.heartbeat:
            self._seen[key] = (status.heartbeat, now)
            return True
        return now - since <= self.stale_seconds

    def effective_state(self, key: str, status: Status) -> str:
        """The stored state, or `interrupted` where a live state's writer is dead or silent."""
        if status.state == "queued" and status.executor == "slurm":
            return "queued"  # the cluster holds it; no process of ours lives until the job begins
        if status.state in LIVE and not self.is_alive(key, status):
            return "interrupted"
        return status.state


class StatusWriter:
    """The sole writer of one status.json, with a heartbeat of its own thread.

    A refusing disk does not stop training: `trouble` holds the sentence, the next heartbeat tries again.
    """

    def __init__(self, path: Path, status: Status) -> None:
        self.path = path
        self.status = status
        self.trouble = ""
        self._lock = threading.Lock()
        self._quiet = threading.Event()
        self._thread: threading.Thread | None = None

    def update(self, **changes: Any) -> bool:
        """Change fields and write.

        Returns:
            Whether the file was written.

        Raises:
            RuntimeError: a change of state that the state machine does not know.
        """
        with self._lock:
            state = changes.get("state", self.status.state)
            if state != self.status.state and state not in NEXT[self.status.state]:
                raise RuntimeError(f"a run cannot go from {self.status.state} to {state}")
            self.status = dataclasses.replace(self.status, **changes, heartbeat=self.status.heartbeat + 1, updated_at=round(time.time(), 3))
            return self._write()

    def note(self, **changes: Any) -> None:
        """Change fields that the next heartbeat may carry; nothing is written now."""
        with self._lock:
            self.status = dataclasses.replace(self.status, **changes)

    def _write(self) -> bool:
        try:
            write_json(self.path, self.status.to_dict())
        except OSError as error:
            self.trouble = f"status.json cannot be written: {error.strerror or error}"
            return False
        self.trouble = ""
        return True

    def start_heartbeat(self, seconds: float = HEARTBEAT_SECONDS) -> None:
        """Write every so many seconds from now on, so that a long device call does not look like death."""

        def beat() -> None:
            while not self._quiet.wait(seconds):
                self.update()

        self._quiet.clear()
        self._thread = threading.Thread(target=beat, name=f"heartbeat-{self.path.parent.name}", daemon=True)
        self._thread.start()

    def stop_heartbeat(self) -> None:
        """End the heartbeat's thread; where the last state could not be written, only once it could be."""
        if self.trouble and self.path.parent.is_dir():
            threading.Thread(target=self._insist, name=f"last-state-{self.path.parent.name}", daemon=True).start()
        self._quiet.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
            self._thread = None

    def _insist(self) -> None:
        while self.path.parent.is_dir() and not self.update():
            time.sleep(HEARTBEAT_SECONDS)


def fresh_status(**fields: Any) -> Status:
    """A status of this process, now."""
    return Status(**{**identity(), "started_at": round(time.time(), 3), "updated_at": round(time.time(), 3), **fields})
