"""What the ServerApp does: parse the run-config, open the results, run every method and seed."""

from collections.abc import Iterator
from contextlib import contextmanager
from logging import INFO
from pathlib import Path

from flwr.app import Context
from flwr.common.logger import log
from flwr.serverapp import Grid

from fl.config.settings import Settings
from fl.engines.grid import LocalGrid
from fl.engines.processes import cores
from fl.server.run import Event, open_results, run


def report(event: Event) -> None:
    """One line of the log per scored round and per offline stage."""
    if event.kind == "skipped":
        log(INFO, "seed %d, %s: complete, skipped", event.seed, event.what)
    elif event.kind == "resumed":
        log(INFO, "seed %d, %s: goes on after round %d of %d", event.seed, event.what, event.at, event.of)
    elif event.kind == "offline" and event.at == 0:
        log(INFO, "seed %d, cloud: %s, 0 of %d", event.seed, event.what, event.of)
    elif event.kind == "round" and event.rows[0].evaluated:
        scores = ", ".join(f"{row.method} {100 * row.accuracy_mean:.1f} %" for row in event.rows)
        log(INFO, "seed %d, %s: round %d of %d, %s", event.seed, event.what, event.at, event.of, scores)


def out_folder(settings: Settings, run_id: int) -> Path:
    """Where results go. The ServerApp's working directory is the SuperLink's, so relative paths mean nothing here."""
    if settings.out:
        return Path(settings.out).expanduser()
    return Path.home() / "driftfed-results" / f"{settings.experiment}-{run_id}"


@contextmanager
def _engine(settings: Settings, grid: Grid, run_id: int) -> Iterator[Grid]:
    """Who the messages go to."""
    if settings.engine == "flower":
        yield grid
    else:
        with LocalGrid(settings.flat(), settings.devices, settings.workers or len(cores()), run_id) as own:
            own.start()
            yield own


def serve(grid: Grid, context: Context) -> None:
    """A whole run."""
    settings = Settings.parse(context.run_config)
    out = out_folder(settings, context.run_id)
    with (
        open_results([settings], out, settings.overwrite) as results,
        _engine(settings, grid, context.run_id) as engine,
    ):
        log(INFO, "results: %s", out)
        run(settings, engine, results, report)
    log(INFO, "done: %s", out / "rounds.csv")
