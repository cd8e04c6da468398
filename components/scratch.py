"""Folders for files on their way to a browser; old ones are removed when a new one is made."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path

PREFIX = "craterlab-scratch-"
KEEP_SECONDS = 3600  # the page copies a file within seconds; a slow download of a zip may take longer


def scratch_folder(keep_seconds: float = KEEP_SECONDS) -> Path:
    """A new private folder in the system's temporary directory.

    Args:
        keep_seconds: own folders that were made longer ago are removed.
    """
    for old in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            about = old.lstat()
        except FileNotFoundError:
            continue
        if old.is_dir() and not old.is_symlink() and about.st_uid == os.getuid() and time.time() - about.st_mtime > keep_seconds:
            shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=PREFIX))
