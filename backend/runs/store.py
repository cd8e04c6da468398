"""All runs in one folder: create, find, list, delete, pack."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
import uuid
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.config import TrainConfig
from backend.errors import InputError
from backend.runs.files import atomic_file, atomic_write, read_json, write_json
from backend.runs.run import FOLDERS, Run
from backend.runs.status import LIVE, Liveness, fresh_status, read_status

RUN_ID = re.compile(r"[A-Za-z0-9_-]{1,80}")
PRIVATE = ("control", "attempts", "owner.json")  # stays out of downloads


@dataclass(frozen=True)
class RunSummary:
    """One line of the table of runs.

    Attributes:
        state: the effective one.
        gap_closed: share of the diversity gap by the run's evaluation, with its interval `gap_low` to `gap_high`; `images` were judged, and `guards` are its guards.
    """

    id: str
    state: str
    mode: str = ""
    metric: str = ""
    episode: int = 0
    total: int = 0
    score: float | None = None
    best_score: float | None = None
    base_level: float | None = None
    gap_closed: float | None = None
    note: str = ""
    created: float = 0.0
    attempt: int = 0
    error: str = ""
    host: str = ""
    damaged: str = ""
    gap_low: float | None = None
    gap_high: float | None = None
    images: int | None = None
    guards: dict[str, Any] | None = None


class RunStore:
    """The folder of runs. Keep one per process: it remembers heartbeats of runs on other machines.

    Args:
        root: the folder; by default the environment's RUNS_DIR, else `runs`.
    """

    def __init__(self, root: str | Path | None = None, liveness: Liveness | None = None) -> None:
        self.root = Path(root or os.environ.get("RUNS_DIR") or "runs").absolute()
        self.liveness = liveness or Liveness()

    def create(self, config: TrainConfig, record: dict[str, Any] | None = None) -> Run:
        """Make a run's folder in state `queued`, owned by this process.

        Raises:
            InputError: the folder of runs cannot be written.
        """
        base = re.sub(r"[^A-Za-z0-9_-]", "-", f"crater_{time.strftime('%Y%m%d%H%M%S')}_{config.mode}_{config.metric}")[:70]
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            run = Run(self._new_folder(base))
            for folder in FOLDERS:
                (run.path / folder).mkdir()
            write_json(run.status_path, fresh_status(state="queued", total=config.episodes).to_dict())
            atomic_write(run.config_path, json.dumps({**config.model_dump(), "record": {"created": round(time.time(), 3), **(record or {})}}, indent=1) + "\n")
        except OSError as error:
            raise InputError(f"runs folder {self.root} cannot be written ({error.strerror}): free space or set RUNS_DIR to another folder") from error
        return run

    def _new_folder(self, base: str) -> Path:
        for suffix in ["", *(f"_{n}" for n in range(2, 100_000))]:
            path = self.root / f"{base}{suffix}"
            try:
                path.mkdir()
            except FileExistsError:
                continue
            return path
        raise FileExistsError(17, "too many runs in one second", base)

    def get(self, run_id: str) -> Run:
        """The run of that id.

        Raises:
            InputError: the id has other characters than letters, digits, `_` and `-`, or no such run exists.
        """
        if not isinstance(run_id, str) or not RUN_ID.fullmatch(run_id):
            raise InputError(f"run id {str(run_id)[:100]!r} is not allowed: 1 to 80 letters, digits, _ and -")
        path = self.root / run_id
        if path.is_symlink() or not (path / "config.json").is_file():
            raise InputError(f"unknown run {run_id!r}: `python -m backend runs list` shows those in {self.root}")
        return Run(path)

    def find(self, name: str) -> Run:
        """The run of an id, or the newest for `latest` or `newest`.

        Raises:
            InputError: no such run, or none at all.
        """
        if name not in ("latest", "newest"):
            return self.get(name)
        found = self.newest()
        if found is None:
            raise InputError(f"there is no run in {self.root}: start one with `python -m backend train`")
        return found

    def runs(self) -> list[Run]:
        """All runs, newest first; folders without a config.json are none."""
        if not self.root.is_dir():
            return []
        found = [p for p in self.root.iterdir() if RUN_ID.fullmatch(p.name) and not p.is_symlink() and (p / "config.json").is_file()]
        return [Run(p) for p in sorted(found, key=self._created, reverse=True)]

    @staticmethod
    def _created(path: Path) -> tuple[float, str]:
        created = ((read_json(path / "config.json") or {}).get("record") or {}).get("created", 0.0)
        return (float(created) if isinstance(created, int | float) else 0.0, path.name)

    def effective_state(self, run: Run) -> str:
        """The stored state, or `interrupted` where the writer of a live state is dead or silent."""
        return self.liveness.effective_state(str(run.path), run.status())

    def list(self) -> list[RunSummary]:
        """One summary for each run, newest first; a damaged run says so and hides no other."""
        return [self.summary(run) for run in self.runs()]

    def summary(self, run: Run) -> RunSummary:
        """One line about a run."""
        config = read_json(run.config_path)
        status = read_status(run.status_path)
        state = self.liveness.effective_state(str(run.path), status)
        if config is None:
            return RunSummary(run.id, state, damaged="config.json is damaged")
        created = (config.get("record") or {}).get("created", 0.0)
        return RunSummary(
            run.id, state, str(config.get("mode", "")), str(config.get("metric", "")), status.episode, status.total or int(config.get("episodes") or 0),
            status.score, status.best_score, status.base_level, note=str(config.get("note", "")), created=created, attempt=status.attempt,
            error=status.error, host=status.host, **_judged(run),
        )  # fmt: skip

    def newest(self, live: bool = False, readable: bool = False) -> Run | None:
        """The newest run, of those that are live, or whose settings can be read, where only they are wanted."""
        return next((run for run in self.runs() if (not live or self.effective_state(run) in LIVE) and (not readable or run.readable)), None)

    def delete(self, run_id: str) -> None:
        """Remove a run's folder.

        Raises:
            InputError: the run is live, unknown, or cannot be removed.
        """
        run = self.get(run_id)
        state = self.effective_state(run)
        if state in LIVE:
            raise InputError(f"run {run_id} is {state}: stop it before deleting it")
        self.discard(run)

    def discard(self, run: Run) -> None:
        """Remove a run's folder whatever its state says: one that nobody hosts, such as a new one that could not be finished.

        Raises:
            InputError: it cannot be removed.
        """
        grave = self.root / f".deleted-{uuid.uuid4().hex}"
        try:
            run.path.rename(grave)
            shutil.rmtree(grave)
        except OSError as error:
            raise InputError(f"run {run.id} cannot be deleted ({error.strerror}): is the folder of runs writable?") from error

    def zip(self, run_id: str, folder: str | Path | None = None, checkpoints: bool = True) -> Path:
        """Pack a run for download; control requests, ownership, temporary files and symbolic links stay out.

        What a live run prunes meanwhile is left out.

        Returns:
            Path of `<id>.zip` in `folder`, which is made if it is not there (a new temporary one by default).

        Raises:
            InputError: the run is unknown or deleted meanwhile, or the disk refuses; no torn file is left then.
        """
        run = self.get(run_id)
        try:
            into = Path(folder or tempfile.mkdtemp(prefix="craterlab-"))
            into.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"folder {folder or tempfile.gettempdir()} cannot be written ({error.strerror}): choose another") from error
        target = into / f"{run.id}.zip"
        try:
            with atomic_file(target) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1, strict_timestamps=False) as archive:
                for path in self._packed(run, checkpoints):
                    with suppress(FileNotFoundError):  # pruned since it was listed
                        archive.write(path, Path(run.id) / path.relative_to(run.path))
                whole = f"{run.id}/config.json" in archive.namelist()
        except OSError as error:
            raise InputError(f"run {run.id} cannot be packed into {target} ({error.strerror or error}): free space in {into}, or choose another folder") from error
        if not whole:
            target.unlink(missing_ok=True)
            raise InputError(f"run {run.id} was deleted while it was packed: choose another")
        return target

    @staticmethod
    def _packed(run: Run, checkpoints: bool) -> list[Path]:
        """Files of a run that belong into a download."""
        found = []
        for folder, _, names in os.walk(run.path):  # leaves out folders that vanish meanwhile, and links to others
            for path in (Path(folder) / name for name in names):
                inside = path.relative_to(run.path)
                hidden = any(part.startswith(".") for part in inside.parts) or inside.parts[0] in PRIVATE
                if not hidden and not path.is_symlink() and path.is_file() and (checkpoints or inside.parts[0] != "checkpoints"):
                    found.append(path)
        return sorted(found)


def _judged(run: Run) -> dict[str, Any]:
    """What a summary tells of the run's evaluation; whatever is not as it is written here is left out."""
    found = run.evaluation() or {}
    closed, guards = found.get("gap_closed"), found.get("guards")
    gap = found.get("gap")
    interval = gap.get("lite2") if isinstance(gap, dict) else closed
    if isinstance(closed, dict):
        closed = closed.get("mean", closed.get("value"))
    if _real(closed) is None:
        return {}
    low, high = (_real(interval.get(end)) if isinstance(interval, dict) else None for end in ("low", "high"))
    images = found.get("images")
    known = {"images": images if isinstance(images, int) else None, "guards": guards if isinstance(guards, dict) else None}
    return {"gap_closed": _real(closed), "gap_low": low, "gap_high": high, **known}


def _real(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
