"""events.jsonl: what happened in a run, numbered, one JSON object a line."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from backend.runs.files import cut_half_line, finite, read_complete_lines
from backend.runs.tables import append_whole

KINDS = ("status", "sample", "checkpoint", "alert", "alert_passed", "change", "acknowledgement", "probe")


def parse_events(lines: list[bytes]) -> list[dict[str, Any]]:
    """The sound events among some lines; damaged ones are left out."""
    found = []
    for line in lines:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and isinstance(value.get("seq"), int) and isinstance(value.get("kind"), str):
            found.append(value)
    return found


def read_events(path: Path, since_seq: int = 0) -> list[dict[str, Any]]:
    """Events numbered above `since_seq`, in order."""
    return [event for event in parse_events(read_complete_lines(path)[0]) if event["seq"] > since_seq]


def standing_changes(events: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Live changes in the order in which they were made, without those that a person has overruled.

    A resume goes back some episodes. What a person then sets holds from that episode on: an older change of the same
    setting, made before the resume for a later episode, does not come back.
    """
    standing: list[dict[str, Any]] = []
    for event in events:
        if event.get("kind") != "change":
            continue
        if _of_person(event):
            standing = [old for old in standing if not (_of_person(old) and old.get("field") == event.get("field") and old["episode"] > event["episode"])]
        standing.append(dict(event))
    return standing


def standing_news(events: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Alerts, answers and changes that still hold: those of the present attempt, and warnings that have not passed since.

    A warning that an earlier attempt gave is not given again by one that goes on behind it, so it stays; one for an episode
    that is drawn once more does not. What an attempt says begins with the event `status` of state `starting`.
    """
    standing: list[dict[str, Any]] = []
    for event in events:
        if event.get("kind") == "status" and event.get("state") == "starting":
            standing = [old for old in standing if old.get("alert") and (old.get("episode") or 0) <= (event.get("episode") or 0)]
        elif event.get("kind") in ("alert", "alert_passed"):
            standing = [old for old in standing if not (old.get("alert") and old["alert"] == event.get("alert"))]
        if event.get("kind") in ("alert", "change", "acknowledgement"):
            standing.append(dict(event))
    return standing


def _of_person(change: Mapping[str, Any]) -> bool:
    """Whether a person made it: what the trainer changed by itself it changes again, and overrules nobody."""
    return change.get("source") != "recovery" and isinstance(change.get("episode"), int)


class EventLog:
    """Appends events; the executing process is the only writer, its threads share one log.

    Events whose writing fails wait and are written with the next.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pending: list[bytes] = []
        self._lock = threading.Lock()
        cut_half_line(path)
        self._seq = max((event["seq"] for event in read_events(path)), default=0)

    def append(self, kind: str, **content: Any) -> dict[str, Any]:
        """Add one event and return it as it is written, None for numbers that are not finite.

        Raises:
            OSError: the disk refuses; the event waits in `pending`.
        """
        with self._lock:
            self._seq += 1
            event = {"seq": self._seq, "time": round(time.time(), 3), "kind": kind, **finite(content)}
            self.pending.append(json.dumps(event, ensure_ascii=False, default=str).encode() + b"\n")
        self.flush()
        return event

    def flush(self) -> None:
        """Write what is pending.

        Raises:
            OSError: as `append`; also where the run's folder is gone.
        """
        with self._lock:
            if self.pending:
                append_whole(self.path, b"".join(self.pending))
                self.pending.clear()
