"""A run of seconds on the embedded data, for tests of everything around it."""

from pathlib import Path
from types import ModuleType

import pytest

from fl.config.settings import Settings
from fl.engines.grid import LocalGrid
from fl.server.run import open_results, run

SMALL = {
    "devices": 6,
    "cohort": 3,
    "rounds": 4,
    "rounds-per-step": 2,
    "eval-every": 2,
    "samples-min": 20,
    "samples-max": 30,
    "test-samples": 20,
    "local-epochs": 1,
    "adapt-epochs": 1,
    "dense-epochs": 2,
    "modular-epochs": 1,
    "ability-epochs": 1,
    "per-device": True,
}


@pytest.fixture(scope="session")
def small() -> dict:
    return dict(SMALL)


@pytest.fixture
def play():
    """Runs settings in process and returns rounds.csv without its wall-clock column."""

    def _play(out: Path, workers: int = 1, **changes: object) -> list[str]:
        settings = Settings.parse({**SMALL, **changes})
        with (
            open_results([settings], out, False) as results,
            LocalGrid(settings.flat(), settings.devices, workers) as grid,
        ):
            run(settings, grid, results)
        return without_clock(out)

    return _play


def without_clock(out: Path) -> list[str]:
    """Lines of rounds.csv without wall_s, which is the last column."""
    return [line.rpartition(",")[0] for line in (out / "rounds.csv").read_text().splitlines()]


def forget(monkeypatch: pytest.MonkeyPatch, workload: ModuleType, life: str) -> list[int]:
    """Let the turns of two devices be taken by one process, a new one each, or two by turns; one entry per turn."""
    honest, turns, memories = workload.turn, [], ({}, {})

    def turn(*of):
        if life == "restarted":
            workload._SIDES.clear()
        if life == "two processes":
            monkeypatch.setattr(workload, "_SIDES", memories[len(turns) // 2 % 2])
        turns.append(1)
        return honest(*of)

    monkeypatch.setattr(workload, "turn", turn)
    return turns
