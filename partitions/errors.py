"""What can be wrong with a name or with data, said in one sentence."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import TypeVar

T = TypeVar("T")


class DataError(Exception):
    """A data set is missing, unreadable or cannot be written. The message says what to do."""


class UnknownName(ValueError):
    """A name that a registry does not hold."""


FEW = 40  # names that are all listed


def lookup(kind: str, name: str, registry: Mapping[str, T]) -> T:
    """``registry[name]``, or an ``UnknownName`` that lists the known names, or the nearest of many, and the nearest."""
    if name in registry:
        return registry[name]
    near = get_close_matches(name, registry, n=1)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    known = sorted(registry)
    if len(known) > FEW:
        some = sorted(get_close_matches(name, registry, n=6, cutoff=0.4))
        known = [*some, f"and {len(known) - len(some)} more"]
    raise UnknownName(f"unknown {kind} '{name}'; known: {', '.join(known)}{hint}")
