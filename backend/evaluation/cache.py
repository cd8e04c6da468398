"""Arrays on disk under the hash of everything that decides them, so that what costs minutes is drawn once."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np


def cache_folder() -> Path:
    """Folder of the cache: the environment's CRATER_CACHE, else `.cache/evaluation`."""
    return Path(os.environ.get("CRATER_CACHE") or ".cache/evaluation")


def key_of(facts: Mapping[str, Any]) -> str:
    """SHA-256 of JSON-able facts, independent of their order."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def cached_arrays(kind: str, facts: Mapping[str, Any], build: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """What `build` returns, read from disk where the same facts were built before.

    A torn file is built again. Where the folder cannot be written the arrays are returned all the same.

    Args:
        kind: begins the file's name.
        facts: everything that decides the result, JSON-able.
        build: makes the arrays by name.
    """
    path = cache_folder() / f"{kind}_{key_of(facts)[:32]}.npz"
    if path.is_file():
        try:
            with np.load(path, allow_pickle=False) as stored:
                return {name: stored[name] for name in stored.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            path.unlink(missing_ok=True)
    arrays = build()
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            np.savez(file, **arrays)
        os.replace(temporary, path)
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
