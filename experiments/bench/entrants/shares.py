"""One method of this project in one process, which keeps apart the seconds spent in training arithmetic."""

import json
import sys
from pathlib import Path

import torch

from experiments.bench.entrants.work import Enough, Turns
from fl.config.settings import Settings
from fl.engines.grid import LocalGrid
from fl.server.run import Event, open_results, run


def main(folder: str, to: str, method: str) -> None:
    turns = Turns()
    settings = Settings.parse({**json.loads((Path(folder) / "about.json").read_text()), "strategies": method})
    trained_s = [0.0]  # after each round

    def observe(event: Event) -> None:
        if event.kind == "round":
            trained_s.append(grid.trained_s)
            turns.next()

    try:
        with (
            open_results([settings], Path(to).with_suffix(""), overwrite=True) as results,
            LocalGrid(settings.flat(), settings.devices, 1) as grid,
        ):
            run(settings, grid, results, observe)
    except Enough:
        turns.finish([torch.tensor(trained_s, dtype=torch.float64).diff()], to)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3])
