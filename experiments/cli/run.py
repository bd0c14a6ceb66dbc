"""Commands about experiments: list them, run one, draw its figures again, merge results.

What needs PyTorch or pandas is imported by the command that uses it, so that help and errors come at once.
"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from experiments.analysis.sweeps import label, points_of
from experiments.catalog import EXPERIMENTS, OTHER, SCALES, VIEWS, Experiment, View
from experiments.cli.app import app_settings, is_app, refuse_parts
from experiments.cli.options import Changes, Folder, FolderArgument, changes_of
from fl.config import Settings, SettingsError
from partitions import lookup
from partitions.root import absolute

console = Console()
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
                _entry(f"{view.name:<14} {view.reference or '-'}", f"{view.summary} (runs of {view.of})")
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
    workers: Annotated[
        int, typer.Option(help="Processes that simulate clients; 0: one per core.", min=0, max=1024)
    ] = 0,
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
    sweep: Annotated[
        list[str],
        typer.Option(
            metavar="KEY=V1,V2,...",
            help="Run every setting at each of these values; may be repeated, for all combinations.",
        ),
    ] = [],  # noqa: B006
    out: Annotated[
        Path | None, Folder(help="Results folder; by default runs/NAME-SCALE in the current folder.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start the folder anew instead of completing it.")
    ] = False,
) -> None:
    """Run an experiment, and write CSV files, a figure and a table. Run it again to continue where it stopped.

    Example: [bold]python -m experiments run quickstart --set client.lr=0.05 --seeds 1,2[/bold]

    A sweep: [bold]python -m experiments run quickstart --settings m=2 --sweep m-classes.m=1,2,3 --seeds 1,2[/bold]

    Your own app, made by `new`: [bold]python -m experiments run . --workers 2[/bold]
    """
    changes = changes_of(set_)
    for key in ("out", "overwrite"):
        if key in changes:
            raise SettingsError(f"--set {key}={changes[key]}: use the option --{key} of `run`")
    points = points_of(sweep, changes)
    found = None if is_app(name) else _find(name)
    from experiments.launch import ENGINES, PROJECT, launch, launch_study

    lookup("engine", engine or "local", ENGINES)
    if found is None:
        project = absolute(name).resolve()
        refuse_parts(scale, settings_)
        changes |= {"seeds": seeds} if seeds else {}
        resolved = [[app_settings(project, changes | point)] for point in points]
        one = resolved[0][0]
        asked, experiment, folder = "", OTHER, Path(one.out or Path("runs") / one.experiment)
    else:
        project = PROJECT
        asked, experiment = found
        scale = scale or "cpu"
        lookup("scale", scale, dict.fromkeys(SCALES))
        chosen = Settings.parse({"seeds": seeds}).seed_list if seeds else list(experiment.seeds)
        only = [text.strip() for text in settings_.split(",") if text.strip()]
        resolved = [experiment.resolve(scale, chosen, changes | point, only) for point in points]
        folder = Path("runs") / "-".join((experiment.name, scale, *points[0]))
    settings = [
        one.changed({"setting": one.setting + label(point)}) if point else one
        for of_setting in zip(*resolved, strict=True)  # all points of a setting, one after the other
        for one, point in zip(of_setting, points, strict=True)
    ]
    if any(one.devices.placement == "own" for one in settings):
        raise SettingsError(
            "devices.placement = 'own' does not fit `run`, which simulates devices: use --engine loopback to deploy "
            "them on this machine, or `flwr run` for devices that are deployed (docs/deploy.md)"
        )
    if "setting" not in changes and any(key.startswith(("data.", "drift.")) for key in changes):
        names = ", ".join(dict.fromkeys(one.setting for one in settings))
        console.print(f"tables call it '{names}'; --set setting=NAME names what you changed", style="dim")
    folder = absolute(out or folder)
    if experiment.study:
        from experiments.studies import STUDIES

        launch_study(STUDIES[experiment.study], settings, folder, overwrite, console)
    else:
        launch(settings, engine or experiment.engine, workers, ray_address, folder, overwrite, console, project)
    from experiments.finish import finish

    finish(folder, console, asked)


def plot(folder: Annotated[Path, FolderArgument(help="A results folder.")], svg: Svg = False) -> None:
    """Draw the figures and tables of a results folder again, from its CSV files alone.

    Example: [bold]python -m experiments plot runs/quickstart-cpu --svg[/bold]
    """
    from experiments.finish import finish

    finish(absolute(folder), console, svg=svg)


def report(
    folders: Annotated[list[Path], FolderArgument(help="Results folders; several are compared.")],
    out: Annotated[
        Path | None, typer.Option(help="Where to write; by default report.html, for one folder in it.")
    ] = None,
) -> None:
    """Write report.html: plots, tables and settings to look at in a browser, without a network.

    Example: [bold]python -m experiments report runs/main-cpu runs/main-smoke[/bold]
    """
    from experiments.analysis.recorded import Recorded
    from experiments.page import write_page
    from fl.results.files import as_results_error

    whole = [absolute(folder) for folder in folders]
    page = absolute(out or (whole[0] / "report.html" if len(whole) == 1 else "report.html"))
    found = [Recorded.read(folder) for folder in whole]
    with as_results_error(f"write '{page}'"):
        write_page(found, page)
    console.print(str(page), style="dim", highlight=False, soft_wrap=True)


def watch(
    folder: Annotated[Path, FolderArgument(help="Results folder, also of a run that has not begun.")],
    port: Annotated[int, typer.Option(help="Port on this machine; 0: any.", min=0, max=65535)] = 8050,
) -> None:
    """Show the report of a run in a browser while the run goes on. Ctrl-C ends it; the run is not touched.

    Example: [bold]python -m experiments watch runs/main-cpu[/bold]
    """
    from experiments.page import server

    with server(absolute(folder), port) as web:
        console.print(f"http://127.0.0.1:{web.server_port}  (Ctrl-C ends it)", highlight=False, soft_wrap=True)
        web.serve_forever()


def claims(
    page: Annotated[Path | None, typer.Option(help="Renew the tables of this page.", metavar="FILE.md")] = None,
    results: Annotated[Path, Folder(help="Folder of the results folders.")] = Path("results"),
) -> None:
    """Compare the claims of the ECLM paper with the committed results, as a table in Markdown.

    Example: [bold]python -m experiments claims --page docs/results/eclm.md[/bold]
    """
    from experiments.analysis.claims import Results, renew
    from experiments.analysis.claims import claims as table
    from fl.results.files import as_results_error, atomic_write

    found = Results(absolute(results))
    if page is None:
        print(table(found))
        return
    with as_results_error(f"renew '{page}'"):
        atomic_write(absolute(page), renew(absolute(page).read_text(encoding="utf-8"), found))


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
    from experiments.analysis.merge import merge as merge_folders
    from experiments.finish import finish

    folder = absolute(out)
    merge_folders([absolute(one) for one in folders], folder, replace)
    finish(folder, console)


def _find(name: str) -> tuple[str, Experiment]:
    """Return the name of an experiment or view, and the experiment whose runs it needs."""
    known: dict[str, Experiment | View] = {**EXPERIMENTS, **VIEWS}
    asked = lookup("experiment", name, known)
    return asked.name, EXPERIMENTS[asked.of] if isinstance(asked, View) else asked


def _entry(head: str, text: str) -> None:
    """Print a line, and below it an indented explanation that fits the terminal."""
    console.print(head, style="bold", markup=False, highlight=False)
    console.print(Padding(Text(text), (0, 0, 0, 4), expand=False))
