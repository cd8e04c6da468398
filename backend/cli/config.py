"""`python -m backend config`: what can be set, what a file sets, and where two differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from backend.cli.settings import REGISTRIES, PresetName, RunsDir, flag, with_settings
from backend.config import GROUPS, TrainConfig, command_line, field_meta, field_names, make_config, read_config_file
from backend.runs import RunStore

app = typer.Typer(help="List, show, check and compare settings.", invoke_without_command=True)


@app.callback()
def listing(context: typer.Context) -> None:
    """Without a command: all settings with their defaults and help."""
    if context.invoked_subcommand is None:
        print(describe())


def describe() -> str:
    """All settings by group, each with flag, default, bounds or choices, and its sentence."""
    lines = []
    for group in GROUPS:
        lines.append(f"\n{group}")
        for name in field_names(group):
            meta = field_meta(name)
            choices = meta["choices"] or (REGISTRIES[meta["options"]].names() if meta["options"] else None)
            bounds = f"{{{', '.join(map(str, choices))}}}" if choices else f"[{meta['minimum']}, {meta['maximum']}]" if meta["minimum"] is not None else ""
            lines.append(f"  {flag(name)} (default {meta['default']!r}) {bounds}{' live' if meta['live'] else ''}\n      {meta['help']}")
    return "\n".join(lines).strip()


@app.command()
@with_settings
def show(config: Annotated[Path | None, typer.Option(help="JSON or YAML file of settings.")] = None, preset: PresetName = None, settings: dict[str, Any] | None = None) -> None:
    """The settings that a preset, a file, the environment and flags add up to, as JSON, with the equivalent command."""
    from backend.cli.train import settle_settings

    resolved = settle_settings(settings or {}, config, preset)
    print(json.dumps(resolved.model_dump(), indent=1))
    print(command_line(resolved))


@app.command()
def validate(
    file: Annotated[Path, typer.Argument(help="JSON or YAML file of settings.")], files: Annotated[bool, typer.Option(help="Look at the files it names too.")] = True
) -> None:
    """Check a file of settings; nothing is written."""
    resolved = make_config(read_config_file(file))
    if files:
        from backend.training.session import check_inputs

        check_inputs(resolved)
    print(f"{file}: {len(differences(TrainConfig(), resolved))} settings differ from the defaults, all are valid")


@app.command()
def diff(
    first: Annotated[str, typer.Argument(help="Run id, file, or `default`.")],
    second: Annotated[str, typer.Argument(help="Run id, file, or `default`.")],
    runs_dir: RunsDir = None,
) -> None:
    """Where two sets of settings differ."""
    one, two = (_settings_of(name, runs_dir) for name in (first, second))
    rows = differences(one, two)
    print("\n".join(f"{name}: {a!r} -> {b!r}" for name, a, b in rows) or "no difference")


def _settings_of(name: str, runs_dir: Path | None) -> TrainConfig:
    if name == "default":
        return TrainConfig()
    return make_config(read_config_file(name)) if Path(name).suffix in (".json", ".yaml", ".yml") else RunStore(runs_dir).get(name).config


def differences(one: TrainConfig, two: TrainConfig) -> list[tuple[str, Any, Any]]:
    """Settings whose values differ, as (name, first, second)."""
    return [(name, getattr(one, name), getattr(two, name)) for name in field_names() if getattr(one, name) != getattr(two, name)]
