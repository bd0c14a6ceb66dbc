"""Commands about experiments: list them, run one, draw its figures again, merge results."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from experiments.catalog import EXPERIMENTS, SCALES, VIEWS, Experiment, View
from experiments.cli.app import app_settings, is_app
from experiments.cli.options import Changes, Folder, FolderArgument, changes_of
from experiments.launch import ENGINES, PROJECT, launch, launch_study
from experiments.merge import merge as merge_folders
from experiments.plots import PLOTS
from experiments.plots.style import save
from experiments.report import markdown, show
from experiments.rounds_to_target import with_shifts
from experiments.studies import FILE, STUDIES, read_study, summarize_study
from experiments.summary import gaps, in_order, summarize, write_summary
from fl.config import Settings, SettingsError
from fl.results.files import as_results_error, atomic_write
from fl.results.reader import read_config, read_rounds
from partitions import lookup

console = Console()
OTHER = Experiment("", "", "rounds of an experiment that is not in the catalog", {}, {})
Svg = Annotated[bool, typer.Option("--svg", help="Also write each figure as SVG.")]


def list_() -> None:
    """List the experiments: the table or figure of the paper that each repeats, and the duration of each scale.

    Example: [bold]python -m experiments list[/bold]
    """
    head = "{:<14} {:<18} {:<7} {:<7} {}".format
    _entry(head("experiment", "paper", *SCALES), "what it shows")
    for experiment in EXPERIMENTS.values():
        costs = [experiment.cost[scale] for scale in SCALES]
        _entry(head(experiment.name, experiment.reference or "-", *costs), experiment.summary)
        for view in VIEWS.values():
            if view.of == experiment.name:
                _entry(f"{view.name:<14} {view.reference}", f"{view.summary} (runs of {view.of})")
    console.print("\nRun one with: python -m experiments run NAME --scale " + "|".join(SCALES), style="dim")


def run(
    name: Annotated[
        str, typer.Argument(help="An experiment of `list`, or the folder of your own app: '.' or ./my-app.")
    ],
    scale: Annotated[
        str,
        typer.Option(help="smoke: check that it runs; cpu (default): two cores; paper: as in the paper, for a GPU."),
    ] = "",
    seeds: Annotated[str, typer.Option(help="Seeds, e.g. 1,2,3; by default those of the experiment.")] = "",
    engine: Annotated[
        str,
        typer.Option(
            help="local: worker processes; ray: Ray actors; flower: a simulation with `flwr run`; loopback: a "
            "deployment on this machine with a SuperNode per device; by default that of the experiment, mostly local."
        ),
    ] = "",
    workers: Annotated[int, typer.Option(help="Processes that simulate clients; 0: one per core.", min=0)] = 0,
    ray_address: Annotated[
        str,
        typer.Option(
            help="Ray cluster for --engine ray, HOST:PORT or auto; by default one is started on this machine."
        ),
    ] = "",
    settings_: Annotated[
        str,
        typer.Option("--settings", help="Only settings whose name has one of these words, e.g. cifar10,m=2."),
    ] = "",
    set_: Changes = [],  # noqa: B006
    out: Annotated[
        Path | None, Folder(help="Results folder; by default runs/NAME-SCALE in the current folder.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start the folder anew instead of completing it.")
    ] = False,
) -> None:
    """Run an experiment, and write CSV files, a figure and a table. Run it again to continue where it stopped.

    Example: [bold]python -m experiments run quickstart --set client.lr=0.05 --seeds 1,2[/bold]

    Your own app, made by `new`: [bold]python -m experiments run . --workers 2[/bold]
    """
    changes = changes_of(set_)
    for key in ("out", "overwrite"):
        if key in changes:
            raise SettingsError(f"--set {key}={changes[key]}: use the option --{key} of `run`")
    lookup("engine", engine or "local", ENGINES)
    if is_app(name):
        project = Path(name).expanduser().resolve()
        if scale or settings_:
            raise SettingsError("--scale and --settings select parts of an experiment of `list`; an app has neither")
        one = app_settings(project, changes | ({"seeds": seeds} if seeds else {}))
        asked, experiment, settings, folder = "", OTHER, [one], Path(one.out or Path("runs") / one.experiment)
    else:
        project = PROJECT
        asked, experiment = _find(name)
        scale = scale or "cpu"
        lookup("scale", scale, dict.fromkeys(SCALES))
        chosen = Settings.parse({"seeds": seeds}).seed_list if seeds else list(experiment.seeds)
        only = [text.strip() for text in settings_.split(",") if text.strip()]
        settings = experiment.resolve(scale, chosen, changes, only)
        folder = Path("runs") / f"{experiment.name}-{scale}"
    if any(one.devices.placement == "own" for one in settings):
        raise SettingsError(
            "devices.placement = 'own' does not fit `run`, which simulates devices: use --engine loopback to deploy "
            "them on this machine, or `flwr run` for devices that are deployed (docs/deploy.md)"
        )
    folder = (out or folder).expanduser().absolute()
    if experiment.study:
        launch_study(STUDIES[experiment.study], settings, folder, overwrite, console)
    else:
        launch(settings, engine or experiment.engine, workers, ray_address, folder, overwrite, console, project)
    _finish(folder, asked)


def plot(folder: Annotated[Path, FolderArgument(help="A results folder.")], svg: Svg = False) -> None:
    """Draw the figures and tables of a results folder again, from its CSV files alone.

    Example: [bold]python -m experiments plot runs/quickstart-cpu --svg[/bold]
    """
    _finish(folder.expanduser().absolute(), svg=svg)


def merge(
    folders: Annotated[list[Path], FolderArgument(help="Results folders of one experiment.")],
    out: Annotated[Path, Folder(help="Results folder that gets their runs; it may be new.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="If a run is in two folders, the later one replaces the earlier one.")
    ] = False,
) -> None:
    """Merge runs of several results folders, e.g. seeds, settings or methods that ran on several machines.

    Example: [bold]python -m experiments merge runs/seed1 runs/seed2 --out runs/both[/bold]
    """
    folder = out.expanduser().absolute()
    merge_folders([one.expanduser().absolute() for one in folders], folder, replace)
    _finish(folder)


def _find(name: str) -> tuple[str, Experiment]:
    """Return the name of an experiment or view, and the experiment whose runs it needs."""
    known: dict[str, Experiment | View] = {**EXPERIMENTS, **VIEWS}
    asked = lookup("experiment", name, known)
    return asked.name, EXPERIMENTS[asked.of] if isinstance(asked, View) else asked


def _finish(folder: Path, asked: str = "", svg: bool = False) -> None:
    """Write summary, tables and figures of a results folder. Show the table of ``asked``, by default the experiment."""
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
    with as_results_error(f"write to '{folder}'"):
        write_summary(folder, summary)
    written = [FILE if experiment.study else "rounds.csv", "summary.csv"]
    views: dict[str, Experiment | View] = {"figure": experiment} | {
        view.name: view for view in VIEWS.values() if view.of == experiment.name
    }
    for stem, view in views.items():
        page = "table.md" if stem == "figure" else f"{stem}.md"
        with as_results_error(f"write to '{folder}'"):
            atomic_write(folder / page, markdown(summary, view.table, view.name, view.note))
            save(PLOTS[view.plot](rows, summary), folder, stem, svg)
        written += [page, f"{stem}.png", *([f"{stem}.svg"] if svg else [])]
        if view.name == (asked or experiment.name):
            show(summary, view.table, view.note, console)
    for gap in [] if experiment.study else gaps(rows):
        console.print(gap, style="yellow", highlight=False)
    console.print("\n".join(str(folder / name) for name in written), style="dim", highlight=False, soft_wrap=True)


def _entry(head: str, text: str) -> None:
    """Print a line, and below it an indented explanation that fits the terminal."""
    console.print(head, style="bold", markup=False, highlight=False)
    console.print(Padding(Text(text), (0, 0, 0, 4), expand=False))
