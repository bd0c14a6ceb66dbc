"""One method of this project in one process, which also records the seconds spent in training arithmetic."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from experiments.bench.entrants.work import Stop, Turns
from fl.config import Settings
from fl.engines.grid import LocalGrid
from fl.server.run import Event, execute, open_results
from fl.workloads.resolve import resolve


def main(folder: str, to: str, method: str) -> None:
    turns = Turns()
    both = resolve(Settings.parse(json.loads((Path(folder) / "about.json").read_text())))
    run = replace(both, methods={method: both.methods[method]})
    trained_s = [0.0]  # after each round

    def observe(event: Event) -> None:
        if event.kind == "round":
            trained_s.append(grid.trained_s)
            turns.next()

    try:
        with (
            open_results([run], Path(to).with_suffix(""), overwrite=True) as results,
            LocalGrid(run.settings.flat(), run.settings.devices.count, 1) as grid,
        ):
            execute(run, grid, results, observe)
    except Stop:
        turns.finish([torch.tensor(trained_s, dtype=torch.float64).diff()], to)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3])
