"""Run the settings of an experiment on an engine, with progress."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from experiments.deploy.loopback import loopback_run
from experiments.hermetic import flwr_run
from experiments.studies import Study, StudyResults
from fl.config.settings import Settings
from fl.engines.grid import LocalGrid, OwnGrid
from fl.engines.processes import cores
from fl.results.files import Row, refuse_beside
from fl.server.run import Event, complete, open_results, run
from fl.workloads import find
from strategies import STRATEGIES

PROJECT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Launch:
    """What an engine is to run.

    Args:
        workers: processes that stand in for devices; 0: one per core.
        address: of a Ray cluster; empty: this machine.
    """

    settings: Sequence[Settings]
    workers: int
    address: str
    out: Path
    overwrite: bool
    console: Console
    observe: "Observe"


def launch(
    settings: Sequence[Settings], engine: str, workers: int, address: str, out: Path, overwrite: bool, console: Console
) -> None:
    """Run everything that ``out`` does not hold complete.

    Args:
        engine: of `ENGINES`; workers, address: as in `Launch`.

    Raises:
        SettingsError, DataError, ResultsError: before anything starts.
        FlowerRunFailed, EngineFailed: the run did not complete.
    """
    _check(settings)
    with _progress(settings, console) as observe:
        ENGINES[engine](Launch(settings, workers, address, out, overwrite, console, observe))


def launch_study(study: Study, settings: Sequence[Settings], out: Path, overwrite: bool, console: Console) -> None:
    """Measure every setting and seed that ``out`` does not hold.

    Raises:
        SettingsError, DataError, ResultsError: before anything starts.
    """
    refuse_beside(out, "rounds.csv")
    for s in settings:
        for seed in s.seed_list:
            study.check(s, seed)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the rounds: the cloud models are the same ones
    runs = [(s, seed) for s in settings for seed in s.seed_list]
    try:
        with StudyResults(out, study, settings, overwrite) as results, progress_bar(console, "settings") as progress:
            bar = progress.add_task("starting", total=len(runs))
            for at, (s, seed) in enumerate(runs):
                where = f"{s.setting}  seed {seed}"

                def tick(what: str, done: int, of: int, where: str = where) -> None:
                    progress.update(bar, description=f"{where}  {what} {done + 1}/{of}")

                if results.done(s.setting, seed):
                    console.print(f"{where}: complete, skipped", style="dim")
                else:
                    results.add(s.setting, seed, study.measure(s, seed, tick))
                progress.update(bar, description=where, completed=at + 1)
    finally:
        torch.set_num_threads(threads)


def _check(settings: Sequence[Settings]) -> None:
    """Find everything that can be wrong before the first epoch."""
    for s in settings:
        for seed in s.seed_list:
            find(s.workload).prepare(s, seed)


def progress_bar(console: Console, unit: str) -> Progress:
    """A bar with the time that is left, counting in ``unit``."""
    columns = (
        SpinnerColumn(), TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True)),
        BarColumn(bar_width=12), MofNCompleteColumn(), TextColumn(unit), TimeElapsedColumn(), TextColumn("left"),
        TimeRemainingColumn(),
    )  # fmt: skip
    return Progress(*columns, console=console, expand=True, transient=not console.is_terminal)


def _local(order: Launch) -> None:
    workers = order.workers or len(cores())
    _own(order, lambda s: LocalGrid(s.flat(), s.devices, workers))


def _ray(order: Launch) -> None:
    from fl.engines.actors import RayGrid, connected  # takes a second

    workers = order.workers or (0 if order.address else len(cores()))
    with connected(workers, order.address):
        _own(order, lambda s: RayGrid(s.flat(), s.devices, workers))


def _own(order: Launch, grid_for: Callable[[Settings], OwnGrid]) -> None:
    """The round loop here, the devices' side on a grid of ours."""
    threads = torch.get_num_threads()
    try:
        with open_results(order.settings, order.out, order.overwrite) as results:
            for s in order.settings:
                with grid_for(s) as grid:
                    run(s, grid, results, partial(order.observe, s.setting, of=grid))
    finally:
        torch.set_num_threads(threads)


def _flower(order: Launch, start: Callable[..., None] = flwr_run) -> None:
    """A `flwr run` for each of the settings, as ``start`` does it."""
    settings, out, workers = order.settings, order.out, order.workers or len(cores())

    def echo(line: str) -> None:
        order.console.print(line, style="dim", markup=False, highlight=False)

    with open_results(settings, out, order.overwrite) as results:  # announces all at once; each run adds its rows
        open_ = [
            s for s in settings if not all(complete(s, results, m, seed) for m in s.methods for seed in s.seed_list)
        ]
    for s in settings:
        if s not in open_:
            echo(f"{s.setting}: complete, skipped; --overwrite runs it again")
            continue
        with _following(s, out, order.observe):
            start(PROJECT, {**s.flat(), "out": str(out), "overwrite": False}, workers, on_line=echo)


ENGINES: dict[str, Callable[[Launch], None]] = {
    "local": _local,
    "ray": _ray,
    "flower": _flower,
    "loopback": partial(_flower, start=loopback_run),
}


class Observe(Protocol):
    """Shows what happens; ``of``: the grid that it happens on, if it is ours."""

    def __call__(self, setting: str, event: Event, of: OwnGrid | None = None) -> None: ...


@dataclass
class Pace:
    """How fast rounds go, since the first.

    Args:
        devices: trained or scored; seconds: of the rounds; trained_s: of that, spent on training by one of the workers.
        counted: of ``grid``, the one in use.
    """

    devices: int = 0
    seconds: float = 0.0
    trained_s: float = 0.0
    grid: OwnGrid | None = None
    counted: float = 0.0

    def add(self, row: Row, grid: OwnGrid | None) -> None:
        self.devices += row.devices + row.evaluated
        self.seconds += row.wall_s
        if grid is not self.grid:
            self.grid, self.counted = grid, 0.0
        if grid is not None:
            self.trained_s += (grid.trained_s - self.counted) / grid.size
            self.counted = grid.trained_s

    def __str__(self) -> str:
        if not self.seconds:
            return ""
        share = f", {1 - self.trained_s / self.seconds:.0%} not training" if self.trained_s else ""
        return f"{self.devices / self.seconds:.0f} devices/s{share}"


@contextmanager
def _progress(settings: Sequence[Settings], console: Console) -> Iterator[Observe]:
    """A bar over all rounds of all runs, with the time that is left, the pace and the latest scores."""
    total = sum(s.rounds * len(s.methods) * len(s.seed_list) for s in settings)
    done: dict[tuple[str, int, str], int] = {}
    pace = Pace()
    with progress_bar(console, "rounds") as progress:
        bar: TaskID = progress.add_task("starting", total=total)

        def observe(setting: str, event: Event, of: OwnGrid | None = None) -> None:
            where = f"{setting}  seed {event.seed}"
            if event.kind == "offline":
                progress.update(bar, description=f"{where}  cloud: {event.what} {event.at + 1}/{event.of}")
                return
            if event.kind == "skipped":
                console.print(f"{where}  {event.what}: complete, skipped", style="dim")
            if event.kind == "resumed":
                console.print(f"{where}  {event.what}: goes on after round {event.at}", style="dim")
            done[setting, event.seed, event.what] = event.at
            if event.rows:
                pace.add(event.rows[0], of)
            what = f"{where}  {event.what}  {pace}"
            progress.update(bar, description=what, completed=sum(done.values()))
            if event.rows and event.rows[0].evaluated:
                scores = "   ".join(f"{row.method} {100 * row.accuracy_mean:5.1f} %" for row in event.rows)
                console.print(f"{where}  round {event.at:>3}/{event.of}  {scores}", highlight=False)

        yield observe
        if pace.devices:
            console.print(f"{pace.devices} devices trained or scored in {pace.seconds:.0f} s: {pace}", style="dim")


@contextmanager
def _following(settings: Settings, out: Path, observe: Observe) -> Iterator[None]:
    """Turn the rows that a Flower run appends to rounds.csv into events, for the progress bar."""
    stop = threading.Event()
    first = {next(iter(STRATEGIES[m].reports)): m for m in settings.methods}

    def follow() -> None:
        while not stop.wait(0.5):
            counts: dict[tuple[int, str], int] = {}
            for line in (out / "rounds.csv").read_text(encoding="utf-8").splitlines()[1:]:
                cells = line.split(",")
                if len(cells) > 4 and cells[1] == settings.setting and cells[2] in first:
                    counts[int(cells[3]), first[cells[2]]] = int(cells[4])
            for (seed, method), at in counts.items():
                observe(settings.setting, Event("round", seed, method, at, settings.rounds))

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
