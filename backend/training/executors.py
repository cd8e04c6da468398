"""Hosts of the trainer: a background thread of this process, or a child process that may die alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from backend.config import TrainConfig
from backend.errors import InputError
from backend.runs import LIVE, Run
from backend.runs.control import Request, drop_requests
from backend.runs.status import StatusWriter, fresh_status
from backend.runs.takeover import claim_attempt
from backend.training.lease import DeviceLease
from backend.training.libraries import import_trainer

PROJECT = Path(__file__).resolve().parents[2]
LARGE_MODEL_BYTES = 300 * 2**20  # a model above this trains in a child process: out of memory there leaves the page alive


class Executor(Protocol):
    """Runs one training to its end in the calling thread."""

    name: str

    def execute(self, run: Run) -> str:
        """Train; returns a sentence where it ended badly, else nothing."""
        ...

    def stop(self) -> None:
        """Ask for a graceful stop from within this process."""
        ...

    def force_stop(self) -> str:
        """End it now where that is possible; the sentence says what happened."""
        ...


class ThreadExecutor:
    """Trains in the calling thread of this process."""

    name = "thread"

    def __init__(self, lease: DeviceLease, build: Any = None) -> None:
        self.lease = lease
        self.build = build
        self.control: Any = None
        self._stopped = False

    def execute(self, run: Run) -> str:
        """See `Executor`."""
        if self.build is None:
            import_trainer()
        from backend.training.control import Control
        from backend.training.trainer import train

        self.control = Control(run, self.lease)
        if self._stopped:
            self.control.request_stop()
        keywords = {"build": self.build} if self.build else {}
        try:
            train(run.config, run, self.control, executor=self.name, **keywords)
        except (InputError, RuntimeError, OSError) as error:
            return str(error)
        return ""

    def stop(self) -> None:
        """See `Executor`."""
        self._stopped = True
        if self.control is not None:
            self.control.request_stop()

    def force_stop(self) -> str:
        """A thread cannot be killed; it ends when its device call returns."""
        self.stop()
        return "waiting for the device call in hand to return: a thread cannot be cut off, it stops at the next denoising step"


class ProcessExecutor:
    """Trains in a child process with this program's own command line.

    Args:
        root: the folder of runs.
        command: from a run to the command; by default `python -m backend train --run-id`.
    """

    name = "process"

    def __init__(self, root: Path, command: Callable[[Run], list[str]] | None = None) -> None:
        self.root = root
        self.command = command or self._command
        self.process: subprocess.Popen | None = None
        self._killed = self._stopped = False

    def _command(self, run: Run) -> list[str]:
        return [sys.executable, "-m", "backend", "train", "--run-id", run.id, "--runs-dir", str(self.root), "--quiet"]

    def execute(self, run: Run) -> str:
        """See `Executor`."""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in (str(PROJECT), os.environ.get("PYTHONPATH", "")) if p)}
        with open(run.path / "process.txt", "ab") as output:
            self.process = subprocess.Popen(
                self.command(run), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, env=environment
            )  # fmt: skip
            if self._stopped:
                self.stop()
            code = self.process.wait()
        if self._killed:
            settle(run, "stopped", f"force-stopped after {run.status().episode} episodes; Resume goes on from the newest checkpoint", error="")
            return ""
        if self._stopped and code == -signal.SIGTERM:  # it came before the child listened
            settle(run, "stopped", f"stopped after {run.status().episode} episodes", error="")
            return ""
        if code == 0:
            return ""
        return settle_child(run, code)

    def stop(self) -> None:
        """See `Executor`."""
        self._stopped = True
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def force_stop(self) -> str:
        """Kill the child."""
        if self.process is None or self.process.poll() is not None:
            return "the training process has ended already"
        self._killed = True
        self.process.kill()
        return "the training process was killed; its last checkpoint is kept"


def settle(run: Run, state: str, message: str, error: str) -> None:
    """Give a run whose process is gone its last state; its parent is the heir of its status."""
    status = run.status()
    if status.state in LIVE and run.path.is_dir():
        StatusWriter(run.status_path, status).update(state=state, message=message, error=error, phase="", requested="", eta_seconds=None)


def settle_child(run: Run, code: int) -> str:
    """Settle a run whose child, which wrote to process.txt, failed with this exit status; returns the sentence that says why."""
    sentence = run.status().error or exit_sentence(code, run.config, _last_line(run.path / "process.txt"))
    settle(run, "failed", "", error=sentence)
    return sentence


def queue_again(run: Run, executor: str = "", message: str = "") -> list[Request]:
    """Queue a run that has ended early; what it reached stays in its status.

    Returns:
        Requests that were left for the earlier process; they are dropped.

    Raises:
        InputError: another process took it over meanwhile.
    """
    status = run.status()
    attempt = claim_attempt(run.attempts_dir, status.attempt)
    dropped = drop_requests(run.control_dir)
    kept = {name: getattr(status, name) for name in ("episode", "best_score", "best_episode", "base_level", "reference_level", "score", "trainable")}
    StatusWriter(run.status_path, fresh_status(state="queued", attempt=attempt, total=run.config.episodes, executor=executor, message=message, **kept)).update()
    return dropped


def leave_cluster(run: Run) -> bool:
    """Stop a run whose job still waits in a cluster's queue: when the job's turn comes it ends at once. False where it does not wait there."""
    status = run.status()
    if status.state != "queued" or status.executor != "slurm":
        return False
    settle(run, "stopped", "stopped while its job waited in the cluster's queue; the job, which squeue still shows, does nothing", error="")
    return True


def exit_sentence(code: int, config: TrainConfig, last_line: str = "") -> str:
    """What a child's exit status means, for a person."""
    if code == -signal.SIGKILL:
        smaller = max(1, (config.micro_batch or config.group_size // config.minibatches) // 2)
        return f"the training process was killed from outside, most often for lack of memory: try micro_batch {smaller} or gradient checkpointing"
    if code < 0:
        return f"the training process died of signal {-code} ({signal.Signals(-code).name}); log.txt has its last words"
    return last_line[:300] or f"the training process ended with status {code}; log.txt has its last words"


def _last_line(path: Path) -> str:
    """The last line of a child's output; empty where there is none."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1].strip() if lines else ""


def wants_process(config: TrainConfig) -> bool:
    """Whether a run trains in a child process: as set, or by the model's size where that is left open."""
    if config.executor != "auto":
        return config.executor == "process"
    folder = Path(config.base_model)
    if not folder.is_dir():
        return True
    return sum(p.stat().st_size for p in folder.rglob("*.safetensors")) > LARGE_MODEL_BYTES
