"""A run of seconds on the embedded data, for tests of everything around it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
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


def write_device_files(folder: Path, devices: int) -> dict[str, Any]:
    """Write the same files to ``folder/all`` and, as on real devices, each to a folder of its own.

    Returns:
        run-config keys that read all of them.
    """
    for device, name in enumerate([*(f"device-{n}" for n in range(devices)), "server"]):
        generator, own = np.random.default_rng(device), folder / name
        level = generator.integers(3, size=60)
        columns = {f"sensor{n}": generator.normal(level + n) for n in range(6)}
        table = pd.DataFrame(columns | {"label": np.array(["run", "sit", "walk"])[level]})
        for place in (own, folder / "all"):
            place.mkdir(parents=True, exist_ok=True)
            (place / "classes.txt").write_text("run\nsit\nwalk\n")
            if device % 2:
                table.to_parquet(place / f"{name}.parquet")
            else:
                table.to_csv(place / f"{name}.csv", index=False)
    return {"data.name": "folder", "data.root": str(folder / "all"), "data.partition": "none", "drift.kind": "none"}


def rows_of(out: Path) -> pd.DataFrame:
    """Read rounds.csv without the wall clock and without the scores on the test samples of all clients."""
    return pd.read_csv(out / "rounds.csv").drop(columns=["wall_s", "global_accuracy"])


def without_clock(out: Path) -> list[str]:
    """Lines of rounds.csv without wall_s, which is the last column."""
    return [line.rpartition(",")[0] for line in (out / "rounds.csv").read_text().splitlines()]
