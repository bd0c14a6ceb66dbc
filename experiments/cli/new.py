"""Command `new`: write a small Flower app with a method and a data set of the user's own."""

import keyword
import re
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Annotated

from rich.console import Console

from experiments.cli.options import FolderArgument
from fl.config import SettingsError
from fl.results.files import as_results_error
from partitions.root import absolute

FILES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "gitignore": ".gitignore",
    "package.py": "$package/__init__.py",
    "method.py": "$package/method.py",
    "data.py": "$package/data.py",
    "test_method.py": "tests/test_method.py",
}
"""Path in the app of each file in the folder ``template``, where its name ends with '.template'."""

console = Console()


def new(
    folder: Annotated[Path, FolderArgument(help="New folder of the app; its last part is the app's name.")],
) -> None:
    """Write an app of your own into a new folder: a method, a data set, a test, and a README with the next commands.

    Example: [bold]python -m experiments new my-app[/bold]
    """
    folder = absolute(folder)
    write_app(folder)
    console.print(f"{folder}: read README.md, then try", highlight=False, soft_wrap=True)
    console.print(f"cd {folder} && python -m experiments run .", style="bold", highlight=False, soft_wrap=True)


def write_app(folder: Path) -> None:
    """Write the app into ``folder``, whose name is that of the app; its Python package has '_' instead of '-'.

    Raises:
        SettingsError: the folder exists, or its name cannot be that of a package.
        ResultsError: the folder cannot be written.
    """
    name = folder.name
    package = name.replace("-", "_")
    if folder.exists():
        raise SettingsError(f"{folder} already exists: choose another name, or remove it first")
    if not re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", name) or keyword.iskeyword(package):
        raise SettingsError(
            f"'{name}' cannot name an app: use small letters, digits and '-', and begin with a letter, e.g. my-app"
        )
    if find_spec(package) is not None:
        raise SettingsError(f"Python already has a package '{package}', which the app would hide: choose another name")
    values = {"name": name, "package": package}
    with as_results_error(f"write to '{folder}'"):
        for source, target in FILES.items():
            text = files("experiments.cli").joinpath("template", f"{source}.template").read_text(encoding="utf-8")
            path = folder / Template(target).substitute(values)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(Template(text).substitute(values), encoding="utf-8")
