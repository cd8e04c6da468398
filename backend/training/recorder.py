"""Writes what happens in a run to its directory. A refusing disk makes it wait, never forget."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from backend.runs import TABLES, Run, Status
from backend.runs.control import Request
from backend.runs.events import EventLog
from backend.runs.status import StatusWriter
from backend.runs.tables import TableWriter, append_whole, header
from backend.training.redact import redact

RETRY_SECONDS = 1.0
PATIENCE_SECONDS = 600.0  # how long a run waits for space before it gives up


class RunLost(RuntimeError):
    """The run's folder is gone or stays unwritable: there is nowhere left to record to."""


class Recorder:
    """The one writer of a run's files.

    Args:
        run: the run.
        status: what its status starts as.
        observe: called with (kind, content) for whoever watches in this process, such as a progress bar.
    """

    def __init__(self, run: Run, status: Status, observe: Callable[[str, dict[str, Any]], None] | None = None) -> None:
        self.run = run
        self.writer = StatusWriter(run.status_path, status)
        self.observe = observe or (lambda kind, content: None)
        self.trouble = ""
        self.patience_seconds = PATIENCE_SECONDS
        self._events = EventLog(run.events_path)
        self._tables: dict[str, TableWriter] = {}
        self._log_pending: list[str] = []
        if not self.writer.update():
            raise RunLost(f"run {run.id}: {self.writer.trouble}")
        self.writer.start_heartbeat()

    @property
    def status(self) -> Status:
        """The status as last set."""
        return self.writer.status

    def state(self, state: str, **fields: Any) -> None:
        """Go to another state, with an event."""
        if "error" in fields:
            fields["error"] = redact(fields["error"])
        self.writer.update(state=state, **fields)
        self.event("status", state=state, episode=self.status.episode, message=fields.get("error") or fields.get("message") or "")

    def phase(self, phase: str, step: int = 0, steps: int = 0) -> None:
        """What is being done now; the next heartbeat carries it."""
        self.writer.note(phase=phase, step=step, steps=steps)

    def event(self, kind: str, **content: Any) -> None:
        """Add an event."""
        self._try(lambda: self._events.append(kind, **content))
        self.observe(kind, content)

    def alert(self, message: str, **content: Any) -> None:
        """Say something that a person should know, in the events and in the log; `level="error"` where something failed, `alert` names a warning that may pass."""
        message = redact(message)
        self.log(f"ALERT {message}")
        self.event("alert", message=message, episode=self.status.episode, **content)

    def acknowledge(self, request: Request, accepted: bool, message: str) -> None:
        """Answer a request; what was asked stays in the status until it is done."""
        requested = {"stop": "stop", "pause": "pause", "resume": ""}.get(request.kind)
        if accepted and requested is not None and self.status.requested not in ("stop", requested):
            self.writer.update(requested=requested)
        self.event("acknowledgement", request=request.id, request_kind=request.kind, accepted=accepted, message=redact(message)[:500])

    def log(self, text: str) -> None:
        """Add a line to log.txt."""
        self._log_pending.append(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {redact(text)}\n")
        self._try(self._flush_log)
        self.observe("log", {"text": text})

    def rows(self, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows to a table; a new table of components takes its columns from the first row."""
        if not rows:
            return
        if table not in self._tables:
            path = self.run.table_path(table)
            known = TABLES[table] if header(path) or table != "reward_components" else dict.fromkeys([*TABLES[table], *rows[0]])
            extra = [n for n in rows[0] if n not in known] if table == "policy_updates" else []
            self._tables[table] = TableWriter(path, [*known, *extra])
        self._try(lambda: self._tables[table].append(rows))

    def _flush_log(self) -> None:
        if self._log_pending:
            append_whole(self.run.log_path, "".join(self._log_pending).encode())
            self._log_pending.clear()

    def _try(self, write: Callable[[], Any]) -> None:
        try:
            write()
        except OSError as error:
            self.trouble = f"{self.run.id} cannot be written ({error.strerror or error})"

    def flush(self) -> bool:
        """Write everything that waits.

        Returns:
            Whether nothing waits any more.
        """
        self.trouble = ""
        for write in (self._flush_log, self._events.flush, *(t.flush for t in self._tables.values())):
            self._try(write)
        return not self.trouble

    def hold_until_written(self, should_stop: Callable[[], bool], write: Callable[[], str] | None = None) -> None:
        """Wait while the disk refuses; rows and events stay in memory meanwhile.

        Args:
            should_stop: whether to wait no longer.
            write: what else must be on the disk, tried again and again; returns why it is not, or nothing.

        Raises:
            RunLost: the folder is gone, or the patience or the run is at its end.
        """
        if not self.trouble and not self.writer.trouble and write is None:
            return
        deadline = time.monotonic() + self.patience_seconds
        while reason := self._unwritten(write):
            if not self.run.path.is_dir() or not self.run.config_path.exists():
                raise RunLost(f"the folder of run {self.run.id} was deleted while it was training: the run ended, nothing more was written")
            self.writer.note(phase="waiting for the disk", message=f"{reason}: free space or make it writable; training goes on by itself.")
            if should_stop() or time.monotonic() > deadline:
                raise RunLost(f"{reason}: the run ended after its last checkpoint; free space and press Resume")
            self.observe("trouble", {"message": reason})
            time.sleep(RETRY_SECONDS)
        self.writer.note(phase="", message="")
        self.alert("the disk refused for a while and accepts again: nothing was lost")

    def _unwritten(self, write: Callable[[], str] | None) -> str:
        if not self.flush() or not self.writer.update():
            return self.trouble or self.writer.trouble or f"{self.run.id} cannot be written"  # a heartbeat may have succeeded meanwhile
        return write() if write else ""

    def close(self) -> None:
        """End the heartbeat; the last state must have been set before."""
        self.flush()
        self.writer.stop_heartbeat()
