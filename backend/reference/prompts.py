"""Prompt files: one prompt a line, UTF-8, `#` for comments."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from backend.errors import InputError

MAX_PROMPTS = 10_000
MAX_BYTES = 4 * 2**20


def load_prompts(path: str | Path, field: str | None = None) -> list[str]:
    """Prompts of any length, in the order in which they stand in a text file.

    Blank lines and lines that begin with `#` are skipped, white space is reduced to single blanks. A prompt that is
    repeated is kept: it is then drawn that much more often.

    Args:
        path: the text file.
        field: name of the `TrainConfig` field that named the file, so that the page shows the error there.

    Returns:
        P prompts, P >= 1.

    Raises:
        InputError: the file is missing, a folder, too large, not UTF-8 or empty, or a line holds control
            characters.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"prompt file {str(path)!r} is a folder: name a text file with one prompt a line", field=field)
    if not path.is_file():
        raise InputError(f"prompt file {str(path)!r} does not exist: name a text file with one prompt a line, such as assets/prompts/train.txt", field=field)
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"prompt file {str(path)!r} has {path.stat().st_size} bytes, more than {MAX_BYTES}: is it a text file with one prompt a line?", field=field)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"prompt file {str(path)!r} is not UTF-8 (byte {error.start}): save it as UTF-8 text", field=field) from error
    except OSError as error:
        raise InputError(f"prompt file {str(path)!r} cannot be read ({error.strerror}): check its permissions", field=field) from error
    return parse_prompts(text, str(path), field)


def not_held_out(test: Sequence[str], training: Sequence[str]) -> list[str]:
    """Test prompts that stand among the training prompts too, whatever their capitals."""
    trained = {prompt.casefold() for prompt in training}
    return [prompt for prompt in test if prompt.casefold() in trained]


def said_of_overlap(test: Sequence[str], training: Sequence[str]) -> str:
    """A sentence about test prompts that are trained on; empty where all are held out."""
    shared = not_held_out(test, training)
    if not shared:
        return ""
    said = f"{len(shared)} of {len(test)} test prompts stand among the training prompts too (first {shared[0][:60]!r})"
    return f"{said}: on these, probes, evaluation and the gap closed measure what was trained on; name a test_prompts file without them"


def parse_prompts(text: str, source: str = "prompts", field: str | None = None) -> list[str]:
    """Prompts in a text, with the rules of `load_prompts`.

    Args:
        text: lines.
        source: how error messages call the text.
        field: as in `load_prompts`.

    Raises:
        InputError: no prompt, or a line that cannot be one.
    """
    prompts = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.lstrip().startswith("#") or not line.strip():
            continue
        control = next((c for c in line if unicodedata.category(c) == "Cc" and c != "\t"), None)
        if control is not None:
            raise InputError(f"{source}: line {number} holds the control character U+{ord(control):04X}: remove it", field=field)
        prompts.append(" ".join(line.split()))
    if not prompts:
        raise InputError(f"{source} holds no prompt: write one prompt a line (blank lines and lines beginning with # do not count)", field=field)
    if len(prompts) > MAX_PROMPTS:
        raise InputError(f"{source} holds {len(prompts)} prompts, at most {MAX_PROMPTS} are read: shorten the file", field=field)
    return prompts
