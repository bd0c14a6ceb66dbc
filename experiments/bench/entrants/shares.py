"""One method of this project in one process, which keeps apart the seconds spent in training arithmetic."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import torch

from experiments.bench.entrants.work import Enough, Turns
from fl import fits
from fl.config import Settings
from fl.grid import LocalGrid
from fl.run import Event, open_results, run


def main(folder: str, to: str, method: str) -> None:
    turns = Turns()
    settings = Settings.parse({**json.loads((Path(folder) / "about.json").read_text()), "strategies": method})
    make, training = fits.make, [0.0]  # seconds in each round

    def timed(asked: Sequence[fits.Fit]) -> list[fits.Fitted]:
        began = perf_counter()
        made = make(asked)
        training[-1] += perf_counter() - began
        return made

    def observe(event: Event) -> None:
        if event.kind == "round":
            training.append(0.0)
            turns.next()

    fits.make = timed  # type: ignore[assignment]
    try:
        with (
            open_results([settings], Path(to).with_suffix(""), overwrite=True) as results,
            LocalGrid(settings.flat(), settings.devices, 1) as grid,
        ):
            run(settings, grid, results, observe)
    except Enough:
        turns.finish([torch.tensor(training)], to)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3])
