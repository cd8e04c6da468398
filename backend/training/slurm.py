"""Training as a SLURM job through submitit; stopped by the time limit or preempted, the job is queued again and resumes."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.config import TrainConfig, command_line, load_plugins
from backend.errors import InputError
from backend.runs import LIVE, RunStore
from backend.runs.status import StatusWriter, fresh_status
from backend.training.executors import PROJECT, queue_again, settle, settle_child
from backend.training.record import machine_record

CLUSTERS = ("slurm", "local", "debug")
WARNING_SECONDS = 150  # from the cluster's signal to the time limit
STOP_SECONDS = 120.0  # of them to leave the episode in hand and write a checkpoint
REQUEUES = 10_000  # submitit would give up at the fourth time limit
WAITS = "waits in the cluster's queue"


@dataclass(frozen=True)
class SlurmOptions:
    """What is asked of the cluster; `minutes` is the job's time limit."""

    cluster: str = "slurm"
    partition: str = ""
    gpus: int = 1
    minutes: int = 240

    def parameters(self) -> dict[str, Any]:
        """The same in submitit's words."""
        values: dict[str, Any] = {"timeout_min": self.minutes, "nodes": 1, "tasks_per_node": 1, "gpus_per_node": self.gpus}
        if self.cluster == "slurm":
            values |= {"slurm_signal_delay_s": WARNING_SECONDS} | ({"slurm_partition": self.partition} if self.partition else {})
        return values


def training_command(gpus: int, arguments: list[str]) -> list[str]:
    """`python -m backend` with arguments, on several GPUs through torchrun."""
    together = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(gpus)] if gpus > 1 else []
    return [sys.executable, *together, "-m", "backend", *arguments]


class TrainingJob:
    """What runs inside the job: a child process that trains, on several GPUs one for each of them.

    submitit calls `checkpoint` when the job is about to be cut off.
    """

    def __init__(self, root: str, run_id: str, gpus: int = 1) -> None:
        self.root, self.run_id, self.gpus = root, run_id, gpus
        self.process: subprocess.Popen | None = None

    def __call__(self) -> str:
        """Train the run to its end; a run that was stopped while it waited is left as it is. Returns the last state."""
        load_plugins()
        run = RunStore(self.root).get(self.run_id)
        if run.status().state not in (*LIVE, "interrupted"):
            return run.status().state
        command = training_command(self.gpus, ["train", "--run-id", self.run_id, "--runs-dir", self.root, "--quiet"])
        with open(run.path / "process.txt", "ab") as output:
            self.process = subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, preexec_fn=_deaf)
            while self.process.poll() is None:  # a blocking wait would hold the lock that `checkpoint` needs amid it
                time.sleep(0.5)
        if self.process.returncode:
            settle_child(run, self.process.returncode)
        return run.status().state

    def checkpoint(self) -> Any:
        """Stop with a checkpoint and queue the same job again: it goes on from there."""
        import submitit

        run = RunStore(self.root).get(self.run_id)
        if self.process is not None and self.process.poll() is None:
            run.request("stop")
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:  # an episode longer than that: the newest checkpoint stands
                self.process.kill()
        if run.status().state in (*LIVE, "stopped", "interrupted"):
            queue_again(run, executor="slurm", message=WAITS)
        return submitit.helpers.DelayedSubmission(TrainingJob(self.root, self.run_id, self.gpus))


def _deaf() -> None:
    """In the child: the cluster's signal may reach every process of the job, and only the trainer has a handler."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def submit(store: RunStore, config: TrainConfig, options: SlurmOptions) -> str:
    """Make a run and submit its job.

    Returns:
        A sentence with run and job.

    Raises:
        InputError: unknown cluster, no SLURM here, or submitit is not installed.
    """
    submitit = _submitit(options)
    if options.cluster == "slurm" and shutil.which("sbatch") is None:
        raise InputError("sbatch is not on this machine: log in to the cluster's login node, or use --slurm-cluster local")
    run = store.create(config, machine_record(config))
    folder = run.path / "slurm"
    StatusWriter(run.status_path, fresh_status(state="queued", total=config.episodes, executor="slurm", message=WAITS)).update()
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(p for p in (str(PROJECT), before) if p)
    try:
        executor = submitit.AutoExecutor(folder=str(folder), cluster=options.cluster, slurm_max_num_timeout=REQUEUES)
        executor.update_parameters(name=run.id, **options.parameters())
        job = executor.submit(TrainingJob(str(store.root), run.id, options.gpus))
    except (submitit.core.utils.FailedJobError, subprocess.SubprocessError, OSError, ValueError) as error:
        settle(run, "failed", "", error="the cluster refused the job")
        store.delete(run.id)
        raise InputError(f"the cluster refused the job: {' '.join(str(error).split())[-300:]}; check --slurm-partition, --slurm-gpus and --slurm-minutes") from error
    finally:
        os.environ.pop("PYTHONPATH") if before is None else os.environ.__setitem__("PYTHONPATH", before)
    if options.cluster == "debug":
        job.result()
    return f"Run {run.id} is job {job.job_id} on {options.cluster}; logs in {folder}"


def job_script(config: TrainConfig, root: Path, options: SlurmOptions) -> str:
    """The batch script of a run, for reading or for `sbatch` by hand; nothing is written.

    Raises:
        InputError: unknown cluster or submitit is not installed.
    """
    _submitit(options)
    from submitit.slurm.slurm import _make_sbatch_string

    values = options.parameters()
    known = {"partition": options.partition} if options.partition else {}
    arguments = shlex.split(command_line(config))[3:]  # python -m backend
    plugins = os.environ.get("CRATER_PLUGINS")
    setup = [f"cd {shlex.quote(str(PROJECT))}", *([f"export CRATER_PLUGINS={shlex.quote(plugins)}"] if plugins else [])]
    return _make_sbatch_string(
        command=shlex.join(training_command(options.gpus, [*arguments, "--runs-dir", str(root)])), folder=root, job_name=f"craterlab-{config.mode}-{config.metric}",
        time=values["timeout_min"], nodes=1, ntasks_per_node=1, gpus_per_node=options.gpus, signal_delay_s=WARNING_SECONDS, setup=setup, **known,
    )  # fmt: skip


def _submitit(options: SlurmOptions) -> Any:
    if options.cluster not in CLUSTERS:
        raise InputError(f"slurm-cluster {options.cluster!r}: choose one of {', '.join(CLUSTERS)}")
    try:
        import submitit
    except ImportError as error:
        raise InputError("submitit is not installed: `pip install submitit`") from error
    return submitit
