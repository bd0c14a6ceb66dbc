"""Interference of tasks: what a task gains or loses by sharing the cloud's half of a split transformer with others.

One setting is a set of tasks, each a text set with its own device half and head. They are trained each by itself, then
all together with equal weights and with GradNorm's; every task makes the same steps on the same batches each time, and
starts from the same weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import pandas as pd

from experiments.studies import boundary
from experiments.studies.study import Measured, Study, Tick
from fl.config.settings import Settings
from fl.workloads.vq_tasks import named

SCHEMES = ("alone", "equal", "gradnorm")


@dataclass(frozen=True)
class Row:
    """One task in one training.

    Args:
        scheme: 'alone', or together with 'equal' weights or those of 'gradnorm'; task: the data set's name.
        texts: it was trained on; steps: that it made, the others' not counted.
        accuracy, score, loss: as in the study `boundary`, after the last step of all tasks.
        weight: of its loss at the end; mean_weight: over the rounds of GradNorm.
    """

    scheme: str
    task: str
    texts: int
    steps: int
    accuracy: float
    score: float
    loss: float
    weight: float
    mean_weight: float


def measure(settings: Settings, seed: int, tick: Tick) -> Iterator[Row]:
    """Every task by itself, then all together, twice."""
    from models.vq.training.tasks import Task, fit

    own = named(settings)
    data = {name: boundary.read(one, seed) for name, one in own.items()}
    for scheme in SCHEMES:
        for names in [[name] for name in own] if scheme == "alone" else [list(own)]:
            splits = {name: boundary.model(own[name], seed) for name in names}
            for split in splits.values():
                split.cloud = splits[names[0]].cloud
            learn = [Task(split, *data[name][:2]) for name, split in splits.items()]
            losses, weights = fit(learn, seed, scheme == "gradnorm", partial(tick, f"{scheme}, step"))
            for t, (name, split) in enumerate(splits.items()):
                _, _, test, answers, _ = data[name]
                right, score = boundary.judge_of(own[name], seed, test, answers)(split.predict(test))
                w = weights[:, t]
                yield Row(
                    scheme, name, len(learn[t].tokens), learn[t].steps, right, score, losses[t][-1], float(w[-1]),
                    float(w.mean()),
                )  # fmt: skip


def check(settings: Settings, seed: int) -> None:
    """Find what is wrong before anything is trained. SettingsError, DataError."""
    for own in named(settings).values():
        boundary.check(own, seed)


def changes(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of shared trainings with ``change``: the task's score less that alone, in the same setting and seed."""
    keys = ["setting", "seed", "task"]
    alone = rows[rows["scheme"] == "alone"].set_index(keys)["score"].rename("alone")
    found = rows[rows["scheme"] != "alone"].join(alone, on=keys)
    return found.assign(change=found["score"] - found["alone"])


def metrics(rows: pd.DataFrame) -> Measured:
    """By task and scheme; of all tasks the means of score and change."""
    whole = pd.concat([rows[rows["scheme"] == "alone"], changes(rows)])
    found: dict[tuple[str, str], float] = {}
    for task in dict.fromkeys(rows["task"]):
        for row in whole[whole["task"] == task].itertuples():
            numbers = ("score", "change", "loss", "weight", "mean_weight")
            found |= {(f"{task}, {row.scheme}", name): float(getattr(row, name)) for name in numbers}
    for scheme, of in whole.groupby("scheme", sort=False):
        found |= {(f"mean, {scheme}", name): float(of[name].mean()) for name in ("score", "change")}
    return found


TASKS = Study(Row, measure, metrics, check)
