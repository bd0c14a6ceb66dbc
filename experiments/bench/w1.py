"""w1: a small CNN on CIFAR-10, 1000 devices of 50 samples, 50 a round, 1 epoch in batches of 10, plain SGD."""

from collections.abc import Mapping
from importlib.util import find_spec

from experiments.bench.contest import Entrant, contest
from experiments.bench.exam import SEED, Exam
from experiments.bench.table import Options, Table
from fl.config import Settings
from fl.workloads.resolve import Run, resolve

BARE = "bare loop"


def bench(options: Options) -> Table:
    own = {"data.name": "cifar10", "model.name": "cnn", "devices.count": 1000, "cohort": 50}
    exam = Exam.write(options.scratch / "exam", "cnn", fedavg(options, own, samples=50, epochs=1, batch=10, lr=0.1))
    title = f"{__doc__} Seconds per round, {options.blocks} blocks of {options.rounds}."
    return contest(title, BARE, exam, entrants(options), options)


def entrants(options: Options) -> list[Entrant]:
    """Return all programs that do rounds of FedAvg; `BARE` has as many processes as ours."""
    n = str(options.workers)
    no_pfl = "" if find_spec("pfl") else "pfl-research is not installed (pip install pfl, Python < 3.13)."
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


def fedavg(options: Options, own: Mapping[str, object], samples: int, epochs: int, batch: int, lr: float) -> Run:
    """Return a run of FedAvg with plain SGD, for the rounds of a contest, from an untrained model, without scores."""
    rounds = 2 + options.blocks * options.rounds  # one to warm up, and one that is never started
    config = {
        **{"strategies": "fedavg", "seeds": str(SEED), "rounds": rounds, "rounds-per-step": rounds},
        **{"eval.every": rounds, "data.partition": "iid", "drift.kind": "none", "drift.schedule": "never"},
        **{"data.samples-min": samples, "data.samples-max": samples, "client.local-epochs": epochs},
        **{"client.batch-size": batch, "client.momentum": 0.0, "client.clip": 0.0, "client.lr": lr},
        "eval.divergence": False,  # the other programs do not measure it
        **{"pretrain.dense-epochs": 0, "pretrain.modular-epochs": 0, "pretrain.ability-epochs": 0},
    }
    return resolve(Settings.parse({**own, **config}))
