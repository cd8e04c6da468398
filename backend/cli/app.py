"""The root of the command line. Only the module of the command that is called is imported, so that `--help` is quick."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence

import typer

from backend.config import load_plugins
from backend.errors import InputError

# Module by top-level command; a module of several commands stands under each of their names.
GROUPS = {"reference": "reference", "base-model": "base_model", "runs": "runs", "config": "config"}
COMMANDS = {
    "train": "train", "resume": "resume", "doctor": "doctor",
    "evaluate": "evaluate", "generate": "evaluate", "compare": "evaluate", "plot": "evaluate", "report": "evaluate",
}  # fmt: skip


def build_app(called: str | None) -> typer.Typer:
    """The application with the module of the called command, or with all of them for `--help`."""
    app = typer.Typer(
        help="CraterLab: fine-tuning diffusion models for diversity by reinforcement learning.", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
    )
    known = {**COMMANDS, **GROUPS}
    modules = [known[called]] if called in known else list(dict.fromkeys(known.values()))
    for module in modules:
        name = f"backend.cli.{module}"
        if importlib.util.find_spec(name) is None:
            continue
        group = next((command for command, owner in GROUPS.items() if owner == module), None)
        app.add_typer(importlib.import_module(name).app, name=group)
    app.callback()(_root)
    return app


def _root() -> None:
    """CraterLab: fine-tuning diffusion models for diversity by reinforcement learning."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command.

    What a person can mend is one line on standard error and exit status 2.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    called = next((a for a in arguments if not a.startswith("-")), None)
    try:
        load_plugins([])
        build_app(called)(arguments, prog_name="python -m backend")
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
