"""What was true of the machine when a run was made; nothing of the environment's values enters it but thread counts."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from backend.config import TrainConfig

PACKAGES = ("torch", "diffusers", "transformers", "peft", "numpy", "scipy", "safetensors", "gradio")


def machine_record(config: TrainConfig) -> dict[str, Any]:
    """Package versions, git revision, threads, precision and device choice."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "git": git_revision(),
        "threads": threads(config),
        "precision": config.precision,
        "device": config.device,
    }


def threads(config: TrainConfig) -> int:
    """Torch threads of a run: the setting, else OMP_NUM_THREADS, else the cores that this process may use."""
    if config.threads:
        return config.threads
    named = os.environ.get("OMP_NUM_THREADS", "")
    if named.isdigit() and int(named) > 0:
        return int(named)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def git_revision(folder: Path = Path(__file__).parent) -> str:
    """Commit of the program, with `+` behind it where files differ from it; empty outside a repository."""
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
        changed = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=folder, capture_output=True, text=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    return head + ("+" if changed.strip() else "")


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
