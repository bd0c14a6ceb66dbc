"""Commands about data sets: where they are, and how to get them."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from partitions import DATASETS, fetch, import_, load, source_of, where
from partitions.datasets.source import GeneratedSource
from partitions.errors import DataError

data_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="""Show where the data sets are, and get them.

    Example: [bold]python -m experiments data fetch fashion-mnist[/bold]""",
)
console = Console()
Name = Annotated[str, typer.Argument(help=", ".join(DATASETS))]
Target = Annotated[str, typer.Option(help="Folder of the data sets; by default the cache folder.")]


@data_app.command("where")
def data_where(root: Annotated[str, typer.Option(help="Search this folder first.")] = "") -> None:
    """Show which data sets are on this machine, and where.

    Example: [bold]python -m experiments data where --root /data[/bold]
    """
    table = Table("data set", "MB", "folder", box=None)
    for name, path, size in where(None, root or None):
        absent = "generated" if isinstance(source_of(name), GeneratedSource) else "missing"
        table.add_row(
            name, f"{size / 1e6:.1f}" if path else "-", str(path) if path else absent, style=None if path else "dim"
        )
    console.print(table)


@data_app.command("fetch")
def data_fetch(name: Name, root: Target = "") -> None:
    """Download a data set, unless it is already on this machine.

    Example: [bold]python -m experiments data fetch cifar10[/bold]
    """
    console.print(f"{name}: {fetch(name, root or None)}")


@data_app.command("vocabulary")
def data_vocabulary(
    folder: Annotated[Path, typer.Argument(help="The server's folder of data, with server.jsonl, .csv or .parquet.")],
    most: Annotated[int, typer.Option(help="Most word pieces, as vq.vocabulary.", min=8)] = 8192,
) -> None:
    """Make FOLDER/vocabulary.txt from the server's public text. Copy it to all devices, whose text stays there.

    Example: [bold]python -m experiments data vocabulary /home/me/proxy[/bold]
    """
    from partitions.tokens import VOCABULARY, save_vocabulary, train

    data = load("folder", str(folder))
    if not data.text or data.domains not in ((), ("server",)):
        raise DataError(f"{folder} must hold the server's text alone, in server.jsonl, server.csv or server.parquet")
    save_vocabulary(train([*data.x_train.ravel().tolist(), *data.x_test.ravel().tolist()], most), folder / VOCABULARY)
    console.print(f"{folder / VOCABULARY}: copy it to the folder of every device", soft_wrap=True)


@data_app.command("import")
def data_import(
    name: Name,
    files: Annotated[list[Path], typer.Argument(help="Archives or folders that hold the data set.")],
    root: Target = "",
) -> None:
    """Import a data set from local archives or folders.

    Example: [bold]python -m experiments data import cifar10 ~/downloads/cifar-10-python.tar.gz[/bold]
    """
    console.print(f"{name}: {import_(name, files, root or None)}")
