"""The command line: list, run, plot, merge, drift, settings, data, deploy, chat, spa, bench."""

import signal
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated

import click
import typer
from rich.console import Console
from rich.padding import Padding
from rich.status import Status
from rich.table import Table
from rich.text import Text

from experiments.bench import BENCHMARKS, EntrantFailed, about, find
from experiments.catalog import EXPERIMENTS, SCALES, VIEWS, Experiment, View
from experiments.cli.options import Changes, Folder, FolderArgument, changes_of
from experiments.cli.spa import chat, spa_app
from experiments.deploy.commands import app as deploy_app
from experiments.deploy.identity import DeployError
from experiments.hermetic import FlowerRunFailed
from experiments.launch import ENGINES, launch, launch_study, progress_bar
from experiments.merge import merge as join
from experiments.milestones import with_shifts
from experiments.plots import PLOTS
from experiments.plots.drift import drift as draw_drift
from experiments.plots.drift import shares
from experiments.plots.style import save
from experiments.report import markdown, show
from experiments.soak import Load
from experiments.soak import soak as endure
from experiments.studies import FILE, STUDIES, read_study, summarize_study
from experiments.summary import gaps, in_order, summarize, write_summary
from fl.client.privacy import epsilon
from fl.config.settings import Settings, SettingsError
from fl.engines.processes import cores
from fl.engines.worker_pool import EngineFailed
from fl.results.files import ResultsError, atomic_write, csv_text, read_config, read_rounds, told
from fl.server.run import Event, NobodyAnswered
from fl.workloads.world import world
from partitions import DATASETS, DataError, LocalData, UnknownName, fetch, import_, lookup, where
from partitions.datasets.source import MadeUp

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
app.add_typer(deploy_app, name="deploy")
app.add_typer(spa_app, name="spa")
app.command()(chat)
console = Console()
INTERRUPTED = 130
MENDABLE = (
    SettingsError, DataError, ResultsError, UnknownName, FlowerRunFailed, DeployError, EngineFailed, EntrantFailed,
    NobodyAnswered,
)  # fmt: skip
OTHER = Experiment("", "", "rounds of an experiment that is not in the catalog", {}, {})


@app.command("list")
def list_() -> None:
    """Name the experiments: what each repeats of the paper, and about how long each scale takes."""
    head = "{:<14} {:<18} {:<7} {:<7} {}".format
    _entry(head("experiment", "paper", *SCALES), "what it shows")
    for experiment in EXPERIMENTS.values():
        costs = [experiment.cost[scale] for scale in SCALES]
        _entry(head(experiment.name, experiment.reference or "-", *costs), experiment.summary)
        for view in VIEWS.values():
            if view.of == experiment.name:
                _entry(f"{view.name:<14} {view.reference}", f"{view.summary} (runs of {view.of})")
    console.print("\nRun one with: python -m experiments run NAME --scale " + "|".join(SCALES), style="dim")


@app.command()
def run(
    name: Annotated[str, typer.Argument(help="An experiment of `list`.")],
    scale: Annotated[
        str, typer.Option(help="smoke: does it run; cpu: two cores; paper: as in the paper, for a GPU.")
    ] = "cpu",
    seeds: Annotated[str, typer.Option(help="Seeds, e.g. 1,2,3; by default the experiment's own.")] = "",
    engine: Annotated[
        str,
        typer.Option(
            help="local: processes here; ray: our actors on Ray; flower: a real `flwr run` simulation; loopback: a "
            "SuperNode per device, deployed on this machine; by default the experiment's own, mostly local."
        ),
    ] = "",
    workers: Annotated[int, typer.Option(help="Processes that stand in for devices; 0: one per core.", min=0)] = 0,
    ray_address: Annotated[
        str, typer.Option(help="Of a Ray cluster, HOST:PORT or auto, for --engine ray; by default this machine alone.")
    ] = "",
    settings_: Annotated[
        str, typer.Option("--settings", help="Only settings whose name holds one of these words, e.g. cifar10,m=2.")
    ] = "",
    set_: Changes = [],  # noqa: B006
    out: Annotated[
        Path | None, Folder(help="Results folder; by default runs/NAME-SCALE below the current folder.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start the folder anew instead of completing it.")
    ] = False,
) -> None:
    """Run an experiment: CSVs, a figure and a table. Run again, it goes on where it stopped."""
    known: dict[str, Experiment | View] = {**EXPERIMENTS, **VIEWS}
    asked = lookup("experiment", name, known)
    experiment = EXPERIMENTS[asked.of] if isinstance(asked, View) else asked
    lookup("scale", scale, dict.fromkeys(SCALES))
    engine = engine or experiment.engine
    lookup("engine", engine, ENGINES)
    changes = changes_of(set_)
    for key in ("out", "overwrite"):
        if key in changes:
            raise SettingsError(f"--set {key}={changes[key]}: with `run` this is said by --{key}")
    if changes.get("placement") == "own":
        raise SettingsError(
            "--set placement=own: `run` stands in for devices; --engine loopback deploys them here, "
            "`flwr run` uses those that are deployed (docs/deploy.md)"
        )
    chosen = list(experiment.seeds)
    if seeds:
        chosen = Settings.parse({"seeds": seeds}).seed_list
    only = [text.strip() for text in settings_.split(",") if text.strip()]
    settings = experiment.resolve(scale, chosen, changes, only)
    folder = (out or Path("runs") / f"{experiment.name}-{scale}").expanduser().absolute()
    if experiment.study:
        launch_study(STUDIES[experiment.study], settings, folder, overwrite, console)
    else:
        launch(settings, engine, workers, ray_address, folder, overwrite, console)
    _finish(folder, asked.name)


@app.command()
def plot(folder: Annotated[Path, FolderArgument(help="A results folder.")]) -> None:
    """Draw the figures and the tables again, from the CSVs alone."""
    _finish(folder.expanduser().absolute())


@app.command()
def merge(
    folders: Annotated[list[Path], FolderArgument(help="Results folders of one experiment.")],
    out: Annotated[Path, Folder(help="Results folder that their runs are added to; it may be new.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="A run that was made anew takes the old one's place.")
    ] = False,
) -> None:
    """Put runs that were made apart into one folder: seeds, settings or methods of several machines."""
    folder = out.expanduser().absolute()
    join([one.expanduser().absolute() for one in folders], folder, replace)
    _finish(folder)


@app.command()
def drift(
    set_: Changes = [],  # noqa: B006
    devices: Annotated[int, typer.Option(help="Show the first so many devices.", min=1)] = 6,
    steps: Annotated[int, typer.Option(help="Show so many steps of the world.", min=1)] = 10,
    out: Annotated[Path, Folder(help="Folder for drift.csv and drift.png.")] = Path("runs") / "drift",
) -> None:
    """Draw how data drift on devices: a share for each class or subject, step by step. Nothing is trained."""
    chosen = Settings.parse({"devices": devices, "cohort": 1, **changes_of(set_)})
    here = world(chosen, chosen.seed_list[0])
    if isinstance(here, LocalData):
        raise SettingsError("placement = 'own' leaves data with the machines that hold them: nothing to draw here")
    rows = shares(here, min(devices, chosen.devices), steps)
    folder = out.expanduser().absolute()
    with told(f"write to '{folder}'"):
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(folder / "drift.csv", csv_text([rows.columns, *rows.itertuples(index=False, name=None)]))
        save(draw_drift(rows), folder, "drift")
    console.print(f"{folder / 'drift.csv'}\n{folder / 'drift.png'}", style="dim", highlight=False, soft_wrap=True)


@app.command()
def soak(
    devices: Annotated[int, typer.Option(help="Virtual devices.", min=2)] = 500,
    rounds: Annotated[int, typer.Option(help="Rounds of each method.", min=4)] = 300,
    faults: Annotated[float, typer.Option(help="Share of the answers that are spoiled.", min=0, max=1)] = 0.2,
    workers: Annotated[int, typer.Option(help="Processes that stand in for devices.", min=1)] = 1,
    out: Annotated[Path, Folder(help="Results folder; it is started anew.")] = Path("runs") / "soak",
) -> None:
    """Endure: many rounds while devices fail and lie and the cloud breaks down; nothing may pile up or get lost."""
    with progress_bar(console, "rounds") as progress:
        task = progress.add_task("starting", total=3 * rounds)

        def tell(event: Event, load: Load) -> None:
            progress.update(task, advance=1, description=f"{event.what}  {load.bytes / 1e6:.0f} MB, {load.files} files")

        got = endure(devices, rounds, faults, workers, out.expanduser().absolute(), tell)
    table = Table("method", "MB early", "MB late", "open files", box=None)
    for method, loads in got.loads.items():
        early, late = loads[len(loads) // 4], loads[-1]
        table.add_row(method, f"{early.bytes / 1e6:.0f}", f"{late.bytes / 1e6:.0f}", str(late.files))
    console.print(table)
    console.print(f"endured {got.faults.total()} faults and {got.breakdowns} breakdowns of the cloud", dict(got.faults))


@app.command()
def privacy(
    set_: Changes = [],  # noqa: B006
    delta: Annotated[float, typer.Option(help="The guarantee may fail with this probability.")] = 1e-5,
) -> None:
    """Tell what noise guarantees a device, e.g. --set update-clip=1 --set update-noise=2. See docs/faults.md."""
    chosen = Settings.parse(changes_of(set_))
    steps = -(-chosen.rounds // chosen.rounds_per_step)
    table = Table("a device", "updates", "importances", f"epsilon at delta = {delta:g}", box=None)
    often = round(chosen.rounds * chosen.cohort / chosen.devices)
    cases = {"sends one update": (1, 0), "on average": (often, steps), "in every round": (chosen.rounds, steps)}
    for who, (updates, importances) in cases.items():
        spent = epsilon([(chosen.update_noise, updates), (chosen.importance_noise, importances)], delta)
        table.add_row(who, str(updates), str(importances), f"{spent:.3g}" if spent < float("inf") else "no guarantee")
    console.print(table)


@app.command()
def settings() -> None:
    """Explain every key of the run-config, with its default."""
    for field, info in Settings.model_fields.items():
        _entry(f"{field.replace('_', '-')} = {info.default}", info.description or "")


@app.command()
def bench(
    names: Annotated[list[str] | None, typer.Argument(help="Benchmarks; without any, they are listed.")] = None,
    blocks: Annotated[int, typer.Option(help="How often the turn comes round to each contestant.", min=1)] = 5,
    rounds: Annotated[int, typer.Option(help="Rounds, or repetitions, in a turn.", min=1)] = 4,
    workers: Annotated[int, typer.Option(help="Processes of each contestant; 0: one per core.", min=0)] = 0,
    out: Annotated[Path, Folder(help="Folder for <name>.csv and <name>.md.")] = Path("results") / "bench",
) -> None:
    """Measure what things cost, beside what others take for the same work: turn by turn, on a machine that is idle."""
    from experiments.bench.table import Options

    for name in names or ():
        find(name)
    for name in () if names else BENCHMARKS:
        console.print(f"{name:<10}{about(name)}", highlight=False)
    for name in names or ():
        with console.status(name) as status, tempfile.TemporaryDirectory(prefix="driftfed-bench-") as scratch:
            said = partial(_say, status, name)
            table = find(name).bench(Options(blocks, rounds, workers or len(cores()), Path(scratch), said))
        table.write(out, name)
        console.print(table.markdown(), markup=False, highlight=False, soft_wrap=True)


def _say(status: Status, name: str, text: str) -> None:
    status.update(f"{name}: {text}")


def _entry(head: str, said: str) -> None:
    """A line, and below it what is said of it, as wide as the terminal."""
    console.print(head, style="bold", markup=False, highlight=False)
    console.print(Padding(Text(said), (0, 0, 0, 4), expand=False))


@data_app.command("where")
def data_where(root: Annotated[str, typer.Option(help="Look here first.")] = "") -> None:
    """Show which data sets are there, and where."""
    table = Table("data set", "MB", "folder", box=None)
    for name, path, size in where(None, root or None):
        lacks = "made up" if isinstance(DATASETS[name], MadeUp) else "missing"
        table.add_row(
            name, f"{size / 1e6:.1f}" if path else "-", str(path) if path else lacks, style=None if path else "dim"
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


def _finish(folder: Path, asked: str = "") -> None:
    """Summary, tables and figures of a results folder; the table of ``asked``, by default the experiment, is shown."""
    if (folder / FILE).exists():
        config = read_config(folder)
        studies = {name: experiment for name, experiment in EXPERIMENTS.items() if experiment.study}
        experiment = lookup("study", config.get("experiment", ""), studies)
        study = STUDIES[experiment.study]
        rows = read_study(folder, study)
        summary = summarize_study(rows, study, experiment.paper)
    else:
        rows = read_rounds(folder)
        experiment = EXPERIMENTS.get(str(rows["experiment"].iloc[0]) if len(rows) else "", OTHER)
        if (folder / "config.toml").exists():
            config = read_config(folder)
            rows = in_order(rows, experiment.order(rows["setting"].unique()), config.get("methods", []))
            rows = with_shifts(rows, config.get("settings", {}))
        summary = summarize(rows, experiment.paper, experiment.sweep)
    with told(f"write to '{folder}'"):
        write_summary(folder, summary)
    written = [FILE if experiment.study else "rounds.csv", "summary.csv"]
    views: dict[str, Experiment | View] = {"figure": experiment} | {
        view.name: view for view in VIEWS.values() if view.of == experiment.name
    }
    for stem, view in views.items():
        page = "table.md" if stem == "figure" else f"{stem}.md"
        with told(f"write to '{folder}'"):
            atomic_write(folder / page, markdown(summary, view.table, view.name, view.note))
            save(PLOTS[view.plot](rows, summary), folder, stem)
        written += [page, f"{stem}.png"]
        if view.name == (asked or experiment.name):
            show(summary, view.table, view.note, console)
    for gap in [] if experiment.study else gaps(rows):
        console.print(gap, style="yellow", highlight=False)
    console.print("\n".join(str(folder / name) for name in written), style="dim", highlight=False, soft_wrap=True)


def main() -> None:
    """Run the command line; what a user can mend is one sentence and exit status 1, Ctrl-C is 130."""
    errors = Console(stderr=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` stops as orderly as Ctrl-C does
    try:
        code = app(standalone_mode=False)
    except click.ClickException as error:  # wrong options: click's own words
        error.show()
        sys.exit(error.exit_code)
    except MENDABLE as error:
        errors.print("error:", style="red", end=" ")
        errors.print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
    if code == INTERRUPTED:  # typer's way to say that a KeyboardInterrupt came through
        errors.print("interrupted; the same command goes on where it stopped", style="yellow")
    sys.exit(code)
