"""How one hyperparameter is declared."""

from __future__ import annotations

from typing import Any

from pydantic import Field

GROUPS = ["Run", "Sampling", "PPO", "Exploration", "Policy", "Reward", "Reward weights", "Curriculum", "Evaluation", "Checkpoints", "Hardware"]


def setting(default: Any, group: str, label: str, help: str, *, live: bool = False, options: str = "", trusted: bool = False, **bounds: Any) -> Any:
    """One hyperparameter.

    Args:
        default: its default.
        group: one of `GROUPS`; the page makes an accordion of each.
        label: the widget's label.
        help: one plain sentence: widget help, `--help` text and glossary entry.
        live: it may be changed while a run is training.
        options: kind of registry whose names are allowed (`mode`, `metric`, `extractor`).
        trusted: names a file, folder or hub id; an uploaded config may name only those that the server offers.
        bounds: `ge`, `le`, `gt`, `lt` as pydantic has them.
    """
    extra = {"group": group, "label": label, "live": live, "options": options, "trusted": trusted}
    return Field(default, description=help, json_schema_extra=extra, **bounds)
