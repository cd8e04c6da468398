"""What this process knows of a run beyond the run's folder: whether it hosts it, its place in the queue, what it waits for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from backend.runs import LIVE, Run, RunStore
from backend.runs.process import host_name
from backend.runs.status import Status
from backend.training.host import Host
from backend.training.turns import Turns


@dataclass(frozen=True)
class QueueEntry:
    """One run in the queue; place 0 is training."""

    run_id: str
    place: int
    state: str


class Hosted:
    """States of runs as the process knows them that hosts some of them.

    Args:
        store: where runs live.
        host: the queue of this process.
        turns: of a lent GPU, in the place of the queue.
    """

    def __init__(self, store: RunStore, host: Host, turns: Turns | None) -> None:
        self.store, self.host, self.turns = store, host, turns

    def queue(self) -> list[QueueEntry]:
        """The run that trains and those that wait, in order."""
        first = 0 if self.host.active else 1
        return [QueueEntry(run_id, place, "running" if place == 0 else "queued") for place, run_id in enumerate(self.host.ids(), first)]

    def in_chunk(self) -> set[str]:
        """Runs whose chunk of a lent GPU is under way."""
        return set(self.turns.in_hand) if self.turns else set()

    def state(self, run: Run, status: Status | None = None) -> str:
        """The effective state; also `interrupted` where this process says that it writes the run and does not host it."""
        status = status or run.status()
        state = self.store.liveness.effective_state(str(run.path), status)
        mine = (status.host, status.pid) == (host_name(), os.getpid())
        hosted = run.id in self.host.ids() or run.id in self.in_chunk() or (self.turns is not None and state == "queued")
        return "interrupted" if state in LIVE and mine and not hosted else state

    def requested(self, run: Run, status: Status, state: str) -> str:
        """What a live run was asked for and has not obeyed yet: stop, pause or nothing."""
        return (run.asked() or status.requested) if state in LIVE else ""

    def status(self, run: Run) -> dict[str, Any]:
        """See `Manager.status`."""
        status = run.status()
        state = self.state(run, status)
        place = next((e.place for e in self.queue() if e.run_id == run.id), None)
        return {
            **status.to_dict(),
            "requested": self.requested(run, status, state),
            "effective_state": state,
            "place": place,
            "waiting": self._why_waiting(place, status) or self.host.sentences.get(run.id, ""),
            "hosted_here": place is not None,
        }

    def _why_waiting(self, place: int | None, status: Status) -> str:
        if not place:  # what is waited for has its remedy in the message
            return (status.message or status.phase) if status.phase.startswith("waiting for") else ""
        active = self.host.active
        if active is None:
            return f"waits for the device ({self.host.lease.holder or 'starting'})"
        ahead = f"run {active[0]}" + (f" and {place - 1} more" if place > 1 else "")
        return f"number {place} in the queue, behind {ahead}"
