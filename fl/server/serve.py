"""What the ServerApp does: read the run-config, open the results, run every method and seed."""

from collections.abc import Iterator
from contextlib import contextmanager
from logging import INFO
from pathlib import Path

from flwr.app import Context
from flwr.common.logger import log
from flwr.serverapp import Grid

from fl.config import Settings
from fl.devices.load import cores
from fl.engines.grid import LocalGrid
from fl.server.run import Event, execute, open_results
from fl.workloads.resolve import from_flower, resolve


def report(event: Event) -> None:
    """Log one line per scored round and per cloud model."""
    if event.kind == "skipped":
        log(INFO, "seed %d, %s: complete, skipped", event.seed, event.what)
    elif event.kind == "resumed":
        log(INFO, "seed %d, %s: continues after round %d of %d", event.seed, event.what, event.at, event.of)
    elif event.kind == "offline" and event.at == 0:
        log(INFO, "seed %d, cloud: %s, 0 of %d", event.seed, event.what, event.of)
    elif event.kind == "round" and event.rows[0].evaluated:
        scores = ", ".join(f"{row.method} {100 * row.accuracy_mean:.1f} %" for row in event.rows)
        log(INFO, "seed %d, %s: round %d of %d, %s", event.seed, event.what, event.at, event.of, scores)


def out_folder(settings: Settings, run_id: int) -> Path:
    """Return where results go. The ServerApp runs in the SuperLink's folder, so relative paths mean nothing here."""
    if settings.out:
        return Path(settings.out).expanduser()
    return Path.home() / "driftfed-results" / f"{settings.experiment}-{run_id}"


@contextmanager
def _engine(settings: Settings, grid: Grid, run_id: int) -> Iterator[Grid]:
    """Open who the messages go to."""
    if settings.engine == "flower":
        yield grid
    else:
        workers = settings.workers or len(cores())
        with LocalGrid(settings.flat(), settings.devices.count, workers, run_id) as own:
            own.start()
            yield own


def serve(grid: Grid, context: Context) -> Path:
    """Run a whole experiment and return its results folder."""
    settings = from_flower(context.run_config)
    run, out = resolve(settings), out_folder(settings, context.run_id)
    with (
        open_results([run], out, settings.overwrite) as results,
        _engine(settings, grid, context.run_id) as engine,
    ):
        log(INFO, "results: %s", out)
        execute(run, engine, results, report)
    log(INFO, "done: %s; for the table and figures: python -m experiments plot %s", out / "rounds.csv", out)
    return out
