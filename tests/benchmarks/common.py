"""What the benchmarks share: the machine's name, frozen inputs, arms that can be resumed, tables."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from backend.config import TrainConfig, make_config
from backend.config.load import command_line
from backend.errors import InputError
from backend.evaluation.cache import cached_arrays, key_of
from backend.evaluation.protocol import Protocol
from backend.runs import Run, RunStore
from backend.runs.files import atomic_write

RESULTS = Path("docs/results")
RUNS = Path("runs/bench")


def machine(device: str = "cpu") -> dict[str, Any]:
    """Processor, cores that this process may use, memory, versions, and the accelerator where one is used."""
    import torch

    model = next((line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor() or platform.machine())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = {"processor": model, "cores": cores, "memory_gib": round(psutil.virtual_memory().total / 2**30, 1), "python": platform.python_version(), "torch": torch.__version__}
    if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
        found["accelerator"] = torch.cuda.get_device_name(0)
    return found


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []


def machine_line(found: Mapping[str, Any]) -> str:
    """The machine in words."""
    extra = f", {found['accelerator']}" if "accelerator" in found else ""
    return f"{found['processor']}, {found['cores']} cores, {found['memory_gib']} GiB, Python {found['python']}, torch {found['torch']}{extra}"


def write(path: Path, value: Mapping[str, Any]) -> None:
    """JSON, written whole or not at all; NaN is refused."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read(path: Path) -> dict[str, Any] | None:
    """A result that is there already, or None."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def freeze(folder: Path, facts: Mapping[str, Any]) -> None:
    """Fix what a benchmark measures on before its first arm; refuse to mix arms of different inputs.

    Args:
        folder: of the benchmark's results.
        facts: hashes of base model, evaluation prompts and seeds, reference set.

    Raises:
        InputError: an earlier arm was measured on something else.
    """
    path = folder / "frozen.json"
    before = read(path)
    if before is None:
        write(path, facts)
    elif before != dict(facts):
        differ = ", ".join(key for key in facts if before.get(key) != facts[key])
        raise InputError(f"{path} was frozen with another {differ}: move {folder} away to start the benchmark anew")


def frozen_facts(config: TrainConfig, protocol: Protocol, model: str) -> dict[str, Any]:
    """Hashes that `freeze` compares."""
    from backend.reference.dataset import load_reference
    from backend.reference.prompts import load_prompts

    return {
        "model_sha256": model,
        "protocol_sha256": protocol.digest,
        "images": protocol.images,
        "reference_sha256": load_reference(config.reference).digest,
        "train_prompts_sha256": key_of({"prompts": load_prompts(config.train_prompts)}),
    }


def train_arm(config: TrainConfig, folder: Path) -> tuple[Run, str, float]:
    """Train from the command line, or go on with, or reuse, the run that this folder holds.

    Args:
        config: all settings of the arm.
        folder: a runs folder of the arm's own.

    Returns:
        The completed run, the command, and the seconds that its episodes took.

    Raises:
        InputError: the folder holds a run of other settings, or training failed (its output was shown).
    """
    store = RunStore(folder)
    found = store.newest()
    command = command_line(config)
    if found is not None and found.config != config:
        raise InputError(f"{found.path} was trained with other settings: remove it to train the arm anew")
    state = store.effective_state(found) if found is not None else ""
    if state != "completed":
        words = [sys.executable, "-m", "backend", *(["resume", found.id, "--runs-dir", str(folder)] if found is not None else [*_words(command), "--runs-dir", str(folder)])]
        status = subprocess.run(words, env={**os.environ, "RUNS_DIR": str(folder)}).returncode
        found = store.newest()
        if status or found is None or store.effective_state(found) != "completed":
            raise InputError(f"training of {folder.name} ended with status {status}: see {found.log_path if found else folder}")
    columns, _, _ = found.read_columns("policy_updates", 0, ["time_per_episode"])
    return found, command, float(sum(value or 0 for value in columns["time_per_episode"]))


def _words(command: str) -> list[str]:
    import shlex

    return shlex.split(command)[3:]


def newest_policy(run: Run) -> Path:
    """The folder of the run's newest checkpoint's policy."""
    from backend.evaluation.generate import find_checkpoint

    return find_checkpoint(run) / "policy"


def policy_digest(path: Path) -> str:
    """Hash of the files of a saved policy."""
    from backend.evaluation.cache import files_digest

    return files_digest([p for p in path.iterdir() if p.is_file()])


def tuned_images(config: TrainConfig, path: Path, protocol: Protocol, model: str, device: str) -> np.ndarray:
    """Images of a saved policy, uint8 [N, h, w, 3]; drawn once per policy and protocol."""
    from backend.evaluation.generate import draw, load_policy, open_backbone

    facts = {"policy": policy_digest(path), "model": model, "protocol": protocol.digest, "config": config.model_dump()}

    def build() -> dict[str, np.ndarray]:
        backbone = open_backbone(config, device)
        return {"images": draw(backbone, load_policy(config, backbone, path), protocol.captions, protocol.seeds, protocol.steps, protocol.guidance)}

    return cached_arrays("tuned", facts, build)["images"]


def parse(description: str, arms: Sequence[str], images: int) -> Namespace:
    """Flags that all benchmarks share."""
    parser = ArgumentParser(description=description)
    parser.add_argument("--arm", action="append", help=f"one of {', '.join(arms)}; may be repeated (default: all, those done are skipped)")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="override a setting in every arm")
    parser.add_argument("--images", type=int, default=images, help="evaluation images of each model")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of the training runs")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--table", action="store_true", help="write the table from the arms that are done and stop")
    chosen = parser.parse_args()
    unknown = [arm for arm in chosen.arm or [] if arm not in arms]
    if unknown:
        parser.error(f"unknown arm {unknown[0]!r}: choose from {', '.join(arms)}")
    return chosen


def overridden(config: TrainConfig, settings: Sequence[str]) -> TrainConfig:
    """The config with `FIELD=VALUE` settings applied.

    Raises:
        InputError: a setting is unknown or refused.
    """
    values = dict(setting.split("=", 1) for setting in settings)
    return make_config({**config.model_dump(), **values})


def run_arms(names: Sequence[str], folder: Path, work: Callable[[str], dict[str, Any]]) -> None:
    """Do every arm that has no result yet; each result is written as soon as it is there."""
    for name in names:
        path = folder / f"{name.replace(':', '_')}.json"
        if path.is_file():
            print(f"{name}: done before, in {path}", flush=True)
            continue
        print(f"{name}: begins", flush=True)
        began = time.monotonic()
        result = work(name)
        write(path, {"arm": name, **result, "seconds": round(time.monotonic() - began, 1)})
        print(f"{name}: done in {time.monotonic() - began:.0f} s", flush=True)


def arm_results(folder: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Results by arm, of those that are done."""
    found = {name: read(folder / f"{name.replace(':', '_')}.json") for name in names}
    return {name: value for name, value in found.items() if value is not None}
