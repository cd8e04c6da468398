"""One reader per run, shared by every viewer: it reads what is new on disk and numbers its versions."""

from __future__ import annotations

import threading
import time
from typing import Any

from backend.analysis.series import probe_gains
from backend.errors import InputError
from backend.runs import Run
from backend.runs.events import standing_changes
from components import banner
from components.series import chart_payload

FRESH_SECONDS = 0.4
FORCE_AFTER_SECONDS = 30
LOG_LINES = 120


class RunFeed:
    """What a run shows now. Every part has a version that grows when the part changes; viewers skip what they have.

    Args:
        run: the run.
        source: "runs", or "demo" for a recorded run.
        manager: answers for state and queue place; None for a recorded run.
    """

    def __init__(self, run: Run, source: str, manager: Any) -> None:
        self.run, self.source, self.manager = run, source, manager
        self.status: dict[str, Any] = {}
        self.parts: dict[str, Any] = {"banner": "", "charts": None, "film": None, "log": "", "alerts": "", "knobs": {}}
        self.versions: dict[str, int] = dict.fromkeys(self.parts, 0)
        self.events: list[dict[str, Any]] = []
        self._columns: dict[str, list[Any]] = {}
        self._offset, self._attempt, self._seq, self._rows = 0, None, 0, -1
        self._sample, self._policy = -1, {}
        self._signature: Any = None
        self._read_again = False
        self._read_at, self._stopping_since = 0.0, None
        self._lock = threading.Lock()

    def refresh(self) -> None:
        """Read what is new, at most every 0.4 s however many viewers ask.

        Raises:
            InputError: the run was deleted.
        """
        with self._lock:
            if time.monotonic() - self._read_at < FRESH_SECONDS:
                return
            if not self.run.path.is_dir():
                raise InputError(f"run {self.run.id} is no longer in the folder of runs")
            self._read_status()
            signature = self._disk()
            if signature != self._signature or self._read_again:
                self._read_again = False
                self._read_events()
                self._read_samples()
                self._read_rows()
                self._set("log", self.run.log_tail(LOG_LINES))
                self._signature = signature
            self._read_at = time.monotonic()

    def _disk(self) -> tuple[Any, ...]:
        paths = (self.run.logs_dir / "policy_updates.csv", self.run.events_path, self.run.log_path, self.run.images_dir)
        return tuple((s.st_size, s.st_mtime_ns) if (s := _stat(p)) else None for p in paths)

    def _set(self, part: str, value: Any) -> None:
        if value != self.parts[part]:
            self.parts[part] = value
            self.versions[part] += 1

    def _read_status(self) -> None:
        if self.manager is None:
            status = {**vars_of(self.run.status()), "effective_state": "recorded", "place": None, "waiting": "", "steerable": False}
        else:
            status = self.manager.status(self.run.id)
        if status["effective_state"] == "stopping" or status.get("requested") == "stop":
            self._stopping_since = self._stopping_since or time.monotonic()
        else:
            self._stopping_since = None
        status["offer_force"] = self._stopping_since is not None and time.monotonic() - self._stopping_since > FORCE_AFTER_SECONDS
        self.status = status
        self._set("banner", banner.banner(self.run, status))

    def _read_events(self) -> None:
        for event in self.run.events(self._seq):
            self._seq = max(self._seq, int(event.get("seq", 0)))
            self.events.append(event)
        self._set("alerts", banner.alerts(self.events, self.status))
        self._set("knobs", self.live_values())

    def _read_rows(self) -> None:
        columns, offset, attempt = self.run.read_columns("policy_updates", self._offset)
        if self._attempt is not None and attempt != self._attempt and self._offset:
            self._columns = {}
            columns, offset, attempt = self.run.read_columns("policy_updates", 0)
        if self._attempt != attempt:
            self._columns = {}
        for name, values in columns.items():
            self._columns.setdefault(name, []).extend(values)
        self._offset, self._attempt = offset, attempt
        if not offset:
            self._read_again = True
        rows, changes, probes = len(self._columns.get("episode", [])), self.changes(), sum(event.get("kind") == "probe" for event in self.events)
        key = (attempt, rows, [c["seq"] for c in changes], self._sample, probes)
        if key != self._rows:
            self._rows = key
            gains = probe_gains(self.events, self._columns)
            self._set("charts", chart_payload(self.run.id, self._columns | gains, changes, self._policy, self.run.config.probe_images))

    def _read_samples(self) -> None:
        def entries(found: list[Any]) -> list[dict[str, Any]]:
            return [{"episode": s.episode, "png": image_url(self.source, self.run.id, s.png.name), "json": image_url(self.source, self.run.id, s.json.name)} for s in found]

        grids = self.run.images()
        self._set("film", {"run": self.run.id, "samples": entries(grids), "denoising": entries(self.run.denoising())})
        if grids and grids[-1].episode != self._sample:
            self._sample, self._policy = grids[-1].episode, self.run.sampled_policy()

    def changes(self) -> list[dict[str, Any]]:
        """Live changes that took effect or will on resume, in order."""
        return standing_changes(self.events)

    def live_values(self) -> dict[str, Any]:
        """Present values of the settings that may change while training."""
        values = {name: getattr(self.run.config, name) for name in banner.LIVE_FIELDS}
        values.update({e["field"]: e["value"] for e in self.changes() if e.get("field") in values})
        return values

    def columns(self) -> dict[str, list[Any]]:
        """The update table read so far, by column."""
        with self._lock:
            return {name: list(values) for name, values in self._columns.items()}


def _stat(path: Any) -> Any:
    try:
        return path.stat()
    except OSError:
        return None


def vars_of(status: Any) -> dict[str, Any]:
    """Fields of a status record as a dictionary."""
    return status.model_dump() if hasattr(status, "model_dump") else dict(vars(status))


def image_url(source: str, run_id: str, name: str) -> str:
    """Address of an image or its description, served by `components.files`."""
    return f"crater/{source}/{run_id}/{name}"
