"""Presets: named sets of values with their expected time and memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backend.config import TrainConfig, field_names, load_preset, make_config, unfit_model
from backend.config.load import environment_values
from backend.training.cost import estimate
from components.context import ROOT, PageContext
from components.markup import note, number, text

FOLDER = ROOT / "assets" / "presets"
ORDER = ("quick_look", "laptop", "overnight_cpu", "one_gpu_sd15", "many_gpus")


def preset_choices() -> list[tuple[str, str]]:
    """Titles and names, the known ones first."""
    names = sorted((p.stem for p in FOLDER.glob("*.json")), key=lambda n: (ORDER.index(n) if n in ORDER else len(ORDER), n))
    return [(load_preset(name, FOLDER)["title"], name) for name in names]


def preset_sentence(name: str, applied: bool = True) -> str:
    """What a preset is for, how long it takes, how much memory, and whether its model is lacking, as HTML.

    Args:
        name: of the preset.
        applied: False while the form does not hold its values yet.
    """
    preset = load_preset(name, FOLDER)
    config = make_config({**preset["values"], **environment_values()})
    minutes, memory = _cost(preset, config)
    time = f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.0f} h"
    derived = ", derived and not measured" if preset.get("large_model") else ""
    waiting = "" if applied else " <em>Not applied yet.</em>"
    sentence = f'<div class="caption">{text(preset["description"])} <b>About {time}, {number(memory, 2)} GiB{derived}.</b>{waiting}</div>'
    return sentence + note(unfit_model(preset, config), "warn")


def _cost(preset: Mapping[str, Any], config: TrainConfig) -> tuple[float, float]:
    """Minutes and GiB: what a preset for a large model says for its own machine, else the cost model's for this one."""
    if preset.get("large_model"):
        return preset["minutes"], preset["memory_gib"]
    expected = estimate(config)
    return expected.seconds_total / 60, expected.memory_gib


def preset_values(name: str, context: PageContext) -> dict[str, Any]:
    """The whole form after Apply: the schema's defaults, the preset's values, and above both what the server's environment says."""
    preset = {k: v for k, v in load_preset(name, FOLDER)["values"].items() if k in field_names()}
    return {**context.default_values(), **preset, **context.environment()}
