"""Requests to a running trainer: one small JSON file each, from whatever process, user interface or machine."""

from __future__ import annotations

import json
import os
import stat
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backend.errors import InputError
from backend.runs.files import write_json

REQUESTS = ("stop", "pause", "resume", "save_now", "sample_now", "change", "lend", "give_back")
LARGEST = 16384  # bytes; a request is a field name and a number


@dataclass(frozen=True)
class Request:
    """One request as found; `refusal` says why it cannot be used."""

    file: str
    kind: str
    payload: dict[str, Any] = field(default_factory=dict)
    refusal: str = ""

    @property
    def id(self) -> str:
        """What the acknowledgement names."""
        return self.file.removesuffix(".json")


def send_request(folder: Path, kind: str, payload: dict[str, Any] | None = None) -> str:
    """Leave a request in a run's control folder.

    Returns:
        Its id; the answer is the event `acknowledgement` with that id.

    Raises:
        InputError: unknown kind, or the folder is gone.
    """
    if kind not in REQUESTS:
        raise InputError(f"unknown request {kind!r}: choose one of {', '.join(REQUESTS)}")
    name = uuid.uuid4().hex
    try:
        folder.mkdir(exist_ok=True)  # a run that came out of a zip has none; without its parent there is no run
        write_json(folder / f"{name}.json", {"kind": kind, "payload": payload or {}})
    except OSError as error:
        raise InputError(f"the request {kind} could not be left in {folder.parent.name} ({error.strerror}): is the run's folder there and writable?") from error
    return name


def pending_requests(folder: Path) -> list[Request]:
    """Requests that wait, oldest first; rubbish comes with the reason why it is refused."""
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith(".tmp-"):
                    found.append((entry.stat(follow_symlinks=False).st_mtime_ns, entry.name))
    except FileNotFoundError:
        return []
    return [read_request(folder / name) for _, name in sorted(found)]


def read_request(path: Path) -> Request:
    """Parse one file; nothing in it is believed unseen."""
    try:
        info = path.lstat()
        if not stat.S_ISREG(info.st_mode):
            return Request(path.name, "", refusal="is not a plain file")
        if info.st_size > LARGEST:
            return Request(path.name, "", refusal=f"is larger than {LARGEST} bytes")
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        return Request(path.name, "", refusal=f"is not readable JSON ({type(error).__name__})")
    kind, payload = (value.get("kind"), value.get("payload", {})) if isinstance(value, dict) else (None, None)
    if kind not in REQUESTS or not isinstance(payload, dict):
        return Request(path.name, "", refusal=f"is none of {', '.join(REQUESTS)}")
    return Request(path.name, kind, payload)


def asked_of(folder: Path) -> str:
    """What the requests that wait would have a run do: "stop", "pause", or nothing. A trainer in a long call has not read them yet."""
    kinds = [request.kind for request in pending_requests(folder) if request.kind in ("stop", "pause", "resume")]
    if "stop" in kinds:
        return "stop"
    return "pause" if kinds and kinds[-1] == "pause" else ""


def remove_request(folder: Path, request: Request) -> None:
    """Take an answered request away; a folder in its place is only removed when empty."""
    path = folder / request.file
    try:
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    except OSError:
        path.rename(folder.parent / f".refused-{uuid.uuid4().hex}")


def drop_requests(folder: Path) -> list[Request]:
    """Remove requests that a dead run never answered; a new attempt does not obey them."""
    found = pending_requests(folder)
    for request in found:
        remove_request(folder, request)
    return found
