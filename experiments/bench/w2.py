"""w2: an MLP 561-256-128-6, 500 devices of 100 samples, 25 a round, 3 epochs in batches of 16, plain SGD.

The shapes are those of UCI HAR. The samples are made up: time does not depend on them, and nobody needs to fetch any.
"""

from pathlib import Path

import numpy as np

from experiments.bench.contest import contest
from experiments.bench.exam import Exam
from experiments.bench.table import Options, Table
from experiments.bench.w1 import BARE, entrants, fedavg
from partitions.datasets import store


def bench(options: Options) -> Table:
    made_up(options.scratch)
    own = {"dataset": "har-uci", "data-root": str(options.scratch), "model": "mlp", "devices": 500, "cohort": 25}
    settings = fedavg(options, **own, samples=100, epochs=3, batch=16, lr=0.01)
    exam = Exam.write(options.scratch / "exam", "mlp", settings)
    title = f"{__doc__.splitlines()[0]} Seconds per round, {options.blocks} blocks of {options.rounds}."
    return contest(title, BARE, exam, entrants(options), options)


def made_up(place: Path) -> None:
    """A data set of UCI HAR's shape: six blurred points."""
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
