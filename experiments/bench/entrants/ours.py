"""This project, the whole of it: `fl.server.run.run` with FedAvg on one of its engines, paused between rounds."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from experiments.bench.entrants.work import Enough, Turns
from fl.config.settings import Settings
from fl.engines.grid import LocalGrid, WorkerGrid
from fl.server.run import Event, open_results, run
from strategies import STRATEGIES
from strategies.fedavg import FedAvg


def on_processes(settings: Settings, workers: int) -> WorkerGrid:
    return LocalGrid(settings.flat(), settings.devices, workers)


@contextmanager
def on_ray(settings: Settings, workers: int) -> Iterator[WorkerGrid]:
    from fl.engines.actors import RayGrid, connected

    with connected(workers, ""), RayGrid(settings.flat(), settings.devices, workers) as grid:
        yield grid


ENGINES: dict[str, Callable[[Settings, int], AbstractContextManager[WorkerGrid]]] = {
    "processes": on_processes,
    "ray": on_ray,
}


def main(folder: str, to: str, workers: int, engine: str) -> None:
    turns, about = Turns(), json.loads((Path(folder) / "about.json").read_text())
    settings = Settings.parse(about["settings"])
    made = []

    class Seen(FedAvg):
        """FedAvg, whose model can be looked at in the end."""

        def __post_init__(self) -> None:
            super().__post_init__()
            made.append(self)
            turns.next()

    def observe(event: Event) -> None:
        if event.kind == "round":
            turns.next()

    STRATEGIES["fedavg"] = Seen
    try:
        with (
            open_results([settings], Path(to).with_suffix(""), overwrite=True) as results,
            ENGINES[engine](settings, workers) as grid,
        ):
            run(settings, grid, results, observe)
    except Enough:
        shapes = [tuple(shape) for shape in about["shapes"]]
        weights = [made[0].model[name].reshape(shape) for name, shape in zip(about["names"], shapes, strict=True)]
        turns.finish(weights, to)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
