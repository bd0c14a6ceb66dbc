"""From ``rounds.csv`` alone to ``summary.csv``: one line per setting, method and metric, with its spread over seeds.

A run (setting, method, seed) is first boiled down to one number per metric. Accuracies are read where a step ends, at
the last round of the step that was scored, and averaged over the steps; never at the best round, which nobody could
have picked at the time. Runs that were cut short are left out.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from experiments.milestones import reach, recovery, targets
from fl.results.files import atomic_write, csv_text

METRICS: dict[str, str] = {
    "accuracy_mean": "accuracy of a device on its own current distribution, mean over devices and steps, 0 to 1",
    "accuracy_std": "its standard deviation over devices, mean over steps",
    "accuracy_p10": "its 10th percentile over devices, mean over steps",
    "balanced_accuracy_mean": "mean recall of the classes that a device has, mean over devices and steps, 0 to 1",
    "loss": "cross-entropy of a device on its own current distribution, mean over devices and steps, nats",
    "global_accuracy": "accuracy on the global test set, mean over steps, 0 to 1",
    "final_accuracy_mean": "accuracy_mean at the end of the last step",
    "final_accuracy_std": "accuracy_std at the end of the last step",
    "final_accuracy_p10": "accuracy_p10 at the end of the last step",
    "final_balanced_accuracy_mean": "balanced_accuracy_mean at the end of the last step",
    "final_global_accuracy": "global_accuracy at the end of the last step",
    "up_mb_per_round": "sent by the devices of a round, all together, MB (1e6 bytes), mean over rounds",
    "down_mb_per_round": "sent to the devices of a round, all together, MB, mean over rounds",
    "up_mb_total": "sent by devices in the whole run, MB",
    "down_mb_total": "sent to devices in the whole run, MB",
    "mb_per_device_round": "sent up and down for one device that takes part in one round, MB",
    "deliver_mb": "what brings the scored model to one device, MB, mean over devices and steps",
    "asked": "devices that the cloud sent a model for use at the end of a step, mean over steps",
    "adapt_s": "virtual seconds of a device in a step for the scored model, mean over devices and steps",
    "forgetting": "accuracy that a device lost on its data of the step before, mean over devices and steps",
    "divergence": "how far the updates of a round disagree (0 alike, 1 unrelated, 2 opposed), mean over rounds",
    "module_divergence": "the same over the blocks that can be cut into modules",
    "load_cv": "coefficient of variation of how many devices of a round trained a module, mean over rounds",
    "virtual_min": "virtual minutes of the whole run",
    "gmac_per_device_round": "multiply-accumulates of one device's local training in one round, 1e9",
    "memory_mb": "largest training memory of any device in the run, MB",
    "shift_drop": "accuracy lost at a shift, mean over shifts",
    "recovery_rounds": "rounds until the accuracy before a shift is back, mean over shifts; a lower bound if it is not",
    "recovery_s": "the same in virtual seconds",
    "recovered": "share of the shifts after which it came back within the step",
    "rounds_to_target": "rounds until the target of `experiments.milestones.targets`; in a sweep since the last shift",
    "min_to_target": "the same in virtual minutes",
    "mb_to_target": "the same in MB, up and down, all devices together",
    "failures": "devices that gave no usable answer, in the whole run",
    "refused": "updates refused, in the whole run",
    "withheld": "updates that changed too little to be uploaded, in the whole run",
    "late": "updates that came late, in the whole run",
}
COLUMNS = ("experiment", "setting", "method", "metric", "value", "std", "ci95", "seeds", "paper_value")
SCORES = ("accuracy_mean", "accuracy_std", "accuracy_p10", "balanced_accuracy_mean", "global_accuracy")

Line = tuple[str | float, ...]  # cells of `COLUMNS`
Paper = Mapping[tuple[str, str], Mapping[str, float]]  # {(setting, method): {metric: value}}


def in_order(rounds: pd.DataFrame, settings: Iterable[str], methods: Iterable[str]) -> pd.DataFrame:
    """The rows by setting and method as these have them: some may have been added later. Others last, as they came."""
    known = {"setting": settings, "method": methods}
    places = {
        column: {name: at for at, name in enumerate(dict.fromkeys([*names, *rounds[column].unique()]))}
        for column, names in known.items()
    }
    return rounds.sort_values(
        ["setting", "method"], key=lambda column: column.map(places[column.name]), kind="stable", ignore_index=True
    )


def summarize(rounds: pd.DataFrame, paper: Paper | None = None, sweep: bool = False) -> pd.DataFrame:
    """The summary of the rows of ``rounds.csv``; settings and methods in the order of their first row.

    Args:
        sweep: how targets are set, see `experiments.milestones.targets`, and that they count from the last shift on.

    Returns:
        One line per setting, method and metric: ``value`` (mean over seeds), ``std`` (over seeds) and ``ci95`` (half
        the width of the 95 % t-interval of the mean), both NaN for one seed, ``seeds`` and ``paper_value`` (NaN where
        the paper has none). A metric that a method does not have, has no line.
    """
    rounds = complete(rounds)
    aims = targets(rounds, sweep)
    lines: list[Line] = []
    for (experiment, setting, method), of_method in rounds.groupby(["experiment", "setting", "method"], sort=False):
        runs = [
            metrics(run, aims.get((setting, method, seed), math.nan), sweep) for seed, run in of_method.groupby("seed")
        ]
        lines += spread_lines((experiment, setting, method), runs, METRICS, paper)
    return pd.DataFrame(lines, columns=list(COLUMNS))


def spread_lines(
    who: tuple[str, str, str], runs: Sequence[Mapping[str, float]], names: Iterable[str], paper: Paper | None
) -> list[Line]:
    """The lines of one experiment, setting and method: for each metric the spread over runs, one for each seed."""
    known = (paper or {}).get(who[1:], {})
    lines: list[Line] = []
    for name in names:
        values = [run[name] for run in runs if not math.isnan(run.get(name, math.nan))]
        if values:
            lines.append((*who, name, *_spread(values), len(values), known.get(name, math.nan)))
    return lines


def metrics(run: pd.DataFrame, target: float = math.nan, after_shift: bool = False) -> dict[str, float]:
    """Every metric of one run (rows of one setting, method and seed); NaN where the run has none.

    Args:
        target, after_shift: as in `experiments.milestones.reach`.
    """
    run = run.sort_values("round")
    ends = run[run["evaluated"] > 0].groupby("step").tail(1)
    device_rounds = run["devices"].sum() or math.nan  # a method without traffic has no device-rounds to divide by
    up_mb, down_mb = run["bytes_up"].sum() / 1e6, run["bytes_down"].sum() / 1e6
    last = ends.iloc[-1] if len(ends) else dict.fromkeys(SCORES, math.nan)
    return {
        **{name: float(ends[name].mean()) for name in (*SCORES, "loss")},
        **{f"final_{name}": float(last[name]) for name in SCORES},
        "up_mb_per_round": up_mb / len(run),
        "down_mb_per_round": down_mb / len(run),
        "up_mb_total": up_mb,
        "down_mb_total": down_mb,
        "mb_per_device_round": (up_mb + down_mb) / device_rounds,
        "deliver_mb": float(ends["deliver_bytes"].mean()) / 1e6,
        "asked": float(ends["asked"].mean()),
        **{name: float(ends[name].mean()) for name in ("adapt_s", "forgetting")},
        **{name: float(run[name].mean()) for name in ("divergence", "module_divergence", "load_cv")},
        "virtual_min": float(run["virtual_s"].max()) / 60,
        "gmac_per_device_round": run["train_macs"].sum() / 1e9 / device_rounds,
        "memory_mb": run["memory_bytes"].max() / 1e6,
        **recovery(run),
        **reach(run, target, after_shift),
        "failures": float(run["failures"].sum()),
        **{name: float(run[name].sum()) for name in ("refused", "withheld", "late")},
    }


def complete(rounds: pd.DataFrame) -> pd.DataFrame:
    """The rows of the runs that were scored as long as the others of their setting: a run cut short saw fewer steps."""
    cut = set(unfinished(rounds))
    runs = zip(rounds["setting"], rounds["method"], rounds["seed"], strict=True)
    return rounds[np.array([run not in cut for run in runs], dtype=bool)]


def unfinished(rounds: pd.DataFrame) -> list[tuple[str, str, int]]:
    """Runs (setting, method, seed) whose last scored round or step comes before that of the setting's others."""
    run = ["setting", "method", "seed"]
    last = (
        rounds.assign(scored=rounds["round"].where(rounds["evaluated"] > 0, -1))
        .groupby(run, sort=False)["scored"]
        .max()
    )
    longest = last.groupby(level="setting").transform("max")
    return [(setting, method, int(seed)) for setting, method, seed in last.index[last < longest]]


def gaps(rounds: pd.DataFrame) -> list[str]:
    """What the rows lack, in sentences: runs that are cut short, and devices that did not answer."""
    found = []
    if cut := [f"{setting} {method} seed {seed}" for setting, method, seed in unfinished(rounds)]:
        found.append(f"cut short, and so left out: {', '.join(cut)}")
    scored = rounds["evaluated"].where(rounds["evaluated"] > 0)
    unscored = scored.groupby(rounds["setting"]).transform("max") - scored
    for what, number in (("trained", rounds["failures"]), ("scored", unscored)):
        failed = number.groupby([rounds["setting"], rounds["method"]], sort=False).sum()
        if few := [f"{setting} {method} {n:.0f}" for (setting, method), n in failed[failed > 0].items()]:
            found.append(f"devices that should have been {what} and did not answer: {', '.join(few)}")
    return found


def write_summary(out: Path, summary: pd.DataFrame) -> None:
    """Write ``summary.csv`` of a results folder, whole or not at all."""
    atomic_write(out / "summary.csv", csv_text([COLUMNS, *summary.itertuples(index=False, name=None)]))


def _spread(values: list[float]) -> tuple[float, float, float]:
    """Mean, standard deviation and half the width of the 95 % t-interval of the mean."""
    mean, n = float(np.mean(values)), len(values)
    if n == 1:
        return mean, math.nan, math.nan
    std = float(np.std(values, ddof=1))
    return mean, std, float(stdtrit(n - 1, 0.975)) * std / math.sqrt(n)
