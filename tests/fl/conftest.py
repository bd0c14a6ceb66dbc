"""A run of seconds on the embedded data, for tests of everything around it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.serverapp import Grid

from fl.config import Settings
from fl.engines.grid import LocalGrid
from fl.server.run import execute, open_results
from fl.workloads.resolve import Run, resolve

SMALL = {
    "devices.count": 6,
    "cohort": 3,
    "rounds": 4,
    "rounds-per-step": 2,
    "eval.every": 2,
    "data.samples-min": 20,
    "data.samples-max": 30,
    "data.test-samples": 20,
    "client.local-epochs": 1,
    "client.adapt-epochs": 1,
    "pretrain.dense-epochs": 2,
    "pretrain.modular-epochs": 1,
    "pretrain.ability-epochs": 1,
    "eval.per-device": True,
}


@pytest.fixture(scope="session")
def small() -> dict:
    return dict(SMALL)


def resolved(changes: dict[str, Any] | None = None) -> Run:
    """The small run with other values for some keys."""
    return resolve(Settings.parse({**SMALL, **(changes or {})}))


@pytest.fixture
def play() -> Callable[..., list[str]]:
    """Runs settings in process and returns rounds.csv without its wall-clock column.

    Keys have dots, so they come as a mapping: ``play(out, {"client.lr": 0.1}, workers=2)``. ``wrap`` makes another
    grid of the one that answers.
    """

    def _play(
        out: Path,
        changes: dict[str, Any] | None = None,
        workers: int = 1,
        wrap: Callable[[LocalGrid], Grid] | None = None,
    ) -> list[str]:
        run = resolved(changes)
        with (
            open_results([run], out, False) as results,
            LocalGrid(run.settings.flat(), run.settings.devices.count, workers) as grid,
        ):
            execute(run, wrap(grid) if wrap else grid, results)
        return without_clock(out)

    return _play


def without_clock(out: Path) -> list[str]:
    """Lines of rounds.csv without wall_s, which is the last column."""
    return [line.rpartition(",")[0] for line in (out / "rounds.csv").read_text().splitlines()]
