"""The CSV files of a run: their columns, appending, reading from an offset, cutting back for a resume."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from backend.runs.files import atomic_write, cut_half_line, read_complete_lines

PROBED = ("score", "quality", "adherence")  # what a probe tells of its images

TABLES: dict[str, tuple[str, ...]] = {
    "training_log": (
        "episode", "prompt_idx", "reward_total", "reward_diversity", "reward_sequential", "reward_spatial", "reward_entropy",
        "actor_loss", "critic_loss", "entropy_loss", "kl_divergence", "grad_norm_actor", "grad_norm_critic", "memory_allocated", "timestamp",
        "image", "seed", "reward_quality", "batch_score", "time_per_episode", "status",
    ),
    "gradient_log": ("update", "episode", "actor_grad_before", "actor_grad_after", "critic_grad", "grad_clipped", "reward_mean", "timestamp"),
    "policy_updates": (
        "update", "episode", "batch_score", "reward_mean", "reward_std", "reward_min", "reward_max", "base_level", "reference_level", "best_score",
        *(f"probe_{name}" for name in PROBED), "score_smooth", "actor_loss", "critic_loss", "entropy_loss", "entropy", "kl_divergence", "kl_base", "ratio_mean", "ratio_std",
        "ratio_max", "clip_fraction_up", "clip_fraction_down", "explained_variance", "advantage_std", "degenerate_share", "grad_norm_actor",
        "grad_norm_actor_after", "grad_norm_critic", "grad_clipped", "gradient_noise_scale", "sample_diversity", "distance_to_base", "early_stopped",
        "optimiser_steps", "samples_used", "replayed_dropped", "learning_rate", "entropy_coef", "kl_base_coef", "weight_quality", "weight_adherence", "guidance_scale", "skipped",
        "trend_slope", "trend_low", "trend_high", "trend_from", "status", "images", "time_per_episode", "memory_allocated", "timestamp",
    ),
    "memory_usage": ("update", "episode", "resident_mib", "peak_mib", "device_allocated_mib", "device_reserved_mib", "timestamp"),
    "reward_components": ("episode", "prompt_idx", "image", "total"),
    "log_probability": ("episode", "prompt_idx", "step", "log_prob", "requires_grad", "time"),
}  # fmt: skip


def cell(value: Any) -> str:
    """One value as text: nothing for None, all digits of a float so that equal runs give equal files."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "True" if value else "False"
    return repr(float(value)) if isinstance(value, float) else str(value)


def number(text: str) -> float | str | None:
    """A cell read back: float where it is one, None where it is blank, else the text."""
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        return text


def _line(values: Iterable[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(values)
    return buffer.getvalue()


def header(path: Path) -> list[str]:
    """Column names of a table on disk; empty where it has no complete first line."""
    try:
        with open(path, "rb") as file:
            first = file.readline()
    except OSError:
        return []
    return next(csv.reader([first.decode("utf-8", "replace").rstrip("\r\n")]), []) if first.endswith(b"\n") else []


class TableWriter:
    """Appends rows to one CSV; a table that exists keeps its own header.

    Rows whose writing fails are kept and written, in order, with the next ones: a full disk loses nothing.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path = path
        self.pending: list[str] = []
        cut_half_line(path)
        self.columns = header(path) or list(columns)
        self._exists = path.exists() and path.stat().st_size > 0

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows; names that the table has no column for are ignored.

        Raises:
            OSError: nothing of this call is on disk; the rows wait in `pending` for the next `flush`.
        """
        self.pending.extend(_line(cell(row.get(name)) for name in self.columns) for row in rows)
        self.flush()

    def flush(self) -> None:
        """Write what is pending, whole or not at all.

        Raises:
            OSError: as `append`.
        """
        if not self.pending:
            return
        if self._exists and not self.path.exists():
            raise FileNotFoundError(2, "the table was deleted under a live run", str(self.path))
        text = ("" if self._exists else _line(self.columns)) + "".join(self.pending)
        append_whole(self.path, text.encode())
        self._exists = True
        self.pending.clear()


def append_whole(path: Path, data: bytes) -> None:
    """Append bytes; where that fails half-way, cut the file back to what it was.

    Raises:
        OSError: the file is as it was before.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
        except OSError:
            if os.fstat(descriptor).st_size > size:
                os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)


def read_rows(path: Path, offset: int = 0) -> tuple[list[dict[str, float | str | None]], int]:
    """Complete rows after a byte offset as dictionaries.

    Returns:
        Rows, and the offset to continue from. Rows of the wrong length are skipped.
    """
    names, rows, new_offset = _raw(path, offset)
    return [dict(zip(names, map(number, row), strict=True)) for row in rows], new_offset


def read_columns(path: Path, offset: int = 0, names: Sequence[str] | None = None) -> tuple[dict[str, list[float | str | None]], int]:
    """The same by columns, of which only those named are converted: for charts of long runs.

    Returns:
        Column by name (a column that the table lacks is empty), and the offset to continue from.
    """
    have, rows, new_offset = _raw(path, offset)
    place = {name: i for i, name in enumerate(have)}
    return {name: [number(row[place[name]]) for row in rows] if name in place else [] for name in (have if names is None else names)}, new_offset


def _raw(path: Path, offset: int) -> tuple[list[str], list[list[str]], int]:
    names = header(path)
    if not names:
        return [], [], offset
    lines, new_offset = read_complete_lines(path, offset)
    rows = list(csv.reader(line.decode("utf-8", "replace") for line in lines))
    if offset == 0:
        rows = rows[1:]
    return names, [row for row in rows if len(row) == len(names)], new_offset


def cut_after(path: Path, episode: int) -> int:
    """Remove all rows of episodes from `episode` on, for a resume from the checkpoint before them.

    Returns:
        Number of rows removed.
    """
    cut_half_line(path)
    names = header(path)
    if not names or "episode" not in names:
        return 0
    place = names.index("episode")
    lines, _ = read_complete_lines(path)
    keep = [lines[0]]
    for line, row in zip(lines[1:], csv.reader(line.decode("utf-8", "replace") for line in lines[1:]), strict=True):
        if len(row) == len(names) and row[place].isdigit() and int(row[place]) < episode:
            keep.append(line)
    if len(keep) < len(lines):
        atomic_write(path, b"\n".join(keep) + b"\n")
    return len(lines) - len(keep)
