"""Captions for imported images, from a CSV or JSON Lines file."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path, PurePosixPath

from backend.errors import InputError

NAMES = ("captions.csv", "captions.jsonl", "metadata.csv", "metadata.jsonl")
FILE_COLUMNS = ("file", "file_name", "filename", "image", "path", "name")
CAPTION_COLUMNS = ("caption", "text", "prompt", "description")
MAX_CHARACTERS = 500


def is_caption_file(name: str) -> bool:
    """Whether a file of that name in an imported folder or zip holds the captions."""
    return PurePosixPath(name).name.lower() in NAMES


def parse_captions(data: bytes, name: str) -> dict[str, str]:
    """Captions by the name of their image.

    Args:
        data: a CSV with a header or JSON Lines; the image is in the column file, file_name, filename, image, path or
            name, its caption in caption, text, prompt or description.
        name: the file's name, for its ending and for messages.

    Raises:
        InputError: not UTF-8, neither kind, without those columns, or a caption that is too long.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"captions file {name} is not UTF-8 (byte {error.start}): save it as UTF-8") from error
    rows = _json_rows(text, name) if name.lower().endswith((".jsonl", ".json")) else _csv_rows(text, name)
    captions = {}
    for number, row in rows:
        lowered = {str(key).strip().lower(): value for key, value in row.items() if key is not None}
        file = next((lowered[column] for column in FILE_COLUMNS if lowered.get(column)), None)
        caption = next((lowered[column] for column in CAPTION_COLUMNS if column in lowered), None)
        if not isinstance(file, str) or not isinstance(caption, str):
            raise InputError(f"captions file {name}, row {number}: needs an image name ({', '.join(FILE_COLUMNS)}) and a caption ({', '.join(CAPTION_COLUMNS)})")
        caption = tidy(caption)
        if len(caption) > MAX_CHARACTERS:
            raise InputError(f"captions file {name}, row {number}: {len(caption)} characters, at most {MAX_CHARACTERS}: shorten it")
        captions[file.replace("\\", "/").removeprefix("./")] = caption
    return captions


def tidy(caption: str) -> str:
    """A caption from outside on one line, without what UTF-8 cannot write (half a surrogate pair)."""
    return " ".join(caption.encode("utf-8", "replace").decode().split())


def key_for(name: str, captions: dict[str, str]) -> str | None:
    """The key that an image's caption stands under: its whole path in the source, the end of it, or its bare name."""
    parts = PurePosixPath(name).parts
    return next((key for start in range(len(parts)) if (key := "/".join(parts[start:])) in captions), None)


def caption_for(name: str, captions: dict[str, str]) -> str | None:
    """The caption of an image under its `key_for`."""
    key = key_for(name, captions)
    return None if key is None else captions[key]


def read_captions(path: str | Path) -> dict[str, str]:
    """Captions of a file that a person named.

    Raises:
        InputError: missing, or see `parse_captions`.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"captions file {str(path)!r} does not exist: name a .csv or .jsonl with image names and captions")
    return parse_captions(path.read_bytes(), path.name)


def _csv_rows(text: str, name: str) -> list[tuple[int, dict]]:
    try:
        return list(enumerate(csv.DictReader(io.StringIO(text, newline=""), strict=True), start=2))
    except csv.Error as error:
        raise InputError(f"captions file {name} is not a CSV ({error}): separate columns by commas and quote texts that hold one") from error


def _json_rows(text: str, name: str) -> list[tuple[int, dict]]:
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(f"captions file {name}, line {number}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise InputError(f"captions file {name}, line {number}: not an object with an image name and a caption")
        rows.append((number, row))
    return rows
