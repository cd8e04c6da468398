"""A rich progress bar and the one-line summaries for a training in this terminal."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from backend.runs import Run


class Watcher:
    """Shows what the trainer observes. Lines go to standard output, the bar to standard error where that is a terminal."""

    def __init__(self, run: Run, quiet: bool = False) -> None:
        self.run, self.quiet = run, quiet
        self._errors = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[figures]}"), TimeElapsedColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=self._errors, transient=True, disable=quiet or not self._errors.is_terminal)
        self._task = None

    def __enter__(self) -> Watcher:
        self._progress.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._progress.stop()

    def __call__(self, kind: str, content: dict[str, Any]) -> None:
        """Take one observation of the trainer."""
        tell(kind, content, self.quiet)
        if kind == "begin":
            self._task = self._progress.add_task(self.run.id, total=content["total"], completed=content["episode"], figures="")
        elif kind == "episode" and self._task is not None:
            self._progress.update(
                self._task, completed=content["episode"], figures=f"score {_short(content['batch_score'])} · base {_short(content['base_level'])} · {content['status']}"
            )


def tell(kind: str, content: dict[str, Any], quiet: bool = False) -> None:
    """Print what the trainer says: the first line of its log to standard output, unless quiet, and a disk that refuses to standard error."""
    if kind == "log" and not quiet:
        print(content["text"].splitlines()[0] if content["text"] else "", flush=True)
    elif kind == "trouble":
        print(content["message"], file=sys.stderr, flush=True)


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


@contextmanager
def stop_on_signals(control: Any) -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGUSR2 (a cluster's warning) stop gracefully with a checkpoint; a second Ctrl-C ends at once."""

    def stop(number: int, _: Any) -> None:
        if control.stopping and number == signal.SIGINT:
            raise KeyboardInterrupt
        control.request_stop()
        print("stopping: a checkpoint is written, press Ctrl-C again to end without one", file=sys.stderr, flush=True)

    named = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR2") if hasattr(signal, name)]
    before = {number: signal.signal(number, stop) for number in named}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
