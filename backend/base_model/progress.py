"""Progress files of the base model's training: what an interrupted stage needs to go on exactly."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch

from backend.errors import InputError


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to that appears under its name when the block ends well, and not at all otherwise.

    Raises:
        InputError: the disk is full or the folder cannot be written; the file that was there stays.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(f"{path} cannot be written ({error.strerror}): free some space and run the same command again; it goes on from the last save") from error


def save_progress(path: Path, step: int, parts: dict[str, Any]) -> None:
    """Write step and the state of all parts atomically.

    Raises:
        InputError: as `whole_file`.
    """
    with whole_file(path) as file:
        torch.save({"step": step, "parts": {name: part.state_dict() for name, part in parts.items()}}, file)


def restore(path: Path, parts: dict[str, Any]) -> int:
    """Load the state of all parts where the file is there.

    Returns:
        The step to go on from; 0 where there is no file.
    """
    if not path.exists():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state["parts"][name])
    return int(state["step"])
