"""eclm500: ECLM on 500 devices, 25 a round, ResNet18 at a quarter of its width, beside FedAvg of the whole model.

In one process, where what is not training shows: profiles, derivation, cutting out, messages, merging, results.
"""

import json
from statistics import median

import numpy as np

from experiments.bench.contest import Entrant, Runner, take_turns
from experiments.bench.exam import SEED, Exam
from experiments.bench.table import Line, Options, Table
from experiments.catalog.tasks import SKEWED, SMALL
from fl.config.settings import Settings

METHODS = {"eclm": "ECLM, a round", "fedavg": "FedAvg, a round"}


def bench(options: Options) -> Table:
    rounds = 2 + options.blocks * options.rounds
    settings = Settings.parse(
        {
            **SMALL,
            **SKEWED,
            **{"dataset": "cifar10", "model": "resnet18", "seeds": str(SEED), "devices": 500, "cohort": 25},
            **{"rounds": rounds, "rounds-per-step": rounds, "eval-every": rounds, "drift": "none"},
            **{"dense-epochs": 1, "modular-epochs": 1, "ability-epochs": 0},
        }
    )
    folder = options.scratch / "exam"
    folder.mkdir()
    (folder / "about.json").write_text(json.dumps(settings.flat()))
    runners: list[Runner] = []
    try:
        for method, what in METHODS.items():
            options.say(f"{what}: the cloud trains, and a first round")
            runners.append(runner := Runner(Entrant(what, "shares", [method]), Exam(folder, settings), options.scratch))
            runner.hear()
        take_turns(runners, options)
    finally:
        for runner in runners:
            runner.kill()
    lines, checks = [], []
    for runner in runners:
        with np.load(runner.weights) as kept:
            training = kept["000"][1 : 1 + len(runner.line.wall)].tolist()  # the first round was for warming up
        inside = Line(f"{runner.line.what}: its training alone", training)
        lines += [runner.line, inside]
        share = median(t / w for t, w in zip(training, runner.line.wall, strict=True))
        checks.append(f"{runner.line.what}: {share:.0%} of the time is training arithmetic.")
    return Table(f"{__doc__.splitlines()[0]} Seconds.", METHODS["eclm"], lines, checks)
