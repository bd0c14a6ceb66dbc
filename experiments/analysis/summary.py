"""Compute ``summary.csv`` from ``rounds.csv``: mean and spread over seeds of each metric, setting and method.

Each run (setting, method, seed) first gives one number per metric. Accuracy is that of the last scored round of a step,
averaged over the steps, and never that of the best round, because a deployed system could not select it. Runs that
stopped early or have no score are left out.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from experiments.analysis.metrics import CUT_METRICS, ROUND_METRICS
from experiments.analysis.rounds_to_target import after_shifts, cost_to_target, recovery, target_accuracies
from fl.results.files import atomic_write, csv_text
from fl.results.rows import CUT

COLUMNS = ("experiment", "setting", "method", "metric", "value", "std", "ci95", "seeds", "paper_value")
DISAGREEMENT = ("divergence", "module_divergence", "variance", "module_variance", "load_cv")
RUN = ("setting", "method", "seed")
SCORES = ("accuracy_mean", "accuracy_std", "accuracy_p10", "balanced_accuracy_mean", "global_accuracy")

Line = tuple[str | float, ...]  # cells of `COLUMNS`
Paper = Mapping[tuple[str, str], Mapping[str, float]]  # {(setting, method): {metric: value}}


def in_order(rounds: pd.DataFrame, settings: Iterable[str], methods: Iterable[str]) -> pd.DataFrame:
    """Sort the rows into the given order of settings and methods; names that are not in it come last, unsorted."""
    known = {"setting": settings, "method": methods}
    places = {
        column: {name: at for at, name in enumerate(dict.fromkeys([*names, *rounds[column].unique()]))}
        for column, names in known.items()
    }
    return rounds.sort_values(
        ["setting", "method"], key=lambda column: column.map(places[column.name]), kind="stable", ignore_index=True
    )


def summarize(
    rounds: pd.DataFrame, paper: Paper | None = None, sweep: bool = False, measures: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Summarize the rows of ``rounds.csv``, with settings and methods in the order of their first row.

    Args:
        measures: rows of ``measures.csv``, for packed token ids, and for what crosses the cut of a split model if
            ``rounds.csv`` is of a version without these columns; None: there are none.
        sweep: passed to `experiments.analysis.rounds_to_target.target_accuracies`; if True, the cost counts from the
            last shift.

    Returns:
        One line per setting, method and metric: ``value`` (mean over seeds), ``std`` (over seeds), ``ci95`` (half the
        width of the 95 % t-interval of the mean), ``seeds``, and ``paper_value`` (NaN if the paper has none). For one
        seed ``std`` and ``ci95`` are NaN. There is no line for a metric that the method does not have.
    """
    rounds = complete(rounds)
    targets, crossed = target_accuracies(rounds, sweep), _crossed(measures)
    lines: list[Line] = []
    for (experiment, setting, method), of_method in rounds.groupby(["experiment", "setting", "method"], sort=False):
        runs = [
            crossed.get((setting, method, seed), {})
            | metrics(run, targets.get((setting, method, seed), math.nan), sweep)
            | {name: float(run[name].mean()) for name in CUT if name in run and run[name].notna().any()}
            for seed, run in of_method.groupby("seed")
        ]
        lines += spread_lines((experiment, setting, method), runs, (*ROUND_METRICS, *CUT_METRICS), paper)
    return pd.DataFrame(lines, columns=list(COLUMNS))


def _crossed(measures: pd.DataFrame | None) -> dict[tuple[str, str, int], dict[str, float]]:
    """Return the bytes across the cut of each run (setting, method, seed), mean over its rounds."""
    found: dict[tuple[str, str, int], dict[str, float]] = {}
    if measures is not None:
        of_cut = measures[measures["measure"].isin(CUT_METRICS)]
        means = of_cut.groupby(["setting", "method", "seed", "measure"], sort=False)["value"].mean()
        for (setting, method, seed, name), value in means.items():
            found.setdefault((setting, method, int(seed)), {})[name] = float(value)
    return found


def spread_lines(
    who: tuple[str, str, str], runs: Sequence[Mapping[str, float]], names: Iterable[str], paper: Paper | None
) -> list[Line]:
    """Return the lines of one (experiment, setting, method): mean and spread over ``runs`` (one per seed)."""
    known = (paper or {}).get(who[1:], {})
    lines: list[Line] = []
    for name in names:
        values = [run[name] for run in runs if not math.isnan(run.get(name, math.nan))]
        if values:
            lines.append((*who, name, *_spread(values), len(values), known.get(name, math.nan)))
    return lines


def metrics(run: pd.DataFrame, target: float = math.nan, after_shift: bool = False) -> dict[str, float]:
    """Compute all metrics of one run (rows of one setting, method and seed); NaN for a metric that it does not have.

    Args:
        target, after_shift: passed to `experiments.analysis.rounds_to_target.cost_to_target`.
    """
    run = run.sort_values("round")
    ends = run[run["evaluated"] > 0].groupby("step").tail(1)
    device_rounds = run["devices"].sum() or math.nan  # NaN for a method without rounds on devices
    up_mb, down_mb = run["bytes_up"].sum() / 1e6, run["bytes_down"].sum() / 1e6
    last = ends.iloc[-1] if len(ends) else dict.fromkeys(SCORES, math.nan)
    return {
        **{name: float(ends[name].mean()) for name in (*SCORES, "loss", "encounter_accuracy")},
        **{f"final_{name}": float(last[name]) for name in SCORES},
        "up_mb_per_round": up_mb / len(run),
        "down_mb_per_round": down_mb / len(run),
        "up_mb_total": up_mb,
        "down_mb_total": down_mb,
        "mb_per_device_round": (up_mb + down_mb) / device_rounds,
        "deliver_mb": float(ends["deliver_bytes"].mean()) / 1e6,
        "asked": float(ends["asked"].mean()),
        **{name: float(ends[name].mean()) for name in ("adapt_s", "forgetting")},
        **{name: float(run[name].mean()) for name in DISAGREEMENT},
        "virtual_min": float(run["virtual_s"].max()) / 60,
        "gmac_per_device_round": run["train_macs"].sum() / 1e9 / device_rounds,
        "memory_mb": run["memory_bytes"].max() / 1e6,
        "accuracy_after_shift": after_shifts(run),
        **recovery(run),
        **cost_to_target(run, target, after_shift),
        "failures": float(run["failures"].sum()),
        **{name: float(run[name].sum()) for name in ("refused", "withheld", "late")},
    }


def complete(rounds: pd.DataFrame) -> pd.DataFrame:
    """Drop the rows of unfinished runs, whose averages would be over fewer steps, and of runs without any score."""
    dropped = {*unfinished(rounds), *unserved(rounds)}
    runs = zip(rounds["setting"], rounds["method"], rounds["seed"], strict=True)
    return rounds[np.array([run not in dropped for run in runs], dtype=bool)]


def unfinished(rounds: pd.DataFrame) -> list[tuple[str, str, int]]:
    """Return the runs (setting, method, seed) whose last evaluation is before that of other runs of the setting."""
    evaluated = (rounds["evaluated"] > 0) | (rounds["unserved"] > 0)
    last = rounds["round"].where(evaluated, -1).groupby([rounds[name] for name in RUN], sort=False).max()
    longest = last.groupby(level="setting").transform("max")
    return [(setting, method, int(seed)) for setting, method, seed in last.index[last < longest]]


def unserved(rounds: pd.DataFrame) -> list[tuple[str, str, int]]:
    """Return the runs in which no device ever had a model within its limits, so that there is no score."""
    most = rounds.groupby(list(RUN), sort=False)[["evaluated", "unserved"]].max()
    none = most.index[(most["evaluated"] == 0) & (most["unserved"] > 0)]
    return [(setting, method, int(seed)) for setting, method, seed in none]


def gaps(rounds: pd.DataFrame) -> list[str]:
    """Describe missing data, one sentence each: unfinished runs, and devices that did not answer or got no model."""
    found = []
    for what, runs in (
        ("unfinished runs", unfinished(rounds)),
        ("runs in which no device has a model within its limits", unserved(rounds)),
    ):
        if runs:
            names = [f"{setting} {method} seed {seed}" for setting, method, seed in runs]
            found.append(f"{what}, left out: {', '.join(names)}")
    scored = rounds["evaluated"].where(rounds["evaluated"] > 0)
    due = (scored + rounds["unserved"]).groupby(rounds["setting"]).transform("max")
    for what, number in (
        ("that did not answer in training", rounds["failures"]),
        ("that did not answer in scoring", due - scored - rounds["unserved"]),
        ("without a model within their limits, not scored", rounds["unserved"]),
    ):
        failed = number.groupby([rounds["setting"], rounds["method"]], sort=False).sum()
        if few := [f"{setting} {method} {n:.0f}" for (setting, method), n in failed[failed > 0].items()]:
            found.append(f"devices {what}: {', '.join(few)}")
    return found


def write_summary(out: Path, summary: pd.DataFrame) -> None:
    """Write ``summary.csv`` to a results folder, atomically."""
    atomic_write(out / "summary.csv", csv_text([COLUMNS, *summary.itertuples(index=False, name=None)]))


def intervals(groups: Any) -> pd.Series:
    """Return half the width of the 95 % t-interval of the mean of each group of a grouped series; 0 for one value."""
    count = groups.count()
    return (groups.std() / count**0.5 * stdtrit((count - 1).clip(lower=1), 0.975)).fillna(0.0)


def _spread(values: list[float]) -> tuple[float, float, float]:
    """Return mean, standard deviation and half the width of the 95 % t-interval of the mean."""
    mean, n = float(np.mean(values)), len(values)
    if n == 1:
        return mean, math.nan, math.nan
    std = float(np.std(values, ddof=1))
    return mean, std, float(stdtrit(n - 1, 0.975)) * std / math.sqrt(n)
