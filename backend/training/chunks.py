"""Training in chunks, where a GPU is lent for less than a minute at a time (Hugging Face ZeroGPU).

No background thread may hold that GPU: every chunk is a call of its own from the visitor's own event, in a process that
is forked for it. Its memory does not come back, its files do; so a chunk is a resume, some episodes and a checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backend.runs import Run, RunStore
from backend.runs.status import StatusWriter
from backend.training.control import Control

CHUNK_SECONDS = 40.0  # of GPU time a chunk: visitors without an account have a few minutes a day
GRACE_SECONDS = 20.0  # on top, for the episode in hand and for the checkpoint
WAITING_SECONDS = 900.0  # a run that has waited longer has lost the visitor whose event would have trained it

Chunk = Callable[[str, str], str]


class TimedControl(Control):
    """Requests of one run, and an end of its time: between two episodes where the next would not fit, else at once.

    Args:
        run: whose control folder is watched.
        seconds: of this chunk.
        grace: seconds more that an episode in hand may take.
    """

    def __init__(self, run: Run, seconds: float, grace: float) -> None:
        super().__init__(run)
        self.out_of_time = False
        self._end = time.monotonic() + seconds
        self._last_end = self._end + grace
        self._turned: float | None = None
        self._longest = 0.0

    def poll(self, at_once: bool = False) -> None:
        """See `Control`; past the grace everything stops."""
        super().poll(at_once)
        if time.monotonic() > self._last_end:
            self._leave()

    def turnover(self) -> bool:
        """See `Control`; False also where the next episode would not fit."""
        now = time.monotonic()
        self._longest = max(self._longest, now - self._turned) if self._turned else 0.0
        if self._turned and now + self._longest > self._end:
            self._leave()
        going = super().turnover()
        self._turned = time.monotonic()
        return going

    def _leave(self) -> None:
        self.out_of_time = self.out_of_time or not self.stopping
        self.stopping = True


def train_chunk(root: str, run_id: str, seconds: float = CHUNK_SECONDS, grace: float = GRACE_SECONDS / 2, **keywords: Any) -> str:
    """Train a run for some seconds and leave a checkpoint.

    Args:
        root: folder of runs.
        run_id: a run that waits.
        seconds: of training, loading included.
        grace: seconds more for the episode in hand, before it is left.
        keywords: for `train`, from tests.

    Returns:
        A sentence for the visitor.

    Raises:
        InputError: another process owns the run, or its files refuse.
    """
    from backend.training.trainer import train

    run = RunStore(Path(root)).get(run_id)
    control, before, resumed = TimedControl(run, seconds, grace), run.status().episode, bool(run.checkpoints())
    state = train(run.config, run, control, executor="chunk", **keywords)
    status = run.status()
    if state != "stopped" or not control.out_of_time:
        return status.error or f"{state} after {status.episode} of {status.total} episodes"
    sentence = f"{status.episode} of {status.total} episodes; this turn on the GPU is over: press Continue for the next"
    if status.episode == before and resumed:  # the first chunk may be spent on loading and on the base model's images
        sentence = f"no episode fits into {seconds + grace:.0f} s on this GPU: take fewer images or steps"
    StatusWriter(run.status_path, status).update(message=sentence)
    return sentence


def chunks_awaited(store: RunStore) -> list[str]:
    """Ids of the runs that wait for a chunk; those that nobody came back for take no place."""
    queued = [run for run in store.runs() if store.effective_state(run) == "queued"]
    return [run.id for run in queued if time.time() - (run.status().updated_at or 0.0) <= WAITING_SECONDS]


def lend_gpu(function: Callable[..., Any], seconds: float = CHUNK_SECONDS + GRACE_SECONDS) -> Callable[..., Any]:
    """The function as a call that ZeroGPU lends its GPU to for so many seconds; only where the package `spaces` is."""
    import spaces

    return spaces.GPU(duration=round(seconds))(function)
