"""When a run gets somewhere: back to where it was after a shift, and up to a target accuracy.

Both read accuracy where devices were scored, so they are as fine as ``eval-every``; recovery wants every round scored.
"""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pandas as pd

from partitions import Schedule

TARGET = 0.95  # of the accuracy that sets the target

Targets = Mapping[tuple[str, str, int], float]  # {(setting, method, seed): accuracy}


def targets(rounds: pd.DataFrame, sweep: bool = False) -> Targets:
    """The accuracy that each run is timed to, from the accuracies at the end.

    Args:
        rounds: rows of complete runs.
        sweep: False: `TARGET` of the best method of the setting (mean over seeds), the same for all its runs. True:
            settings are points of a sweep ('group key=value') and a method is compared with itself: the lowest accuracy
            that it ends with in its group and seed, which all points reach.
    """
    scored = rounds[rounds["evaluated"] > 0].sort_values("round")
    final = scored.groupby(["setting", "method", "seed"], sort=False)["accuracy_mean"].last().reset_index()
    if sweep:
        groups = [final["setting"].map(group_of), "method", "seed"]
        final["aim"] = final.groupby(groups)["accuracy_mean"].transform("min")
    else:
        mean = final.groupby(["setting", "method"])["accuracy_mean"].mean()
        final["aim"] = TARGET * final["setting"].map(mean.groupby(level="setting").max())
    return {(run.setting, run.method, run.seed): float(run.aim) for run in final.itertuples()}


def group_of(setting: str) -> str:
    """'cifar10 cohort=20' -> 'cifar10'; the group of 'cohort=20' is ''."""
    return setting.rpartition(" ")[0]


def point_of(setting: str) -> float:
    """'cifar10 cohort=20' -> 20.0, NaN where the name ends otherwise."""
    try:
        return float(setting.rpartition("=")[2])
    except ValueError:
        return math.nan


def reach(run: pd.DataFrame, target: float, after_shift: bool = False) -> dict[str, float]:
    """What a run (rows of one setting, method and seed, by round) spends until its accuracy is ``target``; NaN: never.

    MB are those of all devices' rounds so far; what brings a model to a device only to score it is not among them.

    Args:
        after_shift: everything is counted from the last shift on.
    """
    drifted = shifts(run)
    began = run[drifted < drifted.max()] if after_shift else run.iloc[:0]
    since = run.iloc[len(began) :]
    hits = since[(since["evaluated"] > 0) & (since["accuracy_mean"] >= target)]
    if hits.empty:
        return dict.fromkeys(("rounds_to_target", "min_to_target", "mb_to_target"), math.nan)
    first = hits.iloc[0]
    spent = since[since["round"] <= first["round"]]
    start_s = began["virtual_s"].iloc[-1] if len(began) else 0.0
    return {
        "rounds_to_target": float(len(spent)),
        "min_to_target": float(first["virtual_s"] - start_s) / 60,
        "mb_to_target": float((spent["bytes_up"] + spent["bytes_down"]).sum()) / 1e6,
    }


def with_shifts(rounds: pd.DataFrame, settings: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """The rows with how often the data had drifted by then, ``shifts``, as the schedules in ``settings`` have it.

    Of a setting that is not there, at every step.
    """
    schedules = {name: Schedule(settings.get(name, {}).get("schedule", "every")) for name in rounds["setting"].unique()}
    counts = [schedules[name].count(step) for name, step in zip(rounds["setting"], rounds["step"], strict=True)]
    return rounds.assign(shifts=counts)


def shifts(rounds: pd.DataFrame) -> pd.Series:
    """How often the data had drifted, by row; at every step where `with_shifts` was not told otherwise."""
    return rounds["shifts"] if "shifts" in rounds else rounds["step"]


def recovery(run: pd.DataFrame) -> dict[str, float]:
    """How deep shifts cut and how fast a run is back at the accuracy before them, means over its shifts.

    A shift after which the step ends too early counts with the whole step, a lower bound; ``recovered`` says how often
    it did not. All NaN without a shift, or where not every round was scored.
    """
    names = ("shift_drop", "recovery_rounds", "recovery_s", "recovered")
    steps = [step for _, step in run.groupby(shifts(run), sort=True)]
    if len(steps) < 2 or not (run["evaluated"] > 0).all():
        return dict.fromkeys(names, math.nan)
    found = []
    for old, new in pairwise(steps):
        before = old.iloc[-1]
        back = new[new["accuracy_mean"] >= before["accuracy_mean"]]
        at = back.iloc[0] if len(back) else new.iloc[-1]
        found.append(
            (
                before["accuracy_mean"] - new["accuracy_mean"].iloc[0],
                at["round"] - before["round"],
                at["virtual_s"] - before["virtual_s"],
                float(len(back) > 0),
            )
        )
    return {name: float(sum(values)) / len(found) for name, values in zip(names, zip(*found, strict=True), strict=True)}
