"""Many devices: a round in which all of 500 take part, and 10,000 devices at the cost of 2,000."""

import time
from itertools import pairwise
from pathlib import Path
from statistics import median

from experiments.attacks import Attack, Figures, Show
from experiments.attacks.soak import TINY, Load
from fl.config import Settings
from fl.engines.grid import LocalGrid
from fl.results.reader import read_rounds
from fl.server.run import Event, execute, open_results
from fl.workloads.resolve import resolve

COHORT = 20
DEARER = 1.5  # a round with five times as many devices may cost so many times as much
JUDGED = 10  # percent of the full size from which costs are judged; rounds of a smaller crowd are too short
LARGER = 200e6  # bytes by which the process may be larger with five times as many devices


def attack(size: int, seed: int, folder: Path, show: Show) -> Figures:
    """Run a few rounds with 500 of 500, 20 of 2,000 and 20 of 10,000 devices; ``size``: a tenth for 10."""
    figures = Figures()
    costs: list[tuple[float, int]] = []
    for devices, cohort in ((500, 500), (2_000, COHORT), (10_000, COHORT)):
        count, some = devices * size // 100, min(cohort, devices * size // 100)
        show(f"{some} of {count} devices")
        took, load, trained = _rounds(count, some, folder / str(devices))
        costs.append((took, load))
        what = {f"{some} of {count}: ms per round": round(1000 * took), f"{some} of {count}: MB": round(load / 1e6)}
        figures.add(what, "" if trained == some else f"{some} of {count}: {trained} devices trained")
    (few, small), (many, large) = costs[1:]
    if size >= JUDGED and many > DEARER * few:
        figures.faults.append(f"a round costs {many:.2f} s with five times as many devices, {few:.2f} s without")
    if large > small + LARGER:
        figures.faults.append(f"the process has {large / 1e6:.0f} MB with more devices, {small / 1e6:.0f} MB without")
    return figures


def _rounds(devices: int, cohort: int, out: Path) -> tuple[float, int, int]:
    """Return the processor seconds of a round, the bytes of the process, and the fewest clients of a round."""
    marks: list[float] = []

    def observe(event: Event) -> None:
        if event.kind == "round":
            marks.append(time.process_time())

    values = {"strategies": "fedavg", "devices.count": devices, "cohort": cohort, "rounds": 6, "rounds-per-step": 3}
    few = {"eval.devices": min(COHORT, devices), "devices.state-root": str(out / "clients"), "experiment": "crowd"}
    run = resolve(Settings.parse({**TINY, **values, **few}))
    with open_results([run], out, True) as results, LocalGrid(run.settings.flat(), devices) as grid:
        execute(run, grid, results, observe)
    rounds = read_rounds(out)
    return median(b - a for a, b in pairwise(marks)), Load.now().bytes, int(rounds.devices.min())


ATTACKS = {
    "crowd": Attack(
        "500 of 500 devices, and 10,000 at the cost of 2,000", attack, {"smoke": 10, "full": 100}, "percent"
    )
}
