"""Run the settings of an experiment on an engine, and show the progress."""

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
from experiments.studies.results import StudyResults
from experiments.studies.study import Study
from fl.config import Settings, SettingsError
from fl.devices.load import cores
from fl.engines.grid import LocalGrid, WorkerGrid
from fl.results.files import refuse_beside
from fl.results.rows import Row
from fl.server.run import Event, complete, execute, open_results
from fl.workloads.resolve import Run, resolve

PROJECT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Launch:
    """What an engine runs.

    Args:
        runs: one for each setting.
        workers: processes that simulate clients; 0: one per core.
        address: of a Ray cluster; empty: this machine.
        out: results folder; overwrite: start it anew.
        project: folder of the Flower app, for engines that use `flwr run`.
    """

    runs: Sequence[Run]
    workers: int
    address: str
    out: Path
    overwrite: bool
    console: Console
    observe: "Observe"
    project: Path


def launch(
    settings: Sequence[Settings],
    engine: str,
    workers: int,
    address: str,
    out: Path,
    overwrite: bool,
    console: Console,
    project: Path = PROJECT,
) -> None:
    """Run everything that ``out`` does not hold complete.

    Args:
        engine: a name in `ENGINES`; the other arguments are as in `Launch`.

    Raises:
        SettingsError, DataError, ResultsError: before anything starts.
        FlowerRunFailed, EngineFailed: the run did not complete.
    """
    runs = [resolve(one) for one in settings]
    with _progress(runs, console) as observe:
        ENGINES[engine](Launch(runs, workers, address, out, overwrite, console, observe, project))


def launch_study(study: Study, settings: Sequence[Settings], out: Path, overwrite: bool, console: Console) -> None:
    """Measure every setting and seed that ``out`` does not hold.

    Raises:
        SettingsError, DataError, ResultsError: before anything starts.
    """
    refuse_beside(out, "rounds.csv")
    runs = [resolve(one, study=True) for one in settings]
    todo = [(run, seed) for run in runs for seed in run.settings.seed_list]
    for run, seed in todo:
        study.check(run, seed)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in rounds, so that the cloud models are the same
    try:
        with StudyResults(out, study, runs, overwrite) as results, progress_bar(console) as progress:
            bar = progress.add_task("starting", total=len(todo), unit="settings")
            for at, (run, seed) in enumerate(todo):
                setting = run.settings.setting
                where = f"{setting}  seed {seed}"

                def tick(what: str, done: int, of: int, where: str = where) -> None:
                    progress.update(bar, description=f"{where}  {what} {done + 1}/{of}")

                if results.done(setting, seed):
                    console.print(f"{where}: complete, skipped", style="dim")
                else:
                    results.add(setting, seed, study.measure(run, seed, tick))
                progress.update(bar, description=where, completed=at + 1)
    finally:
        torch.set_num_threads(threads)


def progress_bar(console: Console) -> Progress:
    """Return a progress bar that shows the time that is left. Each task has a field ``unit``, in which it counts."""
    columns = (
        SpinnerColumn(), TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True)),
        BarColumn(bar_width=12), MofNCompleteColumn(), TextColumn("{task.fields[unit]}"), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    return Progress(*columns, console=console, expand=True, transient=not console.is_terminal)


def _local(order: Launch) -> None:
    workers = order.workers or len(cores())
    _in_process(order, lambda s: LocalGrid(s.flat(), s.devices.count, workers))


def _ray(order: Launch) -> None:
    from fl.engines.actors import RayGrid, connected  # takes a second

    workers = order.workers or (0 if order.address else len(cores()))
    with connected(workers, order.address):
        _in_process(order, lambda s: RayGrid(s.flat(), s.devices.count, workers))


def _in_process(order: Launch, grid_for: Callable[[Settings], WorkerGrid]) -> None:
    """Run the server in this process, and the clients on a grid of this project."""
    threads = torch.get_num_threads()
    try:
        with open_results(order.runs, order.out, order.overwrite) as results:
            for run in order.runs:
                with grid_for(run.settings) as grid:
                    execute(run, grid, results, partial(order.observe, run.settings.setting, of=grid))
    finally:
        torch.set_num_threads(threads)


def _flower(order: Launch, start: Callable[..., None]) -> None:
    """Run each setting with `flwr run`.

    Args:
        start: `flwr_run` or `loopback_run`.
    """
    out, workers = order.out, order.workers or len(cores())
    if not (order.project / "pyproject.toml").is_file():
        raise SettingsError(
            f"{order.project} is not a Flower app, it has no pyproject.toml: use --engine local or ray, or start the "
            "command in a checkout of driftfed"
        )

    def echo(line: str) -> None:
        order.console.print(line, style="dim", markup=False, highlight=False)

    with open_results(order.runs, out, order.overwrite) as results:  # announces all settings; each run adds its rows
        whole = [
            all(complete(run, results, method, seed) for method in run.methods for seed in run.settings.seed_list)
            for run in order.runs
        ]
    for run, done in zip(order.runs, whole, strict=True):
        if done:
            echo(f"{run.settings.setting}: complete, skipped; --overwrite runs it again")
            continue
        with _following(run, out, order.observe):
            config = {**run.settings.flat(), "out": str(out), "overwrite": False}
            start(order.project, config, workers, on_line=echo)


ENGINES: dict[str, Callable[[Launch], None]] = {
    "local": _local,
    "ray": _ray,
    "flower": partial(_flower, start=partial(flwr_run, add_keys=True)),
    "loopback": partial(_flower, start=loopback_run),
}


class Observe(Protocol):
    """Show an event; ``of``: the grid where it happens, if it is one of this project."""

    def __call__(self, setting: str, event: Event, of: WorkerGrid | None = None) -> None: ...


@dataclass
class Pace:
    """How fast the rounds so far were.

    Args:
        clients: trained or scored; seconds: of the rounds; trained_s: seconds that a worker spent on training.
        grid: the grid in use; counted: its seconds of training that are in ``trained_s``.
    """

    clients: int = 0
    seconds: float = 0.0
    trained_s: float = 0.0
    grid: WorkerGrid | None = None
    counted: float = 0.0

    def add(self, row: Row, grid: WorkerGrid | None) -> None:
        self.clients += row.devices + row.evaluated
        self.seconds += row.wall_s
        if grid is not self.grid:
            self.grid, self.counted = grid, 0.0
        if grid is not None:
            self.trained_s += (grid.trained_s - self.counted) / grid.size
            self.counted = grid.trained_s

    def __str__(self) -> str:
        if not self.seconds:
            return ""
        share = f", {self.trained_s / self.seconds:.0%} of the time in training" if self.trained_s else ""
        return f"{self.clients / self.seconds:.0f} clients/s{share}"


@contextmanager
def _progress(runs: Sequence[Run], console: Console) -> Iterator[Observe]:
    """Show a bar over all rounds of all runs, with the time that is left, the pace and the latest scores."""
    total = sum(run.settings.rounds * len(run.methods) * len(run.settings.seed_list) for run in runs)
    done: dict[tuple[str, int, str], int] = {}
    pace = Pace()
    skipped: list[Event] = []
    with progress_bar(console) as progress:
        bar: TaskID = progress.add_task("starting", total=total, unit="rounds")
        cloud = progress.add_task("", total=1, unit="epochs", visible=False)
        stage = ""

        def observe(setting: str, event: Event, of: WorkerGrid | None = None) -> None:
            nonlocal stage
            where = f"{setting}  seed {event.seed}"
            if event.kind == "offline":
                if stage != (stage := f"{where}  {event.what}"):
                    progress.reset(cloud, total=event.of, description=f"cloud: {event.what}", visible=True)
                progress.update(bar, description=f"{where}  the cloud trains")
                progress.update(cloud, completed=event.at)
                return
            progress.update(cloud, visible=False)
            if event.kind == "skipped":
                skipped.append(event)
                console.print(f"{where}  {event.what}: complete, skipped", style="dim")
            if event.kind == "resumed":
                console.print(f"{where}  {event.what}: continues after round {event.at}", style="dim")
            done[setting, event.seed, event.what] = event.at
            if event.rows:
                pace.add(event.rows[0], of)
            what = f"{where}  {event.what}  {pace}"
            progress.update(bar, description=what, completed=sum(done.values()))
            if event.rows and event.rows[0].evaluated:
                scores = "   ".join(f"{row.method} {100 * row.accuracy_mean:5.1f} %" for row in event.rows)
                console.print(f"{where}  round {event.at:>3}/{event.of}  {scores}", highlight=False)

        yield observe
        if len(skipped) == sum(len(run.methods) * len(run.settings.seed_list) for run in runs):
            console.print("complete: nothing was run; --overwrite runs it again", style="dim")
        if pace.clients:
            console.print(f"{pace.clients} clients trained or scored in {pace.seconds:.0f} s: {pace}", style="dim")


@contextmanager
def _following(run: Run, out: Path, observe: Observe) -> Iterator[None]:
    """Turn the rows that a Flower run appends to rounds.csv into events for the progress bar."""
    stop = threading.Event()
    settings = run.settings
    first = {next(iter(method.strategy.reports)): name for name, method in run.methods.items()}

    def follow() -> None:
        while not stop.wait(0.5):
            counts: dict[tuple[int, str], int] = {}
            try:
                lines = (out / "rounds.csv").read_text(encoding="utf-8", errors="replace").splitlines()[1:]
            except OSError:  # the folder was renamed; the run says so
                continue
            for line in lines:
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
