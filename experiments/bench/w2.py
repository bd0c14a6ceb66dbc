"""w2: an MLP 561-256-128-6, 500 devices of 100 samples, 25 a round, 3 epochs in batches of 16, plain SGD.

The shapes are those of UCI HAR. The samples are generated: time does not depend on them, and no download is needed.
"""

from pathlib import Path

import numpy as np

from experiments.bench.contest import contest
from experiments.bench.exam import Exam
from experiments.bench.table import Options, Table
from experiments.bench.w1 import BARE, entrants, fedavg
from fl.workloads.resolve import Run
from partitions.datasets import store


def bench(options: Options) -> Table:
    exam = Exam.write(options.scratch / "exam", "mlp", har_run(options, cohort=25, epochs=3))
    title = f"{__doc__.splitlines()[0]} Seconds per round, {options.blocks} blocks of {options.rounds}."
    return contest(title, BARE, exam, entrants(options), options)


def har_run(options: Options, cohort: int, epochs: int) -> Run:
    """Return a run of 500 devices on generated data."""
    generate_data(options.scratch)
    own = {"data.name": "har-uci", "data.root": str(options.scratch), "devices.count": 500, "cohort": cohort}
    return fedavg(options, own, samples=100, epochs=epochs, batch=16, lr=0.01)


def generate_data(place: Path) -> None:
    """Write a data set of UCI HAR's shape: Gaussian noise around six points."""
    g = np.random.default_rng(0)
    centres = g.normal(size=(6, 561)).astype(np.float32)
    arrays: dict[str, np.ndarray] = {}
    for split, n in (("train", 7000), ("test", 3000)):
        y = g.integers(6, size=n)
        arrays |= {f"y_{split}": y, f"x_{split}": (centres[y] + g.normal(size=(n, 561)) * 4).astype(np.float32)}
        arrays[f"domain_{split}"] = g.integers(30, size=n)
    arrays["group_train"] = np.arange(7000)
    names = {"classes": [str(k) for k in range(6)], "domains": [f"person-{k:02d}" for k in range(30)]}
    store.write(place, "har-uci", arrays, names)
