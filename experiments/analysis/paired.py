"""Differences between methods, paired by seed, with 95 % t-intervals; the two averages of the ECLM paper."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from experiments.analysis.metrics import METRICS
from experiments.analysis.summary import COLUMNS, Line, Paper, complete
from experiments.catalog.experiment import Margins

MEAN = "mean"  # of the settings, in the place of a setting


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Args:
        mean: NaN without a seed.
        error: standard error of the mean; NaN with one seed.
        freedom: degrees of freedom of the error.
        seeds: how many seeds there are.
    """

    mean: float
    error: float = math.nan
    freedom: float = 0.0
    seeds: int = 0

    @classmethod
    def of(cls, values: Iterable[float]) -> "Estimate":
        """Estimate the mean of one value per seed."""
        found = np.array(list(values), float)
        found = found[~np.isnan(found)]
        if not len(found):
            return cls(math.nan)
        error = float(found.std(ddof=1)) / math.sqrt(len(found)) if len(found) > 1 else math.nan
        return cls(float(found.mean()), error, len(found) - 1, len(found))

    @property
    def half(self) -> float:
        """Half the width of the 95 % interval; NaN with one seed."""
        return float(stdtrit(self.freedom, 0.975)) * self.error if self.freedom else math.nan


def pooled(estimates: Sequence[Estimate]) -> Estimate:
    """Return the mean of the means of independent settings, with Welch's degrees of freedom.

    Each setting counts once, whatever its number of seeds. The interval is that of other seeds in the same settings.
    """
    if not estimates:
        return Estimate(math.nan)
    parts = np.array([(e.error / len(estimates)) ** 2 for e in estimates])
    total, mean = float(parts.sum()), float(np.mean([e.mean for e in estimates]))
    freedom = sum(part**2 / max(1, e.freedom) for part, e in zip(parts, estimates, strict=True))
    return Estimate(mean, math.sqrt(total), total**2 / freedom if freedom else 0, min(e.seeds for e in estimates))


def of_runs(rounds: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each complete run: accuracy_mean and adapt_s as in ``summary.csv``, and those of both ends.

    Accuracy and time are means over the ends of steps, accuracy_first and accuracy_last are those of one step.
    """
    run = ["experiment", "setting", "method", "seed"]
    scored = complete(rounds).query("evaluated > 0").sort_values("round", kind="stable")
    ends = scored.groupby([*run, "step"], sort=False)[["accuracy_mean", "adapt_s"]].last().groupby(run, sort=False)
    accuracy = ends["accuracy_mean"]
    return ends.mean().assign(accuracy_first=accuracy.first(), accuracy_last=accuracy.last()).reset_index()


def above(runs: pd.DataFrame, setting: str, method: str, rivals: Sequence[str], metric: str) -> Estimate:
    """Estimate by how much a method exceeds the mean of its rivals with the same seed.

    Args:
        runs: result of `of_runs`.
    """
    of = runs[runs["setting"] == setting].pivot(index="seed", columns="method", values=metric)
    if not {method, *rivals} <= set(of):
        return Estimate(math.nan)
    return Estimate.of(of[method] - of[list(rivals)].mean(axis=1, skipna=False))


def margins_of(margins: Margins, runs: pd.DataFrame, paper: Paper) -> pd.DataFrame:
    """Return lines of ``summary.csv``: for each setting, and for the mean of the settings that the paper has."""
    settings, lines = list(dict.fromkeys(runs["setting"])), list[Line]()
    experiment = str(runs["experiment"].iloc[0]) if len(runs) else ""

    def add(setting: str, method: str, metric: str, of: Estimate, paper_value: float) -> None:
        if of.seeds:
            std = of.error * math.sqrt(of.seeds) if setting != MEAN else math.nan
            lines.append((experiment, setting, method, metric, of.mean, std, of.half, of.seeds, paper_value))

    for method in margins.methods:
        for metric, rivals in margins.rivals.items():
            found = {s: above(runs, s, method, rivals, "accuracy_mean") for s in settings}
            for setting, of in found.items():
                known = [paper.get((setting, m), {}).get("accuracy_mean", math.nan) for m in (method, *rivals)]
                add(setting, method, metric, of, known[0] - float(np.mean(known[1:])))
            rows = [of for setting, of in found.items() if of.seeds and setting not in margins.beyond]
            of_paper = margins.paper.get(metric, math.nan) if method == "eclm" else math.nan
            if len(rows) > 1:
                add(MEAN, method, metric, pooled(rows), of_paper)
    return pd.DataFrame(lines, columns=list(COLUMNS))


def margins_markdown(margins: pd.DataFrame, beyond: Sequence[str] = ()) -> str:
    """Return the section of a page of tables that shows margins, given the settings that the mean leaves out."""
    left_out = f", but not of {', '.join(beyond)}, which the paper does not have" if beyond else ""
    caption = (
        "Differences of accuracy with the same seed, in points; ±: 95 % t-interval. "
        f"Mean: of all settings{left_out}. Its interval is that of other seeds in the same settings."
    )
    return f"## Above the mean of two rivals\n\n{margins_tables(margins)}\n\n{caption}\n"


def margins_tables(margins: pd.DataFrame) -> str:
    """Return a table of margins for each method, with a row for each setting."""
    tables = []
    for method, of_method in margins.groupby("method", sort=False):
        metrics = list(dict.fromkeys(of_method["metric"]))
        told = [metric for metric in metrics if of_method[of_method["metric"] == metric]["paper_value"].notna().any()]
        heads = [*(METRICS[m].label for m in metrics), *(f"paper's {METRICS[m].label}" for m in told)]
        rows = [f"| {method} | " + " | ".join(heads) + " |", "|:--|" + "--:|" * len(heads)]
        for setting, lines in of_method.groupby("setting", sort=False):
            line = lines.set_index("metric")
            cells = [points(line["value"].get(m, math.nan), line["ci95"].get(m, math.nan)) for m in metrics]
            cells += [points(line["paper_value"].get(m, math.nan)) for m in told]
            rows.append(f"| {setting} | " + " | ".join(cells) + " |")
        tables.append("\n".join(rows))
    return "\n\n".join(tables)


def points(value: float, half: float = math.nan) -> str:
    """Format a difference of shares in points: '+1.2 ± 0.3'."""
    if math.isnan(value):
        return "-"
    return f"{100 * value:+.1f}" + ("" if math.isnan(half) else f" ± {100 * half:.1f}")
