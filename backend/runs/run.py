"""One run's folder, for readers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from backend.config import TrainConfig, make_config, read_config_file
from backend.errors import InputError
from backend.runs import tables
from backend.runs.control import asked_of, send_request
from backend.runs.events import read_events
from backend.runs.files import read_json
from backend.runs.status import Status, read_status

PLUGGABLE = ("mode", "metric", "extractor")
FOLDERS = ("control", "attempts", "logs", "images", "checkpoints", "plots")


@dataclass(frozen=True)
class SampleInfo:
    """One picture that a run recorded, with its description beside it."""

    episode: int
    png: Path
    json: Path

    def read(self) -> dict[str, Any]:
        """Prompts, seeds, boxes, credits and explanations; empty where the description is missing."""
        return read_json(self.json) or {}


@dataclass(frozen=True)
class CheckpointInfo:
    """One checkpoint on disk; not yet checked against its checksums."""

    name: str
    episode: int
    path: Path
    best: bool


def _number(path: Path, prefix: str) -> int | None:
    digits = path.stem.removeprefix(prefix)
    return int(digits) if path.stem.startswith(prefix) and digits.isdigit() and len(digits) < 12 else None


class Run:
    """Paths and readers of one run directory. Nothing in here writes, except `request`."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.id = self.path.name
        self.config_path = self.path / "config.json"
        self.status_path = self.path / "status.json"
        self.control_dir = self.path / "control"
        self.attempts_dir = self.path / "attempts"
        self.events_path = self.path / "events.jsonl"
        self.logs_dir = self.path / "logs"
        self.images_dir = self.path / "images"
        self.checkpoints_dir = self.path / "checkpoints"
        self.plots_dir = self.path / "plots"
        self.log_path = self.path / "log.txt"
        self.evaluation_path = self.path / "evaluation.json"
        self.owner_path = self.path / "owner.json"

    def __repr__(self) -> str:
        return f"Run({self.id!r})"

    @cached_property
    def config(self) -> TrainConfig:
        """The resolved settings.

        Raises:
            InputError: config.json is missing or damaged, or names what a plug-in brings that is not loaded here.
        """
        values = read_config_file(self.config_path)
        try:
            return make_config(values)
        except InputError as error:
            name = error.field
            if name not in PLUGGABLE or not isinstance(values[name], str):
                raise
            raise InputError(
                f"run {self.id} was trained with a plug-in that is not loaded here ({name} {values[name]!r}): start with --plugin FILE or CRATER_PLUGINS=FILE", field=name
            ) from error

    @property
    def readable(self) -> bool:
        """Whether `config` can be read here."""
        try:
            return self.config is not None
        except InputError:
            return False

    @property
    def record(self) -> dict[str, Any]:
        """What was true of the machine when the run was made: versions, git revision, threads, precision."""
        return (read_json(self.config_path) or {}).get("record") or {}

    def status(self) -> Status:
        """The status on disk."""
        return read_status(self.status_path)

    def table_path(self, name: str) -> Path:
        """Path of a CSV by its name, with or without `.csv`.

        Raises:
            InputError: no table of that name exists.
        """
        name = name.removesuffix(".csv")
        if name not in tables.TABLES:
            raise InputError(f"unknown table {name!r}: choose one of {', '.join(tables.TABLES)}")
        return self.logs_dir / f"{name}.csv"

    def read_rows(self, name: str, offset: int = 0) -> tuple[list[dict[str, float | str | None]], int, int]:
        """New complete rows of a table.

        Returns:
            Rows, the offset for the next call, and the attempt. Where the attempt differs from the last call's,
            the reader drops what it has and starts again at 0.
        """
        return self._consistent(lambda path: tables.read_rows(path, offset), name, [])

    def read_columns(self, name: str, offset: int = 0, names: Sequence[str] | None = None) -> tuple[dict[str, list], int, int]:
        """The same by columns, and faster: for charts."""
        return self._consistent(lambda path: tables.read_columns(path, offset, names), name, {})

    def _consistent(self, read: Any, name: str, nothing: Any) -> tuple[Any, int, int]:
        attempt = self.status().attempt
        found, new_offset = read(self.table_path(name))
        after = self.status().attempt
        return (found, new_offset, attempt) if after == attempt else (nothing, 0, after)

    def events(self, since_seq: int = 0) -> list[dict[str, Any]]:
        """Events numbered above `since_seq`."""
        return read_events(self.events_path, since_seq)

    def images(self) -> list[SampleInfo]:
        """Fixed-seed sample grids in the order of episodes."""
        return self._pictures("episode_")

    def denoising(self) -> list[SampleInfo]:
        """Strips that show how one image came out of noise, in the order of episodes."""
        return self._pictures("denoising_")

    def _pictures(self, prefix: str) -> list[SampleInfo]:
        found = [(number, path) for path in self.images_dir.glob(f"{prefix}*.png") if (number := _number(path, prefix)) is not None]
        return [SampleInfo(number, path, path.with_suffix(".json")) for number, path in sorted(found)]

    def sampled_policy(self) -> dict[str, Any]:
        """What the newest sample grid says of its policy; empty before the first, and in runs recorded without it."""
        grids = self.images()
        return ((read_json(grids[-1].json) or {}).get("policy") or {}) if grids else {}

    def checkpoints(self) -> list[CheckpointInfo]:
        """Checkpoints in the order of episodes; the best one is marked."""
        best = (read_json(self.checkpoints_dir / "best.json") or {}).get("checkpoint")
        found = [(n, p) for p in self.checkpoints_dir.glob("episode_*") if p.is_dir() and not p.is_symlink() and (n := _number(p, "episode_")) is not None]
        return [CheckpointInfo(path.name, number, path, path.name == best) for number, path in sorted(found)]

    def checkpoint(self, name: str | None = None) -> CheckpointInfo:
        """One checkpoint: by name or episode number, `best`, or the newest (`last`, or nothing).

        Raises:
            InputError: there is none of that name, and the message lists those there are.
        """
        found = self.checkpoints()
        if not found:
            raise InputError(f"run {self.id} has no checkpoint yet: wait for one, or press Save now")
        if name in (None, "", "last"):
            return found[-1]
        for info in found:
            if name in (info.name, str(info.episode)) or (name == "best" and info.best):
                return info
        raise InputError(f"run {self.id} has no checkpoint {name!r}: choose one of {', '.join(info.name for info in found)}")

    def config_at(self, path: Path) -> TrainConfig:
        """The settings with the live changes that were in force at the checkpoint in `path`; a mixture has the settings alone."""
        live = (read_json(path / "trainer.json") or {}).get("progress", {}).get("live", {})
        return make_config({**self.config.model_dump(), **live})

    def log_tail(self, lines: int = 200) -> str:
        """Last lines of log.txt."""
        try:
            with open(self.log_path, "rb") as file:
                file.seek(max(0, file.seek(0, 2) - 400 * lines))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def evaluation(self) -> dict[str, Any] | None:
        """evaluation.json, if the run was evaluated."""
        return read_json(self.evaluation_path)

    def size_bytes(self) -> int:
        """Space that the folder takes."""
        return sum(p.stat().st_size for p in self.path.rglob("*") if p.is_file() and not p.is_symlink())

    def free_bytes(self) -> int:
        """Space left on the folder's file system."""
        return shutil.disk_usage(self.path).free

    def request(self, kind: str, payload: dict[str, Any] | None = None) -> str:
        """Leave a request for the run's process; returns its id (see `backend.runs.control`)."""
        return send_request(self.control_dir, kind, payload)

    def asked(self) -> str:
        """What the requests that wait to be read would have the run do: stop, pause or nothing."""
        return asked_of(self.control_dir)

    def config_text(self) -> str:
        """The settings as a JSON document that can be loaded again, without the machine's record."""
        return json.dumps(self.config.model_dump(), indent=1)
