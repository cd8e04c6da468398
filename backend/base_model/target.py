"""The folder that a pipeline is written to: it appears, or is replaced, only when all of it is there."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from backend.errors import InputError


def check_target(out: Path) -> None:
    """Refuse, before hours of training, a folder that is replaced whole at their end and holds something else than a pipeline.

    Raises:
        InputError: a file, or a folder with other things in it.
    """
    foreign = out.exists() and not (out / "model_index.json").is_file() and (not out.is_dir() or any(out.iterdir()))
    if foreign or not out.name:
        raise InputError(f"{out} holds something else than a pipeline, and would be replaced: name a new folder with --out, such as models/mine")


def replace_folder(out: Path, write: Callable[[Path], Path], keep: Sequence[str] = ()) -> None:
    """Let `write` fill a folder beside `out` and give it that name once it is whole; what a killed attempt left is removed.

    Args:
        out: the folder.
        write: fills the folder that it is given.
        keep: files of the old folder that the new one gets where it has none of that name.
    """
    check_target(out)
    temporary, previous = out.with_name(f".{out.name}.tmp"), out.with_name(f".{out.name}.old")
    shutil.rmtree(temporary, ignore_errors=True)
    if not out.exists() and previous.exists():  # killed between the two renames
        previous.rename(out)
    shutil.rmtree(previous, ignore_errors=True)
    try:
        write(temporary)
        for name in keep:
            if (out / name).is_file() and not (temporary / name).exists():
                shutil.copy2(out / name, temporary / name)
        if out.exists():
            out.rename(previous)
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(previous, ignore_errors=True)
