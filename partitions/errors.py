"""What can be wrong with a name or with data, said in one sentence."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import TypeVar

T = TypeVar("T")


class DataError(Exception):
    """A data set is missing, unreadable or cannot be written. The message says what to do."""


class UnknownName(ValueError):
    """A name that a registry does not hold."""


def lookup(kind: str, name: str, registry: Mapping[str, T]) -> T:
    """``registry[name]``, or an ``UnknownName`` that lists the known names and the nearest one."""
    if name in registry:
        return registry[name]
    near = get_close_matches(name, registry, n=1)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    raise UnknownName(f"unknown {kind} '{name}'; known: {', '.join(sorted(registry))}{hint}")
