"""Arrays on disk under the hash of everything that decides them, so that what costs minutes is drawn once."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import uuid
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from backend.config.load import is_public_demo
from backend.errors import InputError

KEPT = re.compile(r"[a-z]+_[0-9a-f]{32}\.npz")  # names of what is kept


def cache_folder() -> Path:
    """Folder of the cache: the environment's CRATER_CACHE, else `.cache/evaluation`."""
    return Path(os.environ.get("CRATER_CACHE") or ".cache/evaluation")


def cache_bytes(environ: Mapping[str, str] | None = None) -> float:
    """Largest size of the cache: the environment's CRATER_CACHE_GIB, else 4 GiB, on a public demo 1.

    Raises:
        InputError: the variable is no number above 0.
    """
    environ = os.environ if environ is None else environ
    value = environ.get("CRATER_CACHE_GIB") or ("1" if is_public_demo(environ) else "4")
    try:
        size = float(value)
    except ValueError:
        size = math.nan
    if not 0 < size < math.inf:
        raise InputError(f"CRATER_CACHE_GIB = {value!r}: give a number of GiB above 0, such as 4")
    return size * 2**30


def prune(folder: Path, most: float, keep: Path) -> None:
    """Remove the arrays that were used longest ago until those of the folder have at most `most` bytes; `keep` stays."""
    found = []
    for path in folder.glob("*.npz"):
        if not KEPT.fullmatch(path.name):
            continue  # CRATER_CACHE may be a folder that holds other things
        with suppress(OSError):  # another process prunes too
            known = path.stat()
            found.append((known.st_mtime_ns, known.st_size, path))
    size = sum(bytes_of for _, bytes_of, _ in found)
    for _, bytes_of, path in sorted(found):
        if size <= most:
            return
        if path != keep:
            with suppress(OSError):
                path.unlink()
                size -= bytes_of


def key_of(facts: Mapping[str, Any]) -> str:
    """SHA-256 of JSON-able facts, independent of their order."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def cached_arrays(kind: str, facts: Mapping[str, Any], build: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """What `build` returns, read from disk where the same facts were built before.

    A torn file is built again. What was used longest ago is removed where the cache has become larger than `cache_bytes`.
    Where the folder cannot be written the arrays are returned all the same.

    Args:
        kind: begins the file's name.
        facts: everything that decides the result, JSON-able.
        build: makes the arrays by name.
    """
    path = cache_folder() / f"{kind}_{key_of(facts)[:32]}.npz"
    if path.is_file():
        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            with suppress(OSError):
                os.utime(path)  # what is used stays when the cache is pruned
            return arrays
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            path.unlink(missing_ok=True)
    most = cache_bytes()
    arrays = build()
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            np.savez(file, **arrays)
        os.replace(temporary, path)
        prune(path.parent, most, path)
    except OSError:
        temporary.unlink(missing_ok=True)  # a cache that cannot be kept costs time, not results
    return arrays


def files_digest(paths: list[Path]) -> str:
    """SHA-256 over the content of files, in order of their names."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
