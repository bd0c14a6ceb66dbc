"""Commands that train nothing: the machine, the keys of a run-config, the drift of the data, the privacy of noise."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from experiments.cli.options import Changes, Folder, changes_of
from fl.config import Settings, SettingsError
from partitions.root import absolute

if TYPE_CHECKING:
    from models.nn.body import Architecture

MOST_STRIPS = 8  # devices whose images `drift` draws
console = Console()


def doctor() -> None:
    """Check this machine and its environment before a run. `doctor --help` lists the options.

    Example: [bold]python -m experiments doctor --superlink lab.local:8000[/bold]
    """
    from experiments.doctor import main  # which reads the options: it must also work where typer is missing

    main()


def settings(
    name: Annotated[
        str, typer.Argument(metavar="[BRANCH]", help="A section (drift), a component (eclm, feature) or a key.")
    ] = "",
    toml: Annotated[bool, typer.Option("--toml", help="Print all keys as tables for pyproject.toml.")] = False,
) -> None:
    """Explain the keys of the run-config: default, allowed values, and which component reads them.

    Example: [bold]python -m experiments settings drift[/bold]

    A component of your own: [bold]python -m experiments settings my_app.method:FedHello[/bold]
    """
    if toml:
        from fl.workloads.tables import toml_tables

        print(toml_tables(), end="")
        return
    from experiments.cli.tree import branch

    for section in branch(name):
        console.print()
        console.print(section.title, style="bold", markup=False, highlight=False)
        if section.about:
            console.print(Text(section.about, style="dim"))
        for key in section.keys:
            console.print(f"{key.name} = {key.default}", style="cyan", markup=False, highlight=False, soft_wrap=True)
            for text in filter(None, (Text(key.meaning), Text(key.limits, style="dim"))):
                console.print(Padding(text, (0, 0, 0, 4), expand=False))


def inspect(
    model: Annotated[str, typer.Argument(help="A model's name, or 'package.module:make' of your own.")],
    shape: Annotated[str, typer.Option(help="Shape of one sample.", metavar="C,H,W")] = "3,32,32",
    classes: Annotated[int, typer.Option(help="Number of classes.", min=2)] = 10,
    out: Annotated[Path | None, typer.Option(help="Draw the layers into this file.", metavar="FILE.png")] = None,
) -> None:
    """Show what can be cut in a model: its axes, its layers of modules, and what each width costs.

    Example: [bold]python -m experiments inspect torchvision.models:resnet18[/bold]

    A network of your own: [bold]python -m experiments inspect my_app.net:Net --shape 1,28,28[/bold]
    """
    from models.costs import cost
    from models.elastic.nested import RATES, width
    from models.nn.any_body import AnyBody
    from models.nn.any_module import architecture_of
    from models.nn.registry import MODELS
    from models.submodel import axis_names, covered_sizes

    if out is not None and out.suffix != ".png":
        raise SettingsError(f"--out = '{out}' is no name of a picture: write --out {out.stem or 'model'}.png")
    try:
        sample = tuple(int(n) for n in shape.split(","))
    except ValueError as error:
        raise SettingsError(f"--shape = '{shape}' is no shape: write numbers, e.g. 3,32,32") from error
    try:
        architecture = architecture_of(MODELS[model], sample, classes)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"{model}: {error}") from error
    body = architecture.part({})
    table = Table("axis", "length", "parameters with it", box=None)
    for axis, length in architecture.sizes.items():
        names = [name for name, dims in body.axes().items() if axis in axis_names(dims)]
        table.add_row(axis, str(length), ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else ""))
    console.print(table)
    console.print(f"\nlayers that ECLM cuts into modules: {', '.join(body.layers) or 'none'}", highlight=False)
    for name, why in body.found.whole.items() if isinstance(body, AnyBody) else ():
        console.print(f"whole: {name}, because {why}", highlight=False, markup=False)
    table = Table("\nwidth", "\nparameters", "MMAC for\none sample", "MB to train\nbatches of 16", box=None)
    for rate in RATES:
        price = cost(architecture, covered_sizes(architecture.sizes, width(architecture, rate)), 16)
        numbers = f"{price.params:,.0f}", f"{price.macs / 1e6:.3g}", f"{price.memory / 1e6:.3g}"
        table.add_row(f"{rate:g}", *numbers)
    console.print("", table)
    if out is not None:
        _draw(architecture, model, absolute(out))


def _draw(architecture: "Architecture", model: str, out: Path) -> None:
    """Draw the layers of a model into a file."""
    from experiments.plots.cuts import cuts, layers
    from experiments.plots.style import save
    from fl.results.files import as_results_error

    with as_results_error(f"write to '{out}'"):
        out.parent.mkdir(parents=True, exist_ok=True)
        save(cuts(layers(architecture), model), out.parent, out.stem)
    console.print(str(out), style="dim", highlight=False, soft_wrap=True)


def drift(
    set_: Changes = [],  # noqa: B006
    devices: Annotated[int, typer.Option(help="Draw the first so many devices.", min=1)] = 6,
    steps: Annotated[int, typer.Option(help="Draw so many steps.", min=1)] = 10,
    out: Annotated[Path, Folder(help="Folder for CSV files and figures.")] = Path("runs") / "drift",
) -> None:
    """Draw how data drift on devices, step by step. Nothing is trained.

    drift.png: the share of each class or subject. If they can differ: labels.png, the share of each label, and
    concepts.png, who has which concept. samples.png: images. online.png: who is online in which round.

    Example: [bold]python -m experiments drift --set data.partition=dirichlet --set drift.kind=class-swap[/bold]
    """
    from experiments.plots import drift as plots
    from experiments.plots.style import save
    from fl.results.files import as_results_error, atomic_write, csv_text
    from fl.workloads.resolve import resolve
    from partitions import LocalData
    from partitions.availability import Always
    from partitions.drifts.concepts import Concepts

    run = resolve(Settings.parse({"devices.count": devices, "cohort": 1, **changes_of(set_)}))
    settings = run.settings
    seed, count = settings.seed_list[0], min(devices, settings.devices.count)
    world = replace(run.worlds, size=(count, steps))(seed)
    if isinstance(world, LocalData):
        raise SettingsError("devices.placement = 'own' leaves the data on the devices: leave it out to draw a drift")
    shares = plots.shares(world, count, steps)
    found = {"drift": (shares, plots.drift(shares))}
    if world.drift.relabels or world.partition.cells == "domain":
        labels = plots.label_shares(world, count, steps)
        found["labels"] = labels, plots.drift(labels)
    if isinstance(world.drift, Concepts):
        concepts = plots.concepts(world.drift, world, count, steps)
        found["concepts"] = concepts, plots.matrix(concepts)
    if not isinstance(run.availability, Always):
        online = plots.online(run.availability, seed, count, steps * settings.rounds_per_step)
        found["online"] = online, plots.matrix(online)
    figures = {name: figure for name, (_, figure) in found.items()}
    if len(world.data.input_shape) == 3:
        figures["samples"] = plots.strips(world, min(count, MOST_STRIPS), steps)
    folder = absolute(out)
    with as_results_error(f"write to '{folder}'"):
        folder.mkdir(parents=True, exist_ok=True)
        for name, (rows, _) in found.items():
            atomic_write(folder / f"{name}.csv", csv_text([rows.columns, *rows.itertuples(index=False, name=None)]))
        for name, figure in figures.items():
            save(figure, folder, name)
    written = [f"{name}.csv" for name in found] + [f"{name}.png" for name in figures]
    console.print("\n".join(str(folder / name) for name in written), style="dim", highlight=False, soft_wrap=True)


def privacy(
    set_: Changes = [],  # noqa: B006
    delta: Annotated[float, typer.Option(help="Probability that the guarantee fails.", min=0, max=1)] = 1e-5,
) -> None:
    """Compute the differential privacy that the noise of a run guarantees a client (docs/faults.md).

    Example: [bold]python -m experiments privacy --set client.update-clip=1 --set client.update-noise=2[/bold]
    """
    from fl.client.privacy import epsilon
    from fl.workloads.resolve import resolve

    run = resolve(Settings.parse(changes_of(set_)))
    settings = run.settings
    asked = any(method.strategy.asks == "importance" for method in run.methods.values())  # once in each step
    steps = -(-settings.rounds // settings.rounds_per_step) if asked else 0
    noise = settings.client.update_noise, getattr(run.options.get("eclm"), "importance_noise", 0.0)
    table = Table("a client", "updates", "importances", f"epsilon at delta = {delta:g}", box=None)
    often = round(settings.rounds * settings.cohort / settings.devices.count)
    cases = {"sends one update": (1, 0), "on average": (often, steps), "in every round": (settings.rounds, steps)}
    for who, times in cases.items():
        spent = epsilon(list(zip(noise, times, strict=True)), delta)
        table.add_row(who, *map(str, times), f"{spent:.3g}" if spent < float("inf") else "no guarantee")
    console.print(table)
