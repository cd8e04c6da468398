"""What a running trainer is told: requests in the run's folder, taken at every step, acted on between episodes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from backend.config import TrainConfig
from backend.errors import InputError
from backend.runs import Run
from backend.runs.control import Request, pending_requests, remove_request
from backend.runs.process import is_same_process_alive
from backend.training.lease import DeviceLease
from backend.training.live import validate_change

POLL_SECONDS = 0.1  # looking into a folder takes 20 microseconds here, on a network share a few milliseconds
LOAN_SECONDS = 600.0  # of the device to another process, unless it asks again meanwhile
OF_EPISODES = ("pause", "save_now", "sample_now", "change")  # nothing obeys them after the last one


class Control:
    """Requests of one run. The trainer asks `should_stop` at every denoising step and `turnover` between episodes.

    Args:
        run: whose control folder is watched.
        lease: the device's lease in this process, where others want the device too.
    """

    def __init__(self, run: Run, lease: DeviceLease | None = None) -> None:
        self.run = run
        self.lease = lease
        self.config: TrainConfig = run.config
        self.paused = False
        self.stopping = False
        self.over = False
        self.save_now = False
        self.sample_now = False
        self.changes: list[dict[str, Any]] = []
        self.acknowledge: Callable[[Request, bool, str], None] = lambda request, accepted, message: None
        self.waiting: Callable[[bool, bool], None] = lambda paused, lent: None
        self._loan: tuple[int, float | None, float] | None = None
        self._looked = float("-inf")
        self._lock = threading.RLock()

    def request_stop(self) -> None:
        """Stop from within this process (Ctrl-C, SIGTERM, shutdown)."""
        self.stopping = True

    def should_stop(self) -> bool:
        """Whether to leave the rollout or update in hand now."""
        self.poll()
        return self.stopping

    def poll(self, at_once: bool = False) -> None:
        """Take what waits in the control folder, at most every `POLL_SECONDS` unless `at_once`."""
        with self._lock:
            if not at_once and time.monotonic() - self._looked < POLL_SECONDS:
                return
            self._looked = time.monotonic()
            for request in pending_requests(self.run.control_dir):
                try:
                    accepted, message = self._take(request)
                except InputError as error:
                    accepted, message = False, str(error)
                self.acknowledge(request, accepted, message)
                remove_request(self.run.control_dir, request)

    def _take(self, request: Request) -> tuple[bool, str]:
        if request.refusal:
            return False, f"request {request.file[:60]!r} {request.refusal}"
        if self.over and request.kind in OF_EPISODES:
            return False, f"{request.kind.replace('_', ' ')} came after the last episode: its checkpoint and sample are written, only the evaluation is left, and Stop ends that"
        if request.kind == "stop":
            self.stopping = True
            return True, "stopping: the episode in hand is left, a checkpoint is written"
        if request.kind in ("pause", "resume"):
            self.paused = request.kind == "pause"
            return True, "pausing after this episode" if self.paused else "going on"
        if request.kind == "save_now":
            self.save_now = True
            return True, "a checkpoint is written after this episode"
        if request.kind == "sample_now":
            self.sample_now = True
            return True, "a sample is drawn after this episode"
        if request.kind in ("lend", "give_back"):
            return self._take_loan(request)
        return self._take_change(request)

    def _take_loan(self, request: Request) -> tuple[bool, str]:
        pid, created = request.payload.get("pid"), request.payload.get("pid_create_time")
        if request.kind == "give_back":
            self._loan = None
            return True, "the device is back"
        if not isinstance(pid, int) or not isinstance(created, int | float):
            raise InputError("lend needs pid and pid_create_time of the process that asks")
        self._loan = (pid, float(created), time.monotonic() + LOAN_SECONDS)
        return True, "the device is lent after this episode"

    def _take_change(self, request: Request) -> tuple[bool, str]:
        field, value = request.payload.get("field"), request.payload.get("value")
        new = validate_change(self.config, field, value)
        old = getattr(self.config, field)
        self.config = new
        self.changes.append({"field": field, "value": getattr(new, field), "old": old, "request": request.id})
        return True, f"{field}: {old} becomes {getattr(new, field)} with the next episode"

    def take_changes(self) -> list[dict[str, Any]]:
        """Accepted changes since the last call."""
        with self._lock:
            taken, self.changes = self.changes, []
        return taken

    def end(self) -> list[str]:
        """After the last episode: refuse from now on what only episodes obey; returns what was accepted and cannot be done any more."""
        left = [f"{change['field']} stays {change['old']}" for change in self.take_changes()] + ["the pause is not held"] * self.paused
        self.over, self.paused = True, False
        return [f"{sentence}: it was asked for in the last episode, and no other follows" for sentence in left]

    def turnover(self) -> bool:
        """Between two episodes: give the device to whoever waits for it, and wait while paused.

        Returns:
            False where the run is to stop.
        """
        self.poll(at_once=True)
        while not self.stopping:
            lent = self._lent()
            if not (self.paused or lent):
                break
            self.waiting(self.paused, lent)
            self._stand_aside()
            self.poll(at_once=True)
        self.waiting(False, False)
        if self.lease is not None and not self.stopping:
            self.lease.let_others()
        return not self.stopping

    def _stand_aside(self) -> None:
        if self.lease is None:
            time.sleep(POLL_SECONDS)
            return
        with self.lease.released():
            time.sleep(POLL_SECONDS)

    def _lent(self) -> bool:
        if self._loan is None:
            return False
        pid, created, deadline = self._loan
        if time.monotonic() > deadline or not is_same_process_alive(pid, created):
            self._loan = None
            return False
        return True


def counting_stop(control: Control, phase: Callable[..., None], name: str, steps: int = 0) -> Callable[[], bool]:
    """`control.should_stop` that says at each call how far a phase is.

    Args:
        control: what is asked.
        phase: told the phase's name, which step this is, and how many there are (`Recorder.phase`).
        name: of the phase.
        steps: 0 where it is not known how many.
    """
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        phase(name, min(asked, steps or asked), steps)
        return control.should_stop()

    return stop
