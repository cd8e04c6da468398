"""Which settings may change while a run is training, and the words that both sides know. Imports no torch."""

from __future__ import annotations

from typing import Any

from backend.config import TrainConfig, field_meta, field_names, make_config
from backend.errors import InputError

LENT = "the device is lent to Generate or Evaluate"


def live_fields() -> list[str]:
    """Names of the settings that may change while training."""
    return [name for name in field_names() if field_meta(name)["live"]]


def validate_change(config: TrainConfig, field: Any, value: Any) -> TrainConfig:
    """The settings with one live field changed.

    Raises:
        InputError: no such field, one that cannot change while a run is training, or a value out of bounds.
    """
    if not isinstance(field, str) or field not in live_fields():
        raise InputError(f"{str(field)[:60]!r} cannot be changed while training: choose one of {', '.join(live_fields())}", field=str(field))
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise InputError(f"{field} = {str(value)[:60]!r}: give a number", field=field)
    return make_config({**config.model_dump(), field: value})
