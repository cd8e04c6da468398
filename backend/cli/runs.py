"""`python -m backend runs`: see and tend the runs of a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from backend.cli.settings import RunId, RunsDir
from backend.config import command_line
from backend.errors import InputError
from backend.evaluation.guards import gap_in_words
from backend.runs import LIVE, Run, RunStore

app = typer.Typer(help="List, show, steer, pack and delete runs.", no_args_is_help=True)


@app.command("list")
def list_runs(runs_dir: RunsDir = None, as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """All runs, newest first."""
    summaries = RunStore(runs_dir).list()
    if as_json:
        print(json.dumps([s.__dict__ for s in summaries], indent=1))
        return
    table = Table("run", "state", "mode", "metric", "episodes", "best score", "base", "gap closed", "note")
    for s in summaries:
        table.add_row(s.id, s.damaged or s.state, s.mode, s.metric, f"{s.episode}/{s.total}", _digits(s.best_score), _digits(s.base_level), gap_in_words(s), s.note)
    Console(width=None if Console().is_terminal else 200).print(table)


def _digits(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


@app.command()
def show(run_id: RunId, runs_dir: RunsDir = None) -> None:
    """One run: state, levels, checkpoints, the command that trains the same again, the end of its log."""
    store = RunStore(runs_dir)
    run = store.find(run_id)
    status = run.status()
    print(f"{run.id}\n  state: {store.effective_state(run)}, attempt {status.attempt}, episode {status.episode} of {status.total}, on {status.host}")
    if status.error or status.message:
        print(f"  {status.error or status.message}")
    levels = f"base {_digits(status.base_level)}, reference {_digits(status.reference_level)}"
    print(f"  score {_digits(status.score)}, best {_digits(status.best_score)} (episode {status.best_episode}), {levels}")
    print(f"  checkpoints: {', '.join(c.name + (' (best)' if c.best else '') for c in run.checkpoints()) or 'none'}")
    print(f"  {_command(store, run)}")
    for event in run.events():
        if event["kind"] == "alert":
            print(f"  alert: {event.get('message')}")
    print("\n".join(f"  | {line}" for line in run.log_tail(8).splitlines()))


def _command(store: RunStore, run: Run) -> str:
    """The command that trains the same again, or the run's words and why there is none."""
    try:
        return command_line(run.config)
    except InputError as error:
        known = store.summary(run)
        return " ".join(word for word in (known.mode, known.metric, f"({error})") if word)


@app.command()
def stop(run_id: RunId, runs_dir: RunsDir = None) -> None:
    """Ask a live run, wherever it trains, to stop with a checkpoint; one that waits in a cluster's queue is stopped at once."""
    from backend.training.executors import leave_cluster

    run = RunStore(runs_dir).find(run_id)
    if leave_cluster(run):
        print(f"{run.id} {run.status().message}")
        return
    _ask(run_id, runs_dir, "stop")


@app.command()
def pause(run_id: RunId, runs_dir: RunsDir = None) -> None:
    """Ask a live run to pause; `runs go-on` lets it continue."""
    _ask(run_id, runs_dir, "pause")


@app.command("go-on")
def go_on(run_id: RunId, runs_dir: RunsDir = None) -> None:
    """Let a paused run continue."""
    _ask(run_id, runs_dir, "resume")


@app.command()
def change(
    run_id: RunId,
    field: Annotated[str, typer.Argument(help="A live setting, such as learning_rate.")],
    value: Annotated[str, typer.Argument(help="Its new value.")],
    runs_dir: RunsDir = None,
) -> None:
    """Change a live setting of a run while it trains."""
    from backend.training.live import validate_change

    new = getattr(validate_change(RunStore(runs_dir).find(run_id).config, field, value), field)
    _ask(run_id, runs_dir, "change", {"field": field, "value": new})


def _ask(run_id: str, runs_dir: Path | None, kind: str, payload: dict | None = None) -> None:
    store = RunStore(runs_dir)
    run = store.find(run_id)
    state = store.effective_state(run)
    if state not in LIVE:
        remedy = f"`python -m backend runs show {run.id}` has the command that trains another" if state == "completed" else f"`python -m backend resume {run.id}` continues it"
        raise InputError(f"run {run.id} is {state}: it cannot take {kind}; {remedy}")
    run.request(kind, payload)
    print(f"asked {run.id} to {kind}")


@app.command()
def delete(
    run_id: Annotated[str, typer.Argument(help="Id of the run.")],
    runs_dir: RunsDir = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete a run that is not live."""
    store = RunStore(runs_dir)
    run = store.get(run_id)  # what is lost for ever is named in full
    if not yes:
        typer.confirm(f"Delete {run.path} ({run.size_bytes() / 2**20:.0f} MiB)?", abort=True)
    store.delete(run_id)
    print(f"deleted {run_id}")


@app.command("zip")
def zip_run(
    run_id: RunId,
    out: Annotated[Path, typer.Option(help="Folder of the archive.")] = Path("."),
    checkpoints: Annotated[bool, typer.Option(help="With checkpoints.")] = True,
    runs_dir: RunsDir = None,
) -> None:
    """Pack a run into one file."""
    store = RunStore(runs_dir)
    print(store.zip(store.find(run_id).id, out, checkpoints))
