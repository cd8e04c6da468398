"""Flags made from the settings: one field is one flag, with the field's own help, group and default."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from backend.config import EXTRACTORS, METRICS, POLICIES, field_meta, field_names, preset_names

RunId = Annotated[str, typer.Argument(help="Id of the run; `latest` takes the newest.")]
RunsDir = Annotated[Path | None, typer.Option(help="Folder of runs (default: RUNS_DIR, else runs).")]
Plugins = Annotated[list[Path] | None, typer.Option("--plugin", help="Plug-in files that the run was started with; may be repeated.")]
PresetName = Annotated[str | None, typer.Option(help=f"Name of a preset in assets/presets: {', '.join(preset_names())}.")]
REGISTRIES = {"mode": POLICIES, "metric": METRICS, "extractor": EXTRACTORS}


def flag(name: str) -> str:
    """The flag of a setting."""
    return "--" + name.replace("_", "-")


def with_settings(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command one option per setting; it gets those that were named as `settings: dict`.

    Values arrive as text and are validated by `TrainConfig` alone, so that page, file and flag refuse alike.
    """
    own = [p for p in inspect.signature(function, eval_str=True).parameters.values() if p.name != "settings"]
    options = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_annotation(name)) for name in field_names()]

    def command(**values: Any) -> Any:
        settings = {name: values.pop(name) for name in field_names()}
        return function(**values, settings={k: v for k, v in settings.items() if v is not None})

    command.__doc__, command.__name__ = function.__doc__, function.__name__
    command.__signature__ = inspect.Signature([p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + options)
    return command


def _annotation(name: str) -> Any:
    meta = field_meta(name)
    choices = meta["choices"] or (REGISTRIES[meta["options"]].names() if meta["options"] else None)
    extra = f" One of {', '.join(map(str, choices))}." if choices else _bounds(meta)
    text = f"{meta['help']}{extra} (default {meta['default'] if meta['default'] != '' else 'empty'})"
    if meta["annotation"] is bool:
        return Annotated[bool | None, typer.Option(f"{flag(name)}/--no-{flag(name)[2:]}", help=text, rich_help_panel=meta["group"], show_default=False)]
    kind = getattr(meta["annotation"], "__name__", "text")
    metavar = {"int": "INTEGER", "float": "NUMBER"}.get(kind, "TEXT")
    return Annotated[str | None, typer.Option(flag(name), help=text, rich_help_panel=meta["group"], metavar=metavar, show_default=False)]


def _bounds(meta: Mapping[str, Any]) -> str:
    low, high = meta["minimum"], meta["maximum"]
    if low is None and high is None:
        return ""
    return f" From {low} to {high}." if high is not None and low is not None else f" At least {low}." if low is not None else f" At most {high}."
