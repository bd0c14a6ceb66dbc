"""What tests of the split workloads share: a whole run, the client half of a method, processes that forget."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from fl.config import Settings
from fl.engines.grid import LocalGrid
from fl.server.run import execute, open_results
from fl.workloads.resolve import Run, resolve
from fl.workloads.workload import ClientContext, Half, SplitWorkload
from models.submodel import State
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


def assert_fedprox_holds(values: Mapping[str, Any], context: ClientContext) -> None:
    """Assert that FedProx with mu = 0 trains a client as FedAvg does, and that it moves less the larger mu is."""

    def trained(method: str, **options: float) -> tuple[State, float]:
        run = resolve(
            Settings.parse({**values, "strategies": method, **{f"fedprox.{k}": v for k, v in options.items()}})
        )
        start = run.strategy(method, 1).model
        task = ClientTask(epochs=2, state=start)
        state = run.workload.train(context, task, half_of(run, task, method)).state
        assert state is not None
        return state, sum(float((state[name] - old).double().square().sum()) for name, old in start.items())

    (average, free), (prox, _) = trained("fedavg"), trained("fedprox", mu=0.0)
    assert all(torch.equal(average[name], value) for name, value in prox.items())
    assert free > trained("fedprox", mu=10.0)[1] > trained("fedprox", mu=1e4)[1] > 0


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
