"""Interference of tasks: what a task gains or loses by sharing the cloud's half of a split transformer with others.

One setting is a set of tasks. Each task is a text set with its own device half and head. The tasks are trained each
alone, then all together with equal weights and with GradNorm's weights. Every training makes the same steps on the same
batches for a task, and starts from the same weights.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import pandas as pd

from experiments.studies import boundary
from experiments.studies.study import Measured, Study, Tick
from fl.config import SettingsError
from fl.workloads.resolve import Run

SCHEMES = ("alone", "equal", "gradnorm")


@dataclass(frozen=True)
class Row:
    """One task in one training.

    Args:
        scheme: 'alone', or together with 'equal' weights or the weights of 'gradnorm'; task: the data set's name.
        texts: number of training texts; steps: training steps of this task.
        accuracy, score, loss: as in the study `boundary`, after the last step of all tasks.
        weight: weight of its loss at the end; mean_weight: mean over the rounds of GradNorm.
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


def measure(run: Run, seed: int, tick: Tick) -> Iterator[Row]:
    """Train every task alone, then all together, with equal weights and with GradNorm's."""
    from models.vq.training.tasks import TaskTraining, fit

    workload = boundary.vq(run)
    own = dict(zip(workload.tasks.names, workload.tasks.worlds, strict=True))
    data = {name: boundary.read(worlds, seed) for name, worlds in own.items()}
    for scheme in SCHEMES:
        for names in [[name] for name in own] if scheme == "alone" else [list(own)]:
            splits = {name: boundary.model(workload, own[name], seed) for name in names}
            for split in splits.values():
                split.cloud = splits[names[0]].cloud
            learn = [TaskTraining(split, *data[name][:2]) for name, split in splits.items()]
            losses, weights = fit(learn, seed, scheme == "gradnorm", partial(tick, f"{scheme}, step"))
            for t, (name, split) in enumerate(splits.items()):
                _, _, test, answers, _ = data[name]
                right, score = boundary.scorer_of(own[name], seed, test, answers)(split.predict(test))
                w = weights[:, t]
                yield Row(
                    scheme, name, len(learn[t].tokens), learn[t].steps, right, score, losses[t][-1], float(w[-1]),
                    float(w.mean()),
                )  # fmt: skip


def check(run: Run, seed: int) -> None:
    """Raise SettingsError or DataError for an impossible setting before anything is trained."""
    workload = boundary.vq(run)
    if not workload.tasks.names:
        raise SettingsError("vq.tasks = '': name two or more different text sets, e.g. 'cola,mrpc'")
    for worlds in workload.tasks.worlds:
        boundary.model(workload, worlds, seed)
        boundary.read(worlds, seed)


def changes(rows: pd.DataFrame) -> pd.DataFrame:
    """Add ``change`` to rows of shared trainings: score minus that of the task alone, of the same setting and seed."""
    keys = ["setting", "seed", "task"]
    alone = rows[rows["scheme"] == "alone"].set_index(keys)["score"].rename("alone")
    found = rows[rows["scheme"] != "alone"].join(alone, on=keys)
    return found.assign(change=found["score"] - found["alone"])


def metrics(rows: pd.DataFrame) -> Measured:
    """Compute metrics by task and scheme, and the means of score and change over tasks."""
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
