"""Is a difference between methods more than chance? Paired tests over seeds, and mean ranks over settings.

Demšar, "Statistical Comparisons of Classifiers over Multiple Data Sets", JMLR 2006.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import stdtr
from scipy.stats import friedmanchisquare, studentized_range
from statsmodels.stats.multitest import multipletests

from experiments.analysis.metrics import METRICS
from experiments.analysis.paired import above, of_runs, points
from fl.results.files import atomic_write, csv_text

LEVEL = 0.05  # of all tests together
COLUMNS = ("setting", "method", "seeds", "difference", "ci95", "p", "p_holm")


def compare(runs: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Test ``reference`` against every other method in every setting, by a t-test of the differences of equal seeds.

    Args:
        runs: result of `experiments.analysis.paired.of_runs`.

    Returns:
        One line per setting and other method, with `COLUMNS`: ``difference`` is reference minus method, mean over the
        seeds that both have, and ``ci95`` half the width of its t-interval. ``p`` is two-sided; ``p_holm`` is corrected
        for all lines by Holm's method. With fewer than two seeds there is no test (NaN).
    """
    table = pd.DataFrame(list(_lines(runs, reference)), columns=list(COLUMNS[:-1])).assign(p_holm=math.nan)
    tested = table["p"].notna()
    if tested.any():
        table.loc[tested, "p_holm"] = multipletests(table.loc[tested, "p"], LEVEL, "holm")[1]
    return table


def _lines(runs: pd.DataFrame, reference: str) -> Iterator[tuple[str, str, int, float, float, float]]:
    for setting, method in dict.fromkeys(zip(runs["setting"], runs["method"], strict=True)):
        of = above(runs, setting, reference, [method], "accuracy_mean")
        if method == reference or not of.seeds:
            continue
        p = math.nan
        if of.error > 1e-12:
            p = float(2 * stdtr(of.freedom, -abs(of.mean) / of.error))
        elif of.freedom:  # all differences are equal
            p = 1.0 if abs(of.mean) < 1e-12 else 0.0
        yield setting, method, of.seeds, of.mean, of.half, p


def ranks(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the rank of each method in each setting (methods x settings), 1 for the best, by the mean over seeds.

    Equal means share the mean of their ranks. A method that a setting lacks is left out.
    """
    means = runs.groupby(["setting", "method"], sort=False)["accuracy_mean"].mean().unstack("setting", sort=False)
    return means.dropna().rank(ascending=False)


def critical_difference(methods: int, settings: int) -> float:
    """Return by how much mean ranks must differ to be told apart (Nemenyi's test at level `LEVEL`)."""
    quantile = studentized_range.ppf(1 - LEVEL, methods, np.inf) / math.sqrt(2)
    return float(quantile * math.sqrt(methods * (methods + 1) / (6 * settings)))


def friedman(of_settings: pd.DataFrame) -> float:
    """Return the p value of Friedman's test that all methods rank alike, given `ranks`; NaN if they are too few."""
    methods, settings = of_settings.shape
    if methods < 3 or settings < 2:
        return math.nan
    return float(friedmanchisquare(*of_settings.to_numpy()).pvalue)


def write_tests(folder: Path, rounds: pd.DataFrame, methods: Sequence[str]) -> None:
    """Write ``tests.csv`` and ``tests.md`` of a results folder; the first method is tested against the others."""
    runs, reference = of_runs(rounds[rounds["method"].isin(methods)]), methods[0]
    tested, of_settings = compare(runs, reference), ranks(runs)
    atomic_write(folder / "tests.csv", csv_text([COLUMNS, *tested.itertuples(index=False, name=None)]))
    atomic_write(folder / "tests.md", markdown(tested, of_settings, reference))


def markdown(tested: pd.DataFrame, of_settings: pd.DataFrame, reference: str) -> str:
    """Return a table of methods x settings in Markdown, given the results of `compare` and `ranks`."""
    metric, settings = METRICS["accuracy_mean"], list(dict.fromkeys(tested["setting"]))
    mean_ranks = of_settings.mean(axis=1)
    rows = [
        f"| {reference} above, points | " + " | ".join(settings) + " | mean rank |",
        "|:--|" + "--:|" * (len(settings) + 1),
    ]
    for method in sorted(dict.fromkeys(tested["method"]), key=lambda name: mean_ranks.get(name, math.inf)):
        own = tested[tested["method"] == method].set_index("setting")
        cells = [_cell(own.loc[setting]) if setting in own.index else "-" for setting in settings]
        rank = f"{mean_ranks[method]:.1f}" if method in mean_ranks.index else "-"
        rows.append(f"| {method} | " + " | ".join([*cells, rank]) + " |")
    own_rank = f"{mean_ranks[reference]:.1f}" if reference in mean_ranks.index else "-"
    return (
        f"# {reference} against the other methods\n\n"
        + "\n".join(rows)
        + f"\n\nDifference of {metric.label}, mean over equal seeds ± half of the 95 % t-interval. **Bold**: "
        f"significant at {LEVEL:.0%} by a paired t-test, with Holm's correction for all cells. Mean rank of "
        f"{reference}: {own_rank}.\n"
    )


def _cell(line: pd.Series) -> str:
    text = points(line["difference"], line["ci95"])
    return f"**{text}**" if line["p_holm"] < LEVEL else text
