"""Turns of the runs that wait for a lent GPU (`backend.training.chunks`): one at a time, and none for a run that was stopped meanwhile."""

from __future__ import annotations

import threading

from backend.errors import InputError
from backend.runs import Run, RunStore
from backend.training.chunks import Chunk
from backend.training.executors import settle
from backend.training.lease import DeviceLease

PATIENCE_SECONDS = 300.0  # for the chunks of others


class Turns:
    """Gives each waiting run its turn on the GPU.

    Args:
        store: where runs live.
        lease: of the GPU, within this process.
        chunk: trains a run, by folder and id, for a while.
    """

    def __init__(self, store: RunStore, lease: DeviceLease, chunk: Chunk) -> None:
        self.store, self.lease, self.chunk = store, lease, chunk
        self.in_hand: set[str] = set()
        self._lock = threading.Lock()

    def take(self, run: Run) -> str:
        """Train a run that waits for as long as the GPU is lent.

        Returns:
            The sentence for the person; empty where the run does not wait, or no longer when its turn comes.

        Raises:
            InputError: the GPU is busy for too long, or the run's files refuse.
            Exception: whatever the lender raises where it refuses; the run is then stopped, and Continue queues it again.
        """
        before = run.status()
        if before.state != "queued":
            return ""
        try:
            self.lease.acquire(f"run {run.id}", PATIENCE_SECONDS)
        except InputError:
            self._give_up(run, before.attempt, "the GPU was lent to others for too long: press Continue to wait again")
            raise
        try:
            if not self._begin(run, before.attempt):
                return ""
            return self.chunk(str(self.store.root), run.id)
        except Exception:
            self._give_up(run, before.attempt, "the GPU was not lent: press Continue to try again")
            raise
        finally:
            self.in_hand.discard(run.id)
            self.lease.release()

    def leave(self, run: Run) -> bool:
        """Take a run out that waits; False where it does not wait, or its turn has begun."""
        with self._lock:
            waits = run.id not in self.in_hand and run.status().state == "queued"
            if waits:
                settle(run, "stopped", "left before its turn on the GPU", error="")
            return waits

    def _begin(self, run: Run, attempt: int) -> bool:
        with self._lock:
            waits = self._waits(run, attempt)
            if waits:
                self.in_hand.add(run.id)
            return waits

    def _give_up(self, run: Run, attempt: int, message: str) -> None:
        with self._lock:
            if self._waits(run, attempt):
                settle(run, "stopped", message, error="")

    @staticmethod
    def _waits(run: Run, attempt: int) -> bool:
        """Whether it still waits as it did: who stops and continues it meanwhile has queued another attempt."""
        status = run.status()
        return (status.state, status.attempt) == ("queued", attempt)
