"""What tests of the split workloads share: a whole run, the client half of a method, processes that forget."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fl.config import Settings
from fl.engines.grid import LocalGrid
from fl.server.run import execute, open_results
from fl.workloads.resolve import Run, resolve
from fl.workloads.workload import Half, SplitWorkload
from strategies.core.client import ClientTask
from tests.fl.conftest import without_clock


def play(out: Path, values: Mapping[str, Any]) -> list[str]:
    """Run settings in this process, and return rounds.csv without its wall-clock column."""
    run = resolve(Settings.parse(values))
    with (
        open_results([run], out, False) as results,
        LocalGrid(run.settings.flat(), run.settings.devices.count) as grid,
    ):
        execute(run, grid, results)
    return without_clock(out)


def half_of(run: Run, task: ClientTask, method: str = "fedavg", training: bool = True) -> Half:
    """Return what makes the client half of a method."""
    return partial(run.methods[method].strategy.Client, run.methods[method].options, task, training=training)


def forget(monkeypatch: pytest.MonkeyPatch, workload: type[SplitWorkload], life: str) -> list[Any]:
    """Let one process take the turns of two clients, a new process each turn, or two processes alternately.

    Returns:
        The workload of each turn so far.
    """
    original, turns, memories = workload.turn, list[Any](), ({}, {})  # type: ignore[var-annotated]

    def turn(self: Any, *args: Any) -> Any:
        if life == "restarted":
            self.rounds.clear()
        if life == "two processes":
            self.rounds = memories[len(turns) // 2 % 2]
        turns.append(self)
        return original(self, *args)

    monkeypatch.setattr(workload, "turn", turn)
    return turns
