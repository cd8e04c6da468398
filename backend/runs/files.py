"""Reading and writing single files so that no reader ever sees half of one."""

from __future__ import annotations

import json
import math
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to that takes its name, fsynced, when the block ends well, and leaves nothing otherwise.

    The parent folder is never created: a run folder that somebody deleted stays deleted.

    Raises:
        OSError: the folder is gone, full or read-only; an older file of that name is then untouched.
    """
    temporary = path.with_name(f".tmp-{uuid.uuid4().hex}")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


@contextmanager
def disk_errors() -> Iterator[None]:
    """Within it safetensors tells of a disk that refuses as everybody does.

    Raises:
        OSError: in the place of a `SafetensorError`, with its number where it names one.
    """
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error)) from error


def atomic_write(path: Path, data: bytes | str) -> None:
    """Write a whole file by `atomic_file`.

    Raises:
        OSError: as there.
    """
    with atomic_file(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def finite(value: Any) -> Any:
    """The same with None for every float that is not finite, however deep in dictionaries and lists: JSON has no word for them."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, value: Any) -> None:
    """`atomic_write` of a JSON document, keys in the order given, null for numbers that are not finite."""
    atomic_write(path, json.dumps(finite(value), indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path, limit: int = 64 * 2**20) -> dict[str, Any] | None:
    """A JSON object, or None where the file is missing, damaged, too large or not an object."""
    try:
        if path.stat().st_size > limit:
            return None
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def fsync_folder(path: Path) -> None:
    """Make renames inside a folder survive a power cut (POSIX; elsewhere nothing is needed)."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_complete_lines(path: Path, offset: int = 0) -> tuple[list[bytes], int]:
    """Whole lines after a byte offset; a last line without a newline is left for the next call.

    Returns:
        The lines without their newlines, and the offset to continue from. A missing file gives none.
    """
    try:
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            if offset > file.tell():
                return [], offset
            file.seek(offset)
            data = file.read()
    except OSError:
        return [], offset
    end = data.rfind(b"\n") + 1
    return data[:end].split(b"\n")[:-1] if end else [], offset + end


def cut_half_line(path: Path) -> int:
    """Remove a half-written last line that a killed writer left behind.

    Returns:
        Number of bytes removed.
    """
    if not path.exists():
        return 0
    with open(path, "rb+") as file:
        size = file.seek(0, os.SEEK_END)
        position, tail = size, b""
        while position and b"\n" not in tail:
            step = min(65536, position)
            position -= step
            file.seek(position)
            tail = file.read(step) + tail
        keep = position + tail.rfind(b"\n") + 1 if b"\n" in tail else 0
        if keep < size:
            file.truncate(keep)
        return size - keep
