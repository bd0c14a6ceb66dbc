"""Rounds, time and traffic that a run needs to reach a target accuracy, and to recover after a shift.

Accuracy is known only in scored rounds, so both are as exact as ``eval-every``. Recovery needs every round scored.
"""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pandas as pd

from experiments.catalog.tasks import PAPER_METHODS
from partitions.schedule import TABLE, Schedule

TARGET = 0.95  # share of the best method's final accuracy

Targets = Mapping[tuple[str, str, int], float]  # {(setting, method, seed): accuracy}


def target_accuracies(rounds: pd.DataFrame, sweep: bool = False) -> Targets:
    """Compute the target accuracy of each run from final accuracies.

    Args:
        rounds: rows of complete runs.
        sweep: False: the target of a setting is `TARGET` times the final accuracy (mean over seeds) of the best of
            `PAPER_METHODS` that is scored whenever the setting is; without one, of the best method.
            True: settings are points of a sweep ('group key=value'). The target of a method in a group and seed is its
            lowest final accuracy there, which it reaches at every point.
    """
    scored = rounds[rounds["evaluated"] > 0].sort_values("round")
    final = scored.groupby(["setting", "method", "seed"], sort=False)["accuracy_mean"].last().reset_index()
    if sweep:
        groups = [final["setting"].map(sweep_group), "method", "seed"]
        final["target"] = final.groupby(groups)["accuracy_mean"].transform("min")
    else:
        of_method = scored.groupby(["setting", "method"])
        mean, times = final.groupby(["setting", "method"])["accuracy_mean"].mean(), of_method["round"].nunique()
        always = times == times.groupby(level="setting").transform("max")
        of_paper = mean[mean.index.get_level_values("method").isin(PAPER_METHODS) & always]
        best = of_paper.groupby(level="setting").max().combine_first(mean.groupby(level="setting").max())
        final["target"] = TARGET * final["setting"].map(best).astype(float)  # text without rows stays text with pyarrow
    return {(run.setting, run.method, run.seed): float(run.target) for run in final.itertuples()}


def sweep_group(setting: str) -> str:
    """'cifar10 cohort=20' -> 'cifar10'; 'cohort=20' -> ''."""
    return setting.rpartition(" ")[0]


def sweep_value(setting: str) -> float:
    """'cifar10 cohort=20' -> 20.0; NaN if the name does not end in a number."""
    try:
        return float(setting.rpartition("=")[2])
    except ValueError:
        return math.nan


def cost_to_target(run: pd.DataFrame, target: float, after_shift: bool = False) -> dict[str, float]:
    """Compute rounds, virtual minutes and MB until a run reaches ``target``; NaN if it does not.

    MB are those of all devices in these rounds, without the delivery of models for scoring only.

    Args:
        run: rows of one setting, method and seed, by round.
        after_shift: count from the last shift on.
    """
    shifts = shift_counts(run)
    before = run[shifts < shifts.max()] if after_shift else run.iloc[:0]
    after = run.iloc[len(before) :]
    hits = after[(after["evaluated"] > 0) & (after["accuracy_mean"] >= target)]
    if hits.empty:
        return dict.fromkeys(("rounds_to_target", "min_to_target", "mb_to_target"), math.nan)
    first = hits.iloc[0]
    spent = after[after["round"] <= first["round"]]
    start_s = before["virtual_s"].iloc[-1] if len(before) else 0.0
    return {
        "rounds_to_target": float(len(spent)),
        "min_to_target": float(first["virtual_s"] - start_s) / 60,
        "mb_to_target": float((spent["bytes_up"] + spent["bytes_down"]).sum()) / 1e6,
    }


def with_shifts(rounds: pd.DataFrame, settings: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Add the column ``shifts``: how often the data have drifted by then, from the schedules in ``settings``.

    For a setting that is not in ``settings``, or whose devices drift at different steps, every step counts; if nothing
    drifts (``drift.kind = "none"``), none does.
    """
    drifts = {name: settings.get(name, {}).get("drift", {}) for name in rounds["setting"].unique()}
    texts = {name: _schedule(drift) for name, drift in drifts.items()}
    apart = {name for name, text in texts.items() if text.startswith(f"{TABLE}:") or drifts[name].get("stagger")}
    schedules = {name: Schedule("every" if name in apart else text) for name, text in texts.items()}
    counts = [schedules[name].count(step) for name, step in zip(rounds["setting"], rounds["step"], strict=True)]
    return rounds.assign(shifts=counts)


def _schedule(drift: Mapping[str, Any]) -> str:
    return "never" if drift.get("kind") == "none" else str(drift.get("schedule", "every"))


def shift_counts(rounds: pd.DataFrame) -> pd.Series:
    """Return how often the data have drifted, by row: at every step, unless `with_shifts` added another count."""
    return rounds["shifts"] if "shifts" in rounds else rounds["step"]


def after_shifts(run: pd.DataFrame) -> float:
    """Return the accuracy after shifts: mean over the scored rounds up to the next shift, then over shifts."""
    scored = run[(run["evaluated"] > 0) & (shift_counts(run) > 0)]
    return float(scored["accuracy_mean"].groupby(shift_counts(scored)).mean().mean())


def recovery(run: pd.DataFrame) -> dict[str, float]:
    """Compute the loss of accuracy at shifts and the time to regain it, means over the shifts of a run.

    If a run does not recover before the next shift, all rounds until then count, as a lower bound; ``recovered`` is the
    share of the shifts without this case. All values are NaN without a shift, or if a round was not scored.
    """
    names = ("shift_drop", "recovery_rounds", "recovery_s", "recovered")
    steps = [step for _, step in run.groupby(shift_counts(run), sort=True)]
    if len(steps) < 2 or not (run["evaluated"] > 0).all():
        return dict.fromkeys(names, math.nan)
    found = []
    for old, new in pairwise(steps):
        before = old.iloc[-1]
        regained = new[new["accuracy_mean"] >= before["accuracy_mean"]]
        end = regained.iloc[0] if len(regained) else new.iloc[-1]
        found.append(
            (
                before["accuracy_mean"] - new["accuracy_mean"].iloc[0],
                end["round"] - before["round"],
                end["virtual_s"] - before["virtual_s"],
                float(len(regained) > 0),
            )
        )
    return {name: float(sum(values)) / len(found) for name, values in zip(names, zip(*found, strict=True), strict=True)}
