"""The run configuration: plain data, checked before anything starts."""

from fl.config.settings import (
    NOT_COMPUTED,
    Settings,
    SettingsError,
    Value,
    flatten,
    nest,
    refuse_flag,
    sentence,
    unknown,
)

__all__ = [
    "NOT_COMPUTED",
    "Settings",
    "SettingsError",
    "Value",
    "flatten",
    "nest",
    "refuse_flag",
    "sentence",
    "unknown",
]
