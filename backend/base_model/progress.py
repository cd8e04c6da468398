"""Progress files of the base model's training: what an interrupted stage needs to go on exactly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch

from backend.errors import InputError
from backend.runs.files import atomic_file, read_json, write_json

STAGES = ("code.npz", "decoder.pt", "denoiser.pt", "unfinished.npz", "finish.pt")


def claim(work: Path, job: dict[str, Any]) -> None:
    """Make the work folder for this training, or find that it is this training's.

    Args:
        work: folder of progress.
        job: everything that the result follows from, as JSON.

    Raises:
        InputError: it holds another training's progress, or cannot be written.
    """
    path = work / "job.json"
    if path.is_file():
        kept = read_json(path) or {}
        changed = [name for name in job if kept.get(name) != job[name]]
        if changed:
            files = ", ".join((*STAGES, path.name))
            raise InputError(f"{work} holds the progress of another training ({', '.join(changed)} differ): name another folder with --work, or delete {files} there")
        return
    left = [name for name in STAGES if (work / name).exists()]
    if left:
        raise InputError(f"{work} holds the progress of a training that nothing is known of ({', '.join(left)}): name another folder with --work, or delete it there")
    try:
        work.mkdir(parents=True, exist_ok=True)
        write_json(path, job)
    except OSError as error:
        raise InputError(f"{work} cannot be written ({error.strerror}): free some space, or name another folder with --work") from error


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """`atomic_file`, in a folder that is made where it is missing and with a sentence where writing fails.

    Raises:
        InputError: the disk is full or the folder cannot be written; the file that was there stays.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            yield file
    except (OSError, RuntimeError) as error:  # torch tells of a full disk by a RuntimeError
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise InputError(f"{path} cannot be written ({reason}): free some space and run the same command again; it goes on from the last save") from error


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
