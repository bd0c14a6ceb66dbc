"""The command line: list, run, plot, report, data."""

import signal
import sys
from pathlib import Path
from typing import Annotated

import click
import typer
from rich.console import Console
from rich.table import Table

from experiments.catalog import EXPERIMENTS, SCALES
from experiments.hermetic import FlowerRunFailed
from experiments.launch import default_workers, launch
from experiments.plots import PLOTS
from experiments.report import show, write_table
from experiments.summary import write_summary
from fl.config import Settings, SettingsError
from fl.results import ResultsError, read_rounds
from partitions import DATASETS, DataError, UnknownName, fetch, import_, lookup, where

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="""Federated learning on devices whose data drift: named experiments, their tables and figures.

    Start with: [bold]python -m experiments run quickstart[/bold]""",
)
data_app = typer.Typer(no_args_is_help=True, help="Where the data sets are, and how to get them.")
app.add_typer(data_app, name="data")
console = Console()
INTERRUPTED = 130


@app.command("list")
def list_() -> None:
    """Name the experiments."""
    table = Table("experiment", "settings", "what it shows", box=None)
    for experiment in EXPERIMENTS.values():
        table.add_row(experiment.name, ", ".join(experiment.settings), experiment.summary)
    console.print(table)
    console.print("\nRun one with: python -m experiments run NAME --scale " + "|".join(SCALES), style="dim")


@app.command()
def run(
    name: Annotated[str, typer.Argument(help="An experiment of `list`.")],
    scale: Annotated[str, typer.Option(help="smoke: seconds; cpu: two cores; paper: a GPU and patience.")] = "cpu",
    seeds: Annotated[str, typer.Option(help="Seeds, e.g. 1,2,3; by default the experiment's own.")] = "",
    engine: Annotated[
        str, typer.Option(help="local: in process; flower: a real `flwr run` simulation on Ray.")
    ] = "local",
    workers: Annotated[int, typer.Option(help="Processes that stand in for devices; 0: one per core.")] = 0,
    set_: Annotated[
        list[str],
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change a run-config key; may be repeated. `settings` explains them."
        ),
    ] = [],  # noqa: B006
    out: Annotated[
        Path | None, typer.Option(help="Results folder; by default runs/NAME-SCALE below the current folder.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start the folder anew instead of completing it.")
    ] = False,
) -> None:
    """Run an experiment: CSVs, a figure and a table. Run again, it goes on where it stopped."""
    experiment = lookup("experiment", name, EXPERIMENTS)
    lookup("scale", scale, dict.fromkeys(SCALES))
    lookup("engine", engine, dict.fromkeys(("local", "flower")))
    changes = {}
    for pair in set_:
        key, equals, value = pair.partition("=")
        if not equals:
            raise SettingsError(f"--set {pair}: write KEY=VALUE, e.g. --set rounds=50")
        changes[key.strip()] = value.strip()
    chosen = list(experiment.seeds)
    if seeds:
        chosen = Settings.parse({"seeds": seeds}).seed_list
    settings = experiment.resolve(scale, chosen, changes)
    folder = (out or Path("runs") / f"{name}-{scale}").expanduser().absolute()
    launch(settings, engine, workers or default_workers(), folder, overwrite, console)  # type: ignore[arg-type]
    _finish(folder)


@app.command()
def plot(folder: Annotated[Path, typer.Argument(help="A results folder.")]) -> None:
    """Draw the figure and the table again, from the CSVs alone."""
    _finish(folder.expanduser().absolute())


@app.command()
def settings() -> None:
    """Explain every key of the run-config, with its default."""
    table = Table("key", "default", "meaning", box=None)
    for field, info in Settings.model_fields.items():
        table.add_row(field.replace("_", "-"), str(info.default), info.description or "")
    console.print(table)


@data_app.command("where")
def data_where(root: Annotated[str, typer.Option(help="Look here first.")] = "") -> None:
    """Show which data sets are there, and where."""
    table = Table("data set", "MB", "folder", box=None)
    for name, path, size in where(None, root or None):
        table.add_row(
            name, f"{size / 1e6:.1f}" if path else "-", str(path) if path else "missing", style=None if path else "dim"
        )
    console.print(table)


@data_app.command("fetch")
def data_fetch(
    name: Annotated[str, typer.Argument(help=", ".join(DATASETS))],
    root: Annotated[str, typer.Option(help="Put it here; by default the cache folder.")] = "",
) -> None:
    """Download a data set, unless it is there."""
    console.print(f"{name}: {fetch(name, root or None)}")


@data_app.command("import")
def data_import(
    name: Annotated[str, typer.Argument(help=", ".join(DATASETS))],
    files: Annotated[list[Path], typer.Argument(help="Archives or folders that hold it.")],
    root: Annotated[str, typer.Option(help="Put it here; by default the cache folder.")] = "",
) -> None:
    """Take a data set from local archives or folders."""
    console.print(f"{name}: {import_(name, files, root or None)}")


def _finish(folder: Path) -> None:
    """Summary, table and figure of a results folder."""
    rounds = read_rounds(folder)
    experiment = EXPERIMENTS.get(str(rounds["experiment"].iloc[0])) if len(rounds) else None
    summary = write_summary(folder, experiment.paper if experiment else None)
    PLOTS[experiment.plot if experiment else "overview"](rounds, folder)
    write_table(folder)
    show(summary, console)
    files = ("rounds.csv", "summary.csv", "table.md", "figure.png")
    console.print("\n".join(str(folder / name) for name in files), style="dim", highlight=False, soft_wrap=True)


def main() -> None:
    """Run the command line; what a user can mend is one sentence and exit status 1, Ctrl-C is 130."""
    errors = Console(stderr=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` stops as orderly as Ctrl-C does
    try:
        code = app(standalone_mode=False)
    except click.ClickException as error:  # wrong options: click's own words
        error.show()
        sys.exit(error.exit_code)
    except (SettingsError, DataError, ResultsError, UnknownName, FlowerRunFailed) as error:
        errors.print("error:", style="red", end=" ")
        errors.print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
    if code == INTERRUPTED:  # typer's way to say that a KeyboardInterrupt came through
        errors.print("interrupted; the same command goes on from the last complete run", style="yellow")
    sys.exit(code)
