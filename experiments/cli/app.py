"""A Flower app of the user's own as an experiment: its pyproject.toml holds one setting."""

import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fl.config import Settings, SettingsError, flatten


def refuse_parts(scale: str, settings: str) -> None:
    """Raise SettingsError for options that select parts of an experiment of the catalog."""
    if scale or settings:
        raise SettingsError("--scale and --settings select parts of an experiment of `list`; an app has neither")


def is_app(name: str) -> bool:
    """Return whether an argument of `run` names a folder: '.', '..' or a path with a slash."""
    return name in (".", "..") or "/" in name


def app_settings(folder: Path, changes: Mapping[str, str]) -> Settings:
    """Read the settings in the pyproject.toml of an app, and make its package importable.

    Args:
        changes: run-config keys from the command line; they override those of the app.

    Raises:
        SettingsError: the folder holds no Flower app, or a value is impossible.
    """
    from fl.workloads.resolve import from_flower

    path = folder / "pyproject.toml"
    try:
        project: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        name, config = str(project["project"]["name"]), project["tool"]["flwr"]["app"].get("config", {})
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"{path} cannot be read ({error}): name the folder of an app; `python -m experiments new my-app` makes one"
        ) from None
    except KeyError as error:
        raise SettingsError(f"{path} does not describe a Flower app, it lacks the table or key {error}") from None
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))  # worker processes and Ray actors import from the same folders
    return from_flower({"experiment": name, **flatten(config), **changes})
