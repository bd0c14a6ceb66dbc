"""w1: a small CNN on CIFAR-10, 1000 devices of 50 samples, 50 a round, 1 epoch in batches of 10, plain SGD."""

from importlib.util import find_spec

from experiments.bench.contest import Entrant, contest
from experiments.bench.exam import SEED, Exam
from experiments.bench.table import Options, Table
from fl.config.settings import Settings

BARE = "bare loop"


def bench(options: Options) -> Table:
    own = {"dataset": "cifar10", "model": "cnn", "devices": 1000, "cohort": 50}
    settings = fedavg(options, **own, samples=50, epochs=1, batch=10, lr=0.1)
    exam = Exam.write(options.scratch / "exam", "cnn", settings)
    title = f"{__doc__} Seconds per round, {options.blocks} blocks of {options.rounds}."
    return contest(title, BARE, exam, entrants(options), options)


def entrants(options: Options) -> list[Entrant]:
    """All who do rounds of FedAvg; `BARE` has as many processes as we."""
    n = str(options.workers)
    no_pfl = "" if find_spec("pfl") else "pfl-research is not installed (pip install 'driftfed[bench]', Python < 3.13)."
    return [
        Entrant(BARE, "bare", [n]),
        Entrant("bare loop, 1 process", "bare", ["1"]),
        Entrant("bare loop, allocator as it is", "bare", [n], {}),
        Entrant("ours, processes", "ours", [n, "processes"]),
        Entrant("ours, Ray", "ours", [n, "ray"]),
        Entrant("flwr run, cheapest client", "flower", ["cheap"]),
        Entrant("flwr run, client of the template", "flower", ["template"]),
        Entrant("pfl-research", "pfl_ranks", [n], missing=no_pfl),
    ]


def fedavg(options: Options, samples: int, epochs: int, batch: int, lr: float, **own: object) -> Settings:
    """FedAvg with plain SGD, on as many rounds as a contest has, from an untrained model; nobody is scored."""
    rounds = 2 + options.blocks * options.rounds  # one to warm up, and one that is never asked for
    return Settings.parse(
        {
            **own,
            **{"strategies": "fedavg", "seeds": str(SEED), "rounds": rounds, "rounds-per-step": rounds},
            **{"eval-every": rounds, "partition": "iid", "drift": "none", "schedule": "never"},
            **{"samples-min": samples, "samples-max": samples, "local-epochs": epochs, "batch-size": batch},
            **{"optimizer": "sgd", "momentum": 0.0, "clip": 0.0, "lr": lr},
            "measure-divergence": False,  # of updates, which nobody else measures
            **{"dense-epochs": 0, "modular-epochs": 0, "ability-epochs": 0},
        }
    )
