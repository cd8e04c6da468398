"""From files, environment, flags and forms to a `TrainConfig`; every refusal is an `InputError` with its field."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from backend.config.schema import SCHEMA_VERSION, TrainConfig
from backend.errors import InputError

ENV_PREFIX = "CRATER_"
PRESETS = "assets/presets"
RENAMED = {"clip_range": "clip_range_nats", "num_episodes": "episodes", "training_mode": "mode", "reward_metric": "metric"}

BEFORE_4 = {"metric": "MMD", "vendi_weight": 0.1, "learning_rate": 1e-3, "lr_scheduler": "constant", "adam_eps": 1e-8, "company": 0}
# By schema: what its files left to defaults that were others then. A file that names no schema is a person's and takes today's.
EARLIER_DEFAULTS: dict[int, dict[str, Any]] = {
    1: {"baseline": "prompt", "perturbation_scale": 0.1, "pathwise": 0.0, "window_start": 0, **BEFORE_4},
    2: {"baseline": "twin", "pathwise": 0.0, "window_start": 0, **BEFORE_4},
    3: {"pathwise": 0.95, **BEFORE_4},
    4: {"vendi_weight": 0.02, "company": 0},
}

GONE = {"noise_frequencies": 0}  # settings that are no more, and the value at which they did nothing


def field_meta(name: str) -> dict[str, Any]:
    """Label, help, group, flags, bounds and default of one field, for widgets and `--help`.

    Returns:
        Keys: `name`, `label`, `help`, `group`, `live`, `options`, `trusted`, `default`, `annotation`, `minimum`,
        `maximum` (None where unbounded), `choices` (tuple for a Literal, else None).
    """
    info = TrainConfig.model_fields[name]
    extra = info.json_schema_extra or {}
    bounds: dict[str, Any] = {"minimum": None, "maximum": None}
    for rule in info.metadata:
        for key, slot in (("ge", "minimum"), ("gt", "minimum"), ("le", "maximum"), ("lt", "maximum")):
            if getattr(rule, key, None) is not None:
                bounds[slot] = getattr(rule, key)
    choices = getattr(info.annotation, "__args__", None) if "Literal" in str(info.annotation) else None
    return {"name": name, "help": info.description, "default": info.default, "annotation": info.annotation, "choices": choices, **extra, **bounds}


def field_names(group: str | None = None) -> list[str]:
    """Settings in the order of the schema, all or of one group."""
    names = [n for n in TrainConfig.model_fields if n != "schema_version"]
    return [n for n in names if group is None or field_meta(n)["group"] == group]


def make_config(values: Mapping[str, Any]) -> TrainConfig:
    """Validate values.

    Raises:
        InputError: the first refusal, as one line with value, bound and remedy; `field` is set where one is at fault.
    """
    try:
        return TrainConfig.model_validate(dict(values))
    except ValidationError as error:
        raise _refusal(error.errors()[0]) from error


def config_refusals(values: Mapping[str, Any]) -> list[InputError]:
    """Everything that `make_config` refuses; what contradicts each other is found once each value is sound."""
    try:
        TrainConfig.model_validate(dict(values))
    except ValidationError as error:
        return [_refusal(one) for one in error.errors()]
    return []


def _refusal(found: Mapping[str, Any]) -> InputError:
    """One of pydantic's errors in a line with value, bound and remedy."""
    cause = found.get("ctx", {}).get("error")
    if isinstance(cause, InputError):
        return cause
    field = str(found["loc"][0]) if found["loc"] else None
    if field is None:
        return InputError(str(cause or found["msg"]))
    if field not in TrainConfig.model_fields:
        return InputError(f"unknown setting {field!r}: `python -m backend config` lists them all", field=field)
    meta = field_meta(field)
    low, high, choices = meta["minimum"], meta["maximum"], meta["choices"]
    remedy = f"choose one of {', '.join(map(str, choices))}" if choices else f"give a value from {low} to {high}" if low is not None and high is not None else "correct it"
    return InputError(f"{field} = {found['input']!r}: {found['msg'].removeprefix('Value error, ')}; {remedy} (default {meta['default']!r})", field=field)


def read_config_file(path: str | Path, *, trusted: bool = True, offered: Mapping[str, Collection[str]] | None = None) -> dict[str, Any]:
    """Values of a JSON or YAML config file, old names and schema versions brought up to date.

    Args:
        path: the file.
        trusted: False for an upload, which may name no file, folder, hub id or plug-in.
        offered: the files, folders and hub ids by setting that an upload may name all the same.

    Raises:
        InputError: unreadable, not a mapping, from a newer version, or an upload that names something trusted.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except OSError as error:
        raise InputError(f"config file {path} cannot be read ({error.strerror}): check the path") from error
    except RecursionError as error:
        raise InputError(f"config file {path.name} is nested too deeply: give each setting one value by its name") from error
    except (ValueError, yaml.YAMLError) as error:
        raise InputError(f"config file {path.name} is neither JSON nor YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(values, dict):
        raise InputError(f"config file {path.name} holds a {type(values).__name__}, not settings by name")
    return upgrade(values, trusted=trusted, offered=offered)


def upgrade(values: Mapping[str, Any], *, trusted: bool = True, offered: Mapping[str, Collection[str]] | None = None) -> dict[str, Any]:
    """Bring settings of an older schema up to date and drop what only a run's record holds.

    Raises:
        InputError: a newer schema, or (not trusted) a plug-in, or a path or hub id that is neither the default nor `offered`.
    """
    version = values.get("schema_version", 0)
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise InputError(f"schema_version {version!r} is newer than {SCHEMA_VERSION}: update CraterLab")
    current = EARLIER_DEFAULTS.get(version, {}) | {RENAMED.get(k, k): v for k, v in values.items() if k not in {"schema_version", "record"}}
    current = {k: v for k, v in current.items() if k not in GONE or v != GONE[k]}
    if not trusted:
        if {"plugin", "plugins"} & set(current):
            raise InputError("an uploaded config may not name a plug-in: start with --plugin instead")
        for name in current:
            if name in TrainConfig.model_fields and field_meta(name)["trusted"] and current[name] not in (field_meta(name)["default"], *(offered or {}).get(name, ())):
                raise InputError(f"an uploaded config may not set {name} = {current[name]!r}: name it on the command line at start", field=name)
    return current


def environment_values(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Settings named in the environment: `CRATER_LEARNING_RATE=1e-4` and the like."""
    environ = os.environ if environ is None else environ
    return {n: environ[ENV_PREFIX + n.upper()] for n in field_names() if ENV_PREFIX + n.upper() in environ}


def is_public_demo(environ: Mapping[str, str] | None = None) -> bool:
    """Whether strangers use this server: `CRATER_PUBLIC_DEMO=1`, or a Space that does not say otherwise."""
    environ = os.environ if environ is None else environ
    return environ.get("CRATER_PUBLIC_DEMO", "1" if environ.get("SPACE_ID") else "") == "1"


def resolve(flags: Mapping[str, Any] | None = None, file: str | Path | None = None, environ: Mapping[str, str] | None = None) -> TrainConfig:
    """Defaults < file < environment < flags.

    Raises:
        InputError: see `make_config` and `read_config_file`.
    """
    values: dict[str, Any] = read_config_file(file) if file else {}
    values.update(environment_values(environ))
    values.update({k: v for k, v in (flags or {}).items() if v is not None})
    return make_config(values)


def command_line(config: TrainConfig, environ: Mapping[str, str] | None = None) -> str:
    """The command that trains with these settings: named is what differs from the defaults, and what the environment, which a flag overrules, names too."""
    parts, named = ["python -m backend train"], {"mode", "metric", "episodes", *environment_values(environ)}
    for name in field_names():
        value, meta = getattr(config, name), field_meta(name)
        if value == meta["default"] and name not in named:
            continue
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            parts.append(flag if value else "--no-" + flag[2:])
        else:
            parts.append(f"{flag} {shlex.quote(str(value))}")
    return " ".join(parts)


def preset_names(folder: str | Path = PRESETS) -> list[str]:
    """Names of the presets in a folder."""
    return sorted(path.stem for path in Path(folder).glob("*.json"))


def load_preset(name: str, folder: str | Path = PRESETS) -> dict[str, Any]:
    """One preset: `{name, title, description, values}`; one that is meant for a large model has `large_model`, `minutes` and `memory_gib` too.

    Raises:
        InputError: no such preset.
    """
    path = Path(folder) / f"{Path(name).name}.json"
    if not path.is_file():
        raise InputError(f"unknown preset {name!r}: choose one of {', '.join(preset_names(folder))}")
    return json.loads(path.read_text(encoding="utf-8"))


def unfit_model(preset: Mapping[str, Any], config: TrainConfig) -> str:
    """Why settings that were made from a preset for a large model should not train the embedded one; empty where the two fit."""
    if not preset.get("large_model") or config.base_model != field_meta("base_model")["default"]:
        return ""
    return f"preset {preset['name']} is meant for a model of Stable Diffusion's size: name one with --base-model or CRATER_BASE_MODEL"
