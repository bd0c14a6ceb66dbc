"""Errors that a user can correct; each message is one sentence."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import TypeVar

T = TypeVar("T")


class UserError(Exception):
    """Something that a user can correct. The command line shows the message alone, without a traceback."""


class DataError(UserError):
    """A data set is missing, unreadable or cannot be written. The message says what to do."""


class UnknownName(UserError, ValueError):
    """A registry has no entry of this name."""


def one_line(error: BaseException) -> str:
    """Return the first line of what an error of other code says."""
    return next(iter(str(error).strip().splitlines()), "")


PACKAGES = (
    "datasets", "flwr_datasets", "pyarrow", "river", "statsmodels", "tensorboard", "mlflow", "wandb", "trackio",
    "optuna",
)  # fmt: skip
OPTIONAL = {name: name.replace("_", "-") for name in PACKAGES}
"""Packages of optional extras: what to install, by what is imported."""


def missing_package(error: BaseException) -> str:
    """Say how to install the package that an import lacked; empty if that package is not optional."""
    package = (getattr(error, "name", None) or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or package not in OPTIONAL:
        return ""
    return f"needs the package {package}: pip install {OPTIONAL[package]}"


LONGEST_LIST = 60  # with more known names than this, the message lists similar names only


def lookup(kind: str, name: str, registry: Mapping[str, T]) -> T:
    """Return ``registry[name]``.

    Args:
        kind: what the entries are, for the error message: ``experiment``.

    Raises:
        UnknownName: there is no such entry; the message lists known names and suggests the most similar one.
    """
    if name in registry:
        return registry[name]
    near = get_close_matches(name, registry, n=1)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    known = sorted(registry)
    if len(known) > LONGEST_LIST:
        similar = sorted(get_close_matches(name, registry, n=6, cutoff=0.4))
        known = [*similar, f"and {len(known) - len(similar)} more"]
    raise UnknownName(f"unknown {kind} '{name}'; known: {', '.join(known)}{hint}")
