"""Options that several commands share."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from fl.config import SettingsError

Changes = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a run-config key, e.g. --set drift.fraction=0.3; may be repeated. `settings` explains all keys.",
    ),
]


def folder(text: str | Path) -> Path:
    """Return the folder that an argument names. An empty name is an error, because `Path('')` is the current folder."""
    if not str(text).strip():
        raise typer.BadParameter("is empty; name a folder, or '.' for the current one")
    return Path(text)


Folder = partial(typer.Option, parser=folder)
FolderArgument = partial(typer.Argument, parser=folder)


def changes_of(pairs: list[str]) -> dict[str, str]:
    """Return KEY=VALUE pairs of the command line as a mapping.

    Raises:
        SettingsError: one of them has no '='.
    """
    changes = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise SettingsError(f"--set {pair}: write KEY=VALUE, e.g. --set client.lr=0.05")
        changes[key.strip()] = value.strip()
    return changes
