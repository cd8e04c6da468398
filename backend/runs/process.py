"""Which process writes a run, and whether it still lives."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def host_name() -> str:
    """Name of this machine as it stands in status.json."""
    return socket.gethostname()


def create_time(pid: int) -> float | None:
    """Seconds from boot to the process's start, or None where no such process runs.

    Read from the kernel's tick counter, so that setting the wall clock changes nothing; a killed process that its
    parent has not collected yet counts as gone.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None if Path("/proc/self/stat").exists() else _portable_create_time(pid)
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _portable_create_time(pid: int) -> float | None:
    import psutil

    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def identity() -> dict[str, object]:
    """Host, pid and create time of this process."""
    return {"host": host_name(), "pid": os.getpid(), "pid_create_time": create_time(os.getpid())}


def is_same_process_alive(pid: int, created: float | None) -> bool:
    """Whether the process of that pid on this machine is the very one that started at `created`."""
    now = create_time(pid)
    return now is not None and created is not None and abs(now - created) < 0.5
