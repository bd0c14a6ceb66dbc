"""Options that several commands share."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from fl.config.settings import SettingsError

Changes = Annotated[
    list[str],
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a run-config key; may be repeated. `settings` explains them."
    ),
]


def folder(text: str | Path) -> Path:
    """The folder that a word of the command line names; Python's `Path` takes no name at all for the current one."""
    if not str(text).strip():
        raise typer.BadParameter("is empty; name a folder, or '.' for the current one")
    return Path(text)


Folder = partial(typer.Option, parser=folder)
FolderArgument = partial(typer.Argument, parser=folder)


def changes_of(pairs: list[str]) -> dict[str, str]:
    """KEY=VALUE pairs of the command line as a mapping.

    Raises:
        SettingsError: one of them has no '='.
    """
    changes = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise SettingsError(f"--set {pair}: write KEY=VALUE, e.g. --set rounds=50")
        changes[key.strip()] = value.strip()
    return changes
