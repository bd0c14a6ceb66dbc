"""This project: `fl.server.run.execute` with FedAvg on one of its engines, paused between rounds."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.bench.entrants.work import Stop, Turns
from fl.config import Settings
from fl.engines.grid import LocalGrid, WorkerGrid
from fl.server.run import Event, execute, open_results
from fl.workloads.resolve import resolve
from strategies.fedavg import FedAvg


def on_processes(settings: Settings, workers: int) -> WorkerGrid:
    return LocalGrid(settings.flat(), settings.devices.count, workers)


@contextmanager
def on_ray(settings: Settings, workers: int) -> Iterator[WorkerGrid]:
    from fl.engines.actors import RayGrid, connected

    with connected(workers, ""), RayGrid(settings.flat(), settings.devices.count, workers) as grid:
        yield grid


ENGINES: dict[str, Callable[[Settings, int], AbstractContextManager[WorkerGrid]]] = {
    "processes": on_processes,
    "ray": on_ray,
}


def main(folder: str, to: str, workers: int, engine: str) -> None:
    turns, about = Turns(), json.loads((Path(folder) / "about.json").read_text())
    run, made = resolve(Settings.parse(about["settings"])), []

    class Observed(FedAvg):
        """FedAvg whose model is read at the end."""

        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            made.append(self)
            turns.next()

    def observe(event: Event) -> None:
        if event.kind == "round":
            turns.next()

    run = replace(run, methods={"fedavg": run.methods["fedavg"]._replace(strategy=Observed)})
    try:
        with (
            open_results([run], Path(to).with_suffix(""), overwrite=True) as results,
            ENGINES[engine](run.settings, workers) as grid,
        ):
            execute(run, grid, results, observe)
    except Stop:
        shapes = [tuple(shape) for shape in about["shapes"]]
        weights = [made[0].model[name].reshape(shape) for name, shape in zip(about["names"], shapes, strict=True)]
        turns.finish(weights, to)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
