"""eclm500: ECLM on 500 devices, 25 a round, ResNet18 at a quarter of its width, beside FedAvg of the whole model.

One process does all work, so that the cost of everything else shows: profiles, derivation, messages, aggregation.
"""

import json
from statistics import median

import numpy as np

from experiments.bench.contest import Entrant, Runner, take_turns
from experiments.bench.exam import SEED, Exam
from experiments.bench.table import Line, Options, Table
from experiments.catalog.tasks import SKEWED, SMALL
from fl.config import Settings
from fl.workloads.resolve import resolve, without_unused

METHODS = {"eclm": "ECLM, a round", "fedavg": "FedAvg, a round"}


def bench(options: Options) -> Table:
    rounds = 2 + options.blocks * options.rounds
    keys = {
        **SMALL,
        **SKEWED,
        **{"data.name": "cifar10", "model.name": "resnet18", "seeds": str(SEED), "devices.count": 500, "cohort": 25},
        **{"rounds": rounds, "rounds-per-step": rounds, "eval.every": rounds, "drift.kind": "none"},
        **{"pretrain.dense-epochs": 1, "pretrain.modular-epochs": 1, "pretrain.ability-epochs": 0},
        "strategies": ",".join(METHODS),
    }
    run = resolve(without_unused(Settings.parse(keys), ()))
    folder = options.scratch / "exam"
    folder.mkdir()
    (folder / "about.json").write_text(json.dumps(run.settings.flat()))
    runners: list[Runner] = []
    try:
        for method, what in METHODS.items():
            options.progress(f"{what}: pretraining and a first round")
            runners.append(runner := Runner(Entrant(what, "shares", [method]), Exam(folder, run), options.scratch))
            runner.receive()
        take_turns(runners, options)
    finally:
        for runner in runners:
            runner.kill()
    lines, checks = [], []
    for runner in runners:
        with np.load(runner.weights) as kept:
            training = kept["000"][1 : 1 + len(runner.line.wall)].tolist()  # without the first round, which warms up
        inside = Line(f"{runner.line.what}: its training alone", training)
        lines += [runner.line, inside]
        share = median(t / w for t, w in zip(training, runner.line.wall, strict=True))
        checks.append(f"{runner.line.what}: {share:.0%} of the time is training arithmetic.")
    return Table(f"{__doc__.splitlines()[0]} Seconds.", METHODS["eclm"], lines, checks)
