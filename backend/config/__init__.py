"""Settings: the schema, the tables of pluggable things, and how both are read."""

from backend.config.catalogue import EXTRACTORS, METRICS, POLICIES, load_plugins
from backend.config.load import command_line, config_refusals, field_meta, field_names, load_preset, make_config, preset_names, read_config_file, resolve, unfit_model, upgrade
from backend.config.schema import SCHEMA_VERSION, TrainConfig
from backend.config.setting import GROUPS

__all__ = [
    "EXTRACTORS",
    "GROUPS",
    "METRICS",
    "POLICIES",
    "SCHEMA_VERSION",
    "TrainConfig",
    "command_line",
    "config_refusals",
    "field_meta",
    "field_names",
    "load_plugins",
    "load_preset",
    "make_config",
    "preset_names",
    "read_config_file",
    "resolve",
    "unfit_model",
    "upgrade",
]
