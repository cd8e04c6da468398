"""`python -m backend resume`: let a run that ended early go on exactly where it was."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from backend.cli.settings import Plugins, RunId, RunsDir
from backend.config import load_plugins
from backend.errors import InputError
from backend.runs import LIVE, Run, RunStore
from backend.runs.process import host_name

app = typer.Typer()


@app.command("resume")
def resume(
    run_id: RunId,
    plugin: Plugins = None,
    runs_dir: RunsDir = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
) -> None:
    """Continue a stopped, failed or interrupted run from its newest sound checkpoint, bit for bit as if it had not ended; under torchrun on several GPUs."""
    load_plugins(plugin or [])
    store = RunStore(runs_dir)
    run = store.find(run_id)
    from backend.training.distributed import is_main

    if is_main():
        _refuse_what_cannot_go_on(store, run)
    from backend.cli.train import host_existing

    sys.exit(host_existing(store, run, quiet, "command line"))


def _refuse_what_cannot_go_on(store: RunStore, run: Run) -> None:
    state = _watched_state(store, run)
    if state in LIVE:
        raise InputError(f"run {run.id} is {state}: there is nothing to resume; `python -m backend runs stop {run.id}` stops it")
    if state == "completed" and run.status().episode >= run.config.episodes:
        raise InputError(f"run {run.id} is completed after {run.config.episodes} episodes: train a new one with `--config {run.config_path}`")
    from backend.training.session import check_inputs

    check_inputs(run.config, here=True, begun=True)


def _watched_state(store: RunStore, run: Run) -> str:
    """The effective state; a writer on another machine is given the time of a few heartbeats to show that it lives."""
    state, first = store.effective_state(run), run.status()
    if state not in LIVE or first.host == host_name() or first.executor == "slurm":
        return state
    print(f"watching {run.id} for a sign of life from {first.host}", file=sys.stderr)
    while state in LIVE and run.status().heartbeat == first.heartbeat:
        time.sleep(1)
        state = store.effective_state(run)
    return state
