"""Training as a SLURM job through submitit; stopped by the time limit or preempted, the job is queued again and resumes."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.config import TrainConfig, command_line
from backend.errors import InputError
from backend.runs import RunStore
from backend.runs.status import StatusWriter, fresh_status
from backend.training.executors import PROJECT
from backend.training.record import machine_record

CLUSTERS = ("slurm", "local", "debug")


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
        return values | ({"slurm_partition": self.partition} if self.partition and self.cluster == "slurm" else {})


class TrainingJob:
    """What runs inside the job; submitit calls `checkpoint` when the job is about to be cut off."""

    def __init__(self, root: str, run_id: str) -> None:
        self.root, self.run_id = root, run_id

    def __call__(self) -> str:
        """Train the run to its end."""
        from backend.training.control import Control
        from backend.training.trainer import train

        os.chdir(PROJECT)
        run = RunStore(self.root).get(self.run_id)
        return train(run.config, run, Control(run), executor="slurm")

    def checkpoint(self) -> Any:
        """Queue the same job again: it resumes from the newest checkpoint."""
        import submitit

        return submitit.helpers.DelayedSubmission(TrainingJob(self.root, self.run_id))


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
    executor = submitit.AutoExecutor(folder=str(folder), cluster=options.cluster)
    executor.update_parameters(name=run.id, **options.parameters())
    StatusWriter(run.status_path, fresh_status(state="queued", total=config.episodes, executor="slurm", message="waits in the cluster's queue")).update()
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(p for p in (str(PROJECT), before) if p)
    try:
        job = executor.submit(TrainingJob(str(store.root), run.id))
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
    command = command_line(config).replace("python", shlex.quote(sys.executable), 1) + f" --runs-dir {shlex.quote(str(root))}"
    return _make_sbatch_string(
        command=command, folder=root / "slurm", job_name=f"craterlab-{config.mode}-{config.metric}", time=values["timeout_min"], nodes=1, ntasks_per_node=1,
        gpus_per_node=options.gpus, setup=[f"cd {shlex.quote(str(PROJECT))}"], **known,
    )  # fmt: skip


def _submitit(options: SlurmOptions) -> Any:
    if options.cluster not in CLUSTERS:
        raise InputError(f"slurm-cluster {options.cluster!r}: choose one of {', '.join(CLUSTERS)}")
    try:
        import submitit
    except ImportError as error:
        raise InputError("submitit is not installed: `pip install submitit`") from error
    return submitit
