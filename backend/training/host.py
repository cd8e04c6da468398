"""One worker thread that owns the device and hosts the queued runs of this process, one after another."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from backend.errors import InputError
from backend.runs import Run, RunStore
from backend.runs.status import StatusWriter
from backend.training.executors import Executor, ProcessExecutor, ThreadExecutor, settle, wants_process
from backend.training.lease import DeviceLease
from backend.training.libraries import free_cached_memory, import_trainer
from backend.training.loans import left_training, lent_by, trains_alone

LOOK_SECONDS = 0.5  # between two looks for runs that were left training


class Host:
    """The queue and its worker.

    Args:
        store: where runs live.
        build: session builder of thread-hosted runs, for tests.
        command: command of process-hosted runs, for tests.
    """

    def __init__(self, store: RunStore, build: Any = None, command: Any = None) -> None:
        self.store = store
        self.lease = DeviceLease()
        self.sentences: dict[str, str] = {}
        self._build, self._command = build, command
        self._loans = DeviceLease()
        self._waiting: list[str] = []
        self._active: tuple[str, Executor] | None = None
        self._condition = threading.Condition()
        self._worker: threading.Thread | None = None
        self._closing = False

    @property
    def has_own_sessions(self) -> bool:
        """Whether sessions come from elsewhere than the settings' files (tests)."""
        return self._build is not None or self._command is not None

    @property
    def active(self) -> tuple[str, Executor] | None:
        """The run in hand and its executor."""
        return self._active

    def ids(self) -> list[str]:
        """Runs in order: the one in hand, then those that wait."""
        with self._condition:
            return ([self._active[0]] if self._active else []) + self._waiting

    def waiting(self) -> list[str]:
        """Runs that wait, in order."""
        with self._condition:
            return list(self._waiting)

    def enqueue(self, run: Run) -> None:
        """Add a run at the end."""
        with self._condition:
            self._waiting.append(run.id)
            self.sentences.pop(run.id, None)  # what was said of its last attempt
            if self._worker is None or not self._worker.is_alive():
                self._worker = threading.Thread(target=self._work, name="trainer", daemon=True)
                self._worker.start()
            self._condition.notify_all()

    def take_out(self, run: Run) -> bool:
        """Take a waiting run out of the queue; False where it does not wait here."""
        with self._condition:
            if run.id not in self._waiting:
                return False
            self._waiting.remove(run.id)
            settle(run, "stopped", "taken out of the queue", error="")
            self._condition.notify_all()
        return True

    def _work(self) -> None:
        while True:
            with self._condition:
                while not self._waiting and not self._closing:
                    self._condition.wait()
                if self._closing:
                    return
                run_id = self._waiting.pop(0)
                try:
                    run = self.store.get(run_id)
                except InputError as error:
                    self.sentences[run_id] = str(error)
                    self._condition.notify_all()
                    continue
                try:
                    executor = self._executor(run)
                except Exception as error:  # settings that cannot be read here, or a model's folder
                    self._lost(run, error)
                    self._condition.notify_all()
                    continue
                self._active = (run_id, executor)
            self._host(run, executor)

    def _host(self, run: Run, executor: Executor) -> None:
        try:
            if not self._await_left(run):
                return
            with self._loans.held(f"run {run.id}"):
                pass  # who borrowed the device from a run that has ended since still works on it
            with self.lease.held(f"run {run.id}"):
                sentence = executor.execute(run)
            if sentence:
                self.sentences[run.id] = sentence
            settle(run, "failed", "", error=sentence or "the trainer ended without a word; log.txt has its last lines")
        except Exception as error:
            self._lost(run, error)
        finally:
            with self._condition:
                self._active = None
                self._condition.notify_all()

    def _await_left(self, run: Run) -> bool:
        """Wait for runs that trained on when their server ended: they have the device, and no lease of this process says so.

        Returns:
            Whether the run may begin; False where it was stopped meanwhile.
        """
        while left := left_training(self.store, but=run.id):
            if self._closing or run.asked() == "stop":
                settle(run, "stopped", "stopped while it waited for the device", error="")
                return False
            phase = f"waiting for run {left[0].id}"
            if run.status().phase != phase:
                whose = f"it trains on this machine in process {left[0].status().pid}, of the command line, another server or one that has ended"
                StatusWriter(run.status_path, run.status()).update(phase=phase, message=f"{phase}: {whose}; this run begins after it, stop that one to begin now.")
            time.sleep(LOOK_SECONDS)
        return True

    def _lost(self, run: Run, error: Exception) -> None:
        """Settle a run that could not be hosted, so that it can be resumed or deleted."""
        why = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        self.sentences[run.id] = f"run {run.id} could not be hosted ({why}): mend that and press Resume"
        settle(run, "failed", "", error=self.sentences[run.id])

    def _executor(self, run: Run) -> Executor:
        if wants_process(run.config):
            return ProcessExecutor(self.store.root, self._command)
        return ThreadExecutor(self.lease, self._build)

    @contextmanager
    def device(self, name: str, timeout: float = 300.0) -> Iterator[None]:
        """Own the device within the block, between two episodes of whatever trains here; what the block took of its memory is given back.

        Raises:
            InputError: it did not become free in time.
        """
        if not self.has_own_sessions:
            import_trainer()
        with self._loans.held(name, timeout), ExitStack() as borrowed:
            active = self._active
            left = left_training(self.store, but=active[0] if active else "")
            if active is None or active[1].name == "thread":
                borrowed.enter_context(self.lease.held(name, timeout))
            elif active[1].process is not None or not left:  # what waits for those that are left has nothing to lend
                borrowed.enter_context(lent_by(self.store.get(active[0]), lambda: self._active is not active, timeout))
            for run in left:
                borrowed.enter_context(lent_by(run, lambda run=run: not trains_alone(run), timeout))
            try:
                yield
            finally:
                free_cached_memory()

    def wait_until_idle(self, timeout: float | None = None) -> bool:
        """Wait until nothing trains or waits here; whether that was reached."""
        with self._condition:
            return self._condition.wait_for(lambda: self._active is None and not self._waiting, timeout)

    def shutdown(self, timeout: float = 60.0) -> bool:
        """Stop gracefully: the run in hand writes its checkpoint, those that wait are taken out of the queue."""
        with self._condition:
            for run_id in self._waiting:
                settle(Run(self.store.root / run_id), "stopped", "the server shut down before it began", error="")
            self._waiting.clear()
            self._closing = True
            if self._active:
                self._active[1].stop()
            self._condition.notify_all()
        worker = self._worker
        if worker is not None:
            worker.join(timeout)
        return worker is None or not worker.is_alive()
