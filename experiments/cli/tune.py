"""`tune`: search for the values of keys that score best on training seeds."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from experiments.catalog import EXPERIMENTS, SCALES
from experiments.cli.app import app_settings, is_app, refuse_parts
from experiments.cli.options import Changes, Folder, changes_of
from fl.config import Settings, SettingsError
from partitions import lookup
from partitions.root import absolute

if TYPE_CHECKING:
    from experiments.tuning import Axis, Resolver

console = Console()


def tune(
    name: Annotated[
        str, typer.Argument(help="An experiment of `list`, or the folder of your own app: '.' or ./my-app.")
    ],
    over: Annotated[
        list[str],
        typer.Option(
            metavar="KEY=VALUES",
            help="A key to search: listed values, eclm.top-k=2,4,6, or all numbers of a range, client.lr=0.001..0.1, "
            "on a logarithmic scale if its ends differ by a factor of 10 or more; may be repeated.",
        ),
    ],
    method: Annotated[
        str,
        typer.Option(metavar="ROW", help="Row of rounds.csv whose accuracy is maximised; only its method is run."),
    ] = "",
    seeds: Annotated[
        str, typer.Option(help="Training seeds. Those that the experiment reports are refused.")
    ] = "101,102",
    trials: Annotated[int, typer.Option(help="Trials in all; fewer if there are fewer combinations.", min=1)] = 20,
    prune: Annotated[
        bool, typer.Option("--prune/--no-prune", help="End a trial whose evaluations are below the median of others.")
    ] = True,
    scale: Annotated[str, typer.Option(help="smoke, cpu (default) or paper.")] = "",
    settings_: Annotated[
        str, typer.Option("--settings", help="Only settings whose name has one of these words, e.g. cifar10,m=2.")
    ] = "",
    set_: Changes = [],  # noqa: B006
    engine: Annotated[str, typer.Option(help="local: worker processes; ray: Ray actors.")] = "local",
    workers: Annotated[
        int, typer.Option(help="Processes that simulate clients; 0: one per core.", min=0, max=1024)
    ] = 0,
    ray_address: Annotated[
        str, typer.Option(help="Ray cluster for --engine ray, HOST:PORT or auto; by default one is started here.")
    ] = "",
    out: Annotated[
        Path | None, Folder(help="Folder of the search; by default runs/NAME-SCALE-tune in the current folder.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start anew instead of continuing.")] = False,
) -> None:
    """Search for the values of keys that score best, with Optuna: `pip install optuna`.

    Example: [bold]python -m experiments tune quickstart --settings m=2 --method eclm --over client.lr=0.001..0.1[/bold]

    A score is the mean accuracy over settings and training seeds. The first trial has the present values, if they are
    among those searched. The same command continues after Ctrl-C; with more --trials it adds some. The folder gets
    trials.csv and best.toml, and rounds.csv with a setting for each trial.

    Then run the experiment with the best values and its own seeds, which the search has not seen.
    """
    changes = changes_of(set_)
    for key in ("out", "overwrite", "seeds", "setting"):
        if key in changes:
            raise SettingsError(f"--set {key}={changes[key]} does not fit `tune`; leave it out or use its options")
    from experiments.tuning import Axis, Search, percent

    lookup("engine", engine, dict.fromkeys(("local", "ray")))
    axes = [Axis.parse(text) for text in over]
    keys = [axis.key for axis in axes]
    for key in keys:
        if keys.count(key) > 1 or key in changes:
            raise SettingsError(f"--over {key}: the key is given twice; leave one of them out")
        if key in ("seeds", "strategies", "setting", "experiment", "out", "overwrite", "save", "callbacks"):
            raise SettingsError(f"--over {key}: it is not a number of the method; search another key")
    only = [text.strip() for text in settings_.split(",") if text.strip()]
    training = Settings.parse({"seeds": seeds}).seed_list
    if is_app(name):
        project = absolute(name).resolve()
        refuse_parts(scale, settings_)
        own = app_settings(project, changes)
        reported, folder = own.seed_list, Path("runs") / f"{own.experiment}-tune"
    else:
        experiment = lookup("experiment", name, EXPERIMENTS)
        if experiment.study:
            raise SettingsError(f"'{name}' is a study of pretrained models without rounds; `tune` needs rounds")
        scale = scale or "cpu"
        lookup("scale", scale, dict.fromkeys(SCALES))
        reported, folder = list(experiment.seeds), Path("runs") / f"{name}-{scale}-tune"
    if seen := sorted({*training} & {*reported}):
        raise SettingsError(
            f"--seeds {seeds}: '{name}' reports seed {', '.join(map(str, seen))}, and a score on it would not be new "
            "any more; tune with others, e.g. --seeds 101,102"
        )

    def settings(point: Mapping[str, str]) -> list[Settings]:
        if is_app(name):
            return [app_settings(project, {**changes, **chosen, **point, "seeds": seeds})]
        return experiment.resolve(scale, training, {**changes, **chosen, **point}, only)

    chosen: dict[str, str] = {}
    strategy, row = _row(method, settings({}))
    chosen["strategies"] = strategy
    _check(axes, settings)
    about = {"name": name, "scale": scale, "settings": settings_, "set": changes, "seeds": training, "method": row}
    search = Search(axes, row, settings, absolute(out or folder), about, overwrite)
    console.print(f"accuracy of {row}, seeds {seeds}, in {search.out}", style="dim", highlight=False, soft_wrap=True)
    search.run(trials, prune, engine, workers, ray_address, console)
    search.write()
    console.print(search.table())
    if best := search.best:
        sets = " ".join(f"--set {key}={value}" for key, value in search.values(best).items())
        console.print(f"best of {len(search.ended)} trials: {percent(best.value)} with {sets}", highlight=False)
        parts = {"--settings": settings_, "--scale": scale if scale != "cpu" else ""}
        words = [name, *(f"{option} {value}" for option, value in parts.items() if value)]
        words += [f"--set {key}={value}" for key, value in changes.items()]
        command = " ".join(["python -m experiments run", *words, sets])
        console.print(f"on the seeds that it reports: {command}", highlight=False, soft_wrap=True)


def _row(asked: str, settings: list[Settings]) -> tuple[str, str]:
    """Return the method and the row that count."""
    from fl.workloads.resolve import resolve

    rows = {row: name for name, method in resolve(settings[0]).methods.items() for row in method.strategy.reports}
    if not asked and len(rows) > 1:
        raise SettingsError(f"--method is missing: name the row whose accuracy counts; known: {', '.join(rows)}")
    row = asked or next(iter(rows))
    if row not in rows:
        raise SettingsError(
            f"--method {row}: the experiment has no such row; known: {', '.join(rows)}; --set strategies= has others"
        )
    return rows[row], row


def _check(axes: "list[Axis]", settings: "Resolver") -> None:
    """Refuse an impossible value before the first trial."""
    from fl.workloads.resolve import resolve

    first = {axis.key: axis.ends[0] for axis in axes}
    for axis in axes:
        for value in axis.ends:
            for one in settings({**first, axis.key: value}):
                resolve(one)
