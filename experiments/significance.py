"""Is a difference between methods more than chance? Paired tests over seeds, and mean ranks over settings.

Demšar, "Statistical Comparisons of Classifiers over Multiple Data Sets", JMLR 2006.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import friedmanchisquare, studentized_range, ttest_1samp
from scipy.stats import t as student
from statsmodels.stats.multitest import multipletests

from experiments.metrics import METRICS
from experiments.summary import complete, metrics
from fl.results.files import atomic_write, csv_text

LEVEL = 0.05  # of all tests together
COLUMNS = ("setting", "method", "seeds", "difference", "ci95", "p", "p_holm")


def scores(rounds: pd.DataFrame, methods: Collection[str] = ()) -> pd.Series:
    """Return the accuracy of every complete run of these methods (empty: all), by setting, method and seed."""
    index = ["setting", "method", "seed"]
    chosen = rounds[rounds["method"].isin(methods)] if methods else rounds
    runs = complete(chosen).groupby(index, sort=False)
    return pd.Series({run: metrics(rows)["accuracy_mean"] for run, rows in runs}, dtype=float).rename_axis(index)


def compare(of_runs: pd.Series, reference: str) -> pd.DataFrame:
    """Test ``reference`` against every other method in every setting, by a t-test of the differences of equal seeds.

    Args:
        of_runs: result of `scores`.

    Returns:
        One line per setting and other method, with `COLUMNS`: ``difference`` is reference minus method, mean over the
        seeds that both have, and ``ci95`` half the width of its t-interval. ``p`` is two-sided; ``p_holm`` is corrected
        for all lines by Holm's method. With fewer than two seeds there is no test (NaN).
    """
    lines = list(_lines(of_runs, reference))
    table = pd.DataFrame(lines, columns=list(COLUMNS[:-1])).assign(p_holm=math.nan)
    tested = table["p"].notna()
    if tested.any():
        table.loc[tested, "p_holm"] = multipletests(table.loc[tested, "p"], LEVEL, "holm")[1]
    return table


def _lines(of_runs: pd.Series, reference: str) -> Iterator[tuple[str, str, int, float, float, float]]:
    for setting, of_setting in of_runs.groupby(level="setting", sort=False):
        by_seed = of_setting.droplevel("setting").unstack("method", sort=False)
        for method in by_seed.columns if reference in by_seed else ():
            paired = (by_seed[reference] - by_seed[method]).dropna()
            if method == reference or not len(paired):
                continue
            mean, n, ci95, p = float(paired.mean()), len(paired), math.nan, math.nan
            if n > 1 and (spread := float(paired.std())) > 1e-12:
                ci95 = float(student.ppf(1 - LEVEL / 2, n - 1)) * spread / math.sqrt(n)
                p = float(ttest_1samp(paired, 0.0).pvalue)
            elif n > 1:  # all differences are equal
                ci95, p = 0.0, 1.0 if abs(mean) < 1e-12 else 0.0
            yield str(setting), str(method), n, mean, ci95, p


def ranks(of_runs: pd.Series) -> pd.DataFrame:
    """Return the rank of each method in each setting (methods x settings), 1 for the best, by the mean over seeds.

    Equal means share the mean of their ranks. A method that a setting lacks is left out.
    """
    means = of_runs.groupby(level=["setting", "method"], sort=False).mean().unstack("setting", sort=False)
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
    of_runs, reference = scores(rounds, methods), methods[0]
    tested, of_settings = compare(of_runs, reference), ranks(of_runs)
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
        cells = [_cell(own.loc[setting], metric.scale) if setting in own.index else "-" for setting in settings]
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


def _cell(line: pd.Series, scale: float) -> str:
    interval = "" if math.isnan(line["ci95"]) else f" ± {scale * line['ci95']:.1f}"
    text = f"{scale * line['difference']:+.1f}{interval}"
    return f"**{text}**" if line["p_holm"] < LEVEL else text
