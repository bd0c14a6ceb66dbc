"""Commands that measure: benchmarks, and a long run under faults."""

import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.status import Status
from rich.table import Table

from experiments.bench import BENCHMARKS, about, find
from experiments.cli.options import Folder
from partitions.root import absolute

console = Console()


def bench(
    names: Annotated[list[str] | None, typer.Argument(help="Benchmarks; without any, they are listed.")] = None,
    blocks: Annotated[int, typer.Option(help="Number of turns of each contestant.", min=1)] = 5,
    rounds: Annotated[int, typer.Option(help="Rounds, or repetitions, in a turn.", min=1)] = 4,
    workers: Annotated[int, typer.Option(help="Processes of each contestant; 0: one per core.", min=0)] = 0,
    out: Annotated[Path, Folder(help="Folder for <name>.csv and <name>.md.")] = Path("results") / "bench",
) -> None:
    """Measure the speed of this project and of others on the same work, turn by turn, on an idle machine.

    Example: [bold]python -m experiments bench w1 --blocks 3 --out runs/bench[/bold]
    """
    from experiments.bench.table import Options
    from fl.devices.load import cores

    for name in names or ():
        find(name)
    for name in () if names else BENCHMARKS:
        console.print(f"{name:<10}{about(name)}", highlight=False)
    for name in names or ():
        with console.status(name) as status, tempfile.TemporaryDirectory(prefix="driftfed-bench-") as scratch:
            show = partial(_show, status, name)
            table = find(name).bench(Options(blocks, rounds, workers or len(cores()), Path(scratch), show))
        table.write(out, name)
        console.print(table.markdown(), markup=False, highlight=False, soft_wrap=True)


def _show(status: Status, name: str, text: str) -> None:
    status.update(f"{name}: {text}")


def soak(
    devices: Annotated[int, typer.Option(help="Simulated clients.", min=2)] = 500,
    rounds: Annotated[int, typer.Option(help="Rounds of each method.", min=4)] = 300,
    faults: Annotated[float, typer.Option(help="Share of the replies that are spoiled.", min=0, max=1)] = 0.2,
    workers: Annotated[int, typer.Option(help="Processes that simulate clients.", min=1)] = 1,
    out: Annotated[Path, Folder(help="Results folder; it is started anew.")] = Path("runs") / "soak",
) -> None:
    """Run many rounds while clients fail and send wrong replies and the server crashes. Check that nothing leaks.

    Example: [bold]python -m experiments soak --devices 50 --rounds 40 --faults 0.3 --workers 2[/bold]
    """
    from experiments.attacks.soak import Load
    from experiments.attacks.soak import soak as run_soak
    from experiments.launch import progress_bar
    from fl.server.run import Event

    with progress_bar(console) as progress:
        task = progress.add_task("starting", total=3 * rounds, unit="rounds")

        def show(event: Event, load: Load) -> None:
            progress.update(task, advance=1, description=f"{event.what}  {load.bytes / 1e6:.0f} MB, {load.files} files")

        result = run_soak(devices, rounds, faults, workers, absolute(out), show)
    table = Table("method", "MB early", "MB late", "open files", box=None)
    for method, loads in result.loads.items():
        early, late = loads[len(loads) // 4], loads[-1]
        table.add_row(method, f"{early.bytes / 1e6:.0f}", f"{late.bytes / 1e6:.0f}", str(late.files))
    console.print(table)
    console.print(f"passed with {result.faults.total()} faults and {result.crashes} crashes of the server")
    console.print(dict(result.faults))
