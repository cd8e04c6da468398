"""Presets: named sets of values with their expected time and memory."""

from __future__ import annotations

from typing import Any

from backend.config import field_names, load_preset
from components.context import ROOT, PageContext
from components.markup import number, text

FOLDER = ROOT / "assets" / "presets"
ORDER = ("quick_look", "laptop", "overnight_cpu", "one_gpu_sd15", "many_gpus")


def preset_choices() -> list[tuple[str, str]]:
    """Titles and names, the known ones first."""
    names = sorted((p.stem for p in FOLDER.glob("*.json")), key=lambda n: (ORDER.index(n) if n in ORDER else len(ORDER), n))
    return [(load_preset(name, FOLDER)["title"], name) for name in names]


def preset_sentence(name: str) -> str:
    """What a preset is for, how long it takes and how much memory, as HTML."""
    preset = load_preset(name, FOLDER)
    minutes = preset["minutes"]
    time = f"{number(minutes)} min" if minutes < 90 else f"{minutes / 60:.0f} h"
    return f'<div class="caption">{text(preset["description"])} <b>About {time}, {number(preset["memory_gib"])} GiB.</b></div>'


def preset_values(name: str, context: PageContext) -> dict[str, Any]:
    """The whole form after Apply: the schema's defaults, the preset's values, and above both what the server's environment says."""
    preset = {k: v for k, v in load_preset(name, FOLDER)["values"].items() if k in field_names()}
    return {**context.default_values(), **preset, **context.environment()}
