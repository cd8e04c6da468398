"""`python -m backend train`: start a run here, or hand it to SLURM."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from backend.cli.settings import PresetName, RunsDir, with_settings
from backend.config import TrainConfig, load_plugins, load_preset, make_config, read_config_file, unfit_model
from backend.config.load import environment_values
from backend.errors import InputError
from backend.runs import Run, RunStore
from backend.training.slurm import CLUSTERS

app = typer.Typer()


@app.command("train", help="Train a policy. Every setting is a flag; `--config` and CRATER_* variables set them too, a flag wins.")
@with_settings
def train(
    config: Annotated[Path | None, typer.Option(help="JSON or YAML file of settings, such as another run's config.json.")] = None,
    preset: PresetName = None,
    plugin: Annotated[list[Path] | None, typer.Option(help="Python file that registers metrics, policies or extractors of your own; may be repeated.")] = None,
    runs_dir: RunsDir = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
    slurm: Annotated[bool, typer.Option("--slurm", help="Submit to SLURM (or with --slurm-cluster local, to this machine) instead of training here.")] = False,
    slurm_cluster: Annotated[str, typer.Option(help="slurm, local or debug.")] = "slurm",
    slurm_partition: Annotated[str, typer.Option(help="Partition.")] = "",
    slurm_gpus: Annotated[int, typer.Option(help="GPUs of the job; several share one run through torchrun.", min=0)] = 1,
    slurm_minutes: Annotated[int, typer.Option(help="Time limit; at its end the run stops with a checkpoint and is queued again.", min=5)] = 240,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With --slurm: print the job script and write nothing.")] = False,
    run_id: Annotated[str | None, typer.Option(hidden=True)] = None,
    settings: dict[str, Any] | None = None,
) -> None:
    """Train a run to its end."""
    load_plugins(plugin or [])
    store = RunStore(runs_dir)
    if run_id is not None:
        sys.exit(host_existing(store, store.get(run_id), quiet, "process"))
    if dry_run and not slurm:
        raise InputError("--dry-run goes with --slurm: `python -m backend config validate` checks settings without training")
    if slurm and slurm_cluster not in CLUSTERS:
        raise InputError(f"slurm-cluster {slurm_cluster!r}: choose one of {', '.join(CLUSTERS)}")
    resolved = settle_settings(settings or {}, config, preset)
    from backend.training.session import check_inputs
    from backend.training.trackers import check_tracker

    check_inputs(resolved, here=not slurm)
    check_tracker(resolved)
    if slurm:
        from backend.training.slurm import SlurmOptions, job_script, submit

        options = SlurmOptions(slurm_cluster, slurm_partition, slurm_gpus, slurm_minutes)
        print(job_script(resolved, store.root, options) if dry_run else submit(store, resolved, options))
        return
    from backend.training.distributed import world_size

    if world_size() > 1:
        sys.exit(host_together(store, resolved, quiet, lambda: _new_run(store, resolved, quiet).id))
    sys.exit(host(_new_run(store, resolved, quiet), resolved, quiet, "command line"))


def _new_run(store: RunStore, config: TrainConfig, quiet: bool) -> Run:
    from backend.training.record import machine_record

    run = store.create(config, machine_record(config))
    if not quiet:
        print(f"Run {run.id} in {store.root}", flush=True)
    return run


def host_existing(store: RunStore, run: Run, quiet: bool, executor: str) -> int:
    """Train a run that is there already, alone or as one of several processes; returns the exit status."""
    from backend.training.distributed import world_size

    if world_size() > 1:
        return host_together(store, run.config, quiet, lambda: run.id)
    return host(run, run.config, quiet, executor)


def host_together(store: RunStore, config: TrainConfig, quiet: bool, run_id: Callable[[], str]) -> int:
    """Train as one of several processes (torchrun, accelerate launch); returns the exit status."""
    from backend.cli.watching import stop_on_signals, tell
    from backend.training.distributed import train_together

    return 1 if train_together(config, run_id, store.root, listen=stop_on_signals, observe=partial(tell, quiet=quiet), executor="torchrun") == "failed" else 0


def settle_settings(flags: dict[str, Any], file: Path | None, preset: str | None) -> TrainConfig:
    """Defaults < preset < file < environment < flags.

    Raises:
        InputError: one of them refuses, or a preset for a large model would train the embedded one.
    """
    chosen = load_preset(preset) if preset else {"values": {}}
    values = {**chosen["values"], **(read_config_file(file) if file else {})}
    resolved = make_config({**values, **environment_values(), **flags})
    if why := unfit_model(chosen, resolved):
        raise InputError(why, field="base_model")
    return resolved


def host(run: Run, config: TrainConfig, quiet: bool, executor: str) -> int:
    """Train in this process; returns the exit status."""
    from backend.cli.watching import Watcher, stop_on_signals
    from backend.training.control import Control
    from backend.training.recorder import RunLost
    from backend.training.trainer import train as train_run

    control = Control(run)
    try:
        with Watcher(run, quiet) as watcher, stop_on_signals(control):
            state = train_run(config, run, control, observe=watcher, executor=executor)
    except RunLost as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if state == "failed":
        print(f"error: {run.status().error}", file=sys.stderr)
    return 1 if state == "failed" else 0
