"""Differences paired by seed, and the margins of the ECLM paper, against numbers computed by hand."""

import math

import pandas as pd
import pytest

from experiments.analysis.paired import MEAN, Estimate, above, margins_markdown, margins_of, of_runs, points, pooled
from experiments.catalog import EXPERIMENTS
from experiments.catalog.experiment import Margins
from fl.results.rows import Row

RUNS = pd.DataFrame(
    [
        ("toy", setting, method, seed, value + shift)
        for setting, shift in (("a", 0.0), ("b", 0.1))
        for seed, values in {1: (0.8, 0.7, 0.5), 2: (0.6, 0.5, 0.1)}.items()
        for method, value in zip(("eclm", "la", "an"), values, strict=True)
    ],
    columns=["experiment", "setting", "method", "seed", "accuracy_mean"],
)


def test_a_difference_pairs_the_seeds():
    """Seed 1: 0.8 - 0.6 = 0.2; seed 2: 0.6 - 0.3 = 0.3. Error 0.05, t(0.975, 1) = 12.7062."""
    found = above(RUNS, "a", "eclm", ["la", "an"], "accuracy_mean")
    assert (found.mean, found.error, found.half) == pytest.approx((0.25, 0.05, 0.635310))
    assert (found.freedom, found.seeds) == (1, 2)
    assert math.isnan(above(RUNS, "a", "eclm", ["fedavg"], "accuracy_mean").mean)


def test_seeds_that_only_one_method_has_do_not_count():
    half = RUNS[(RUNS["method"] != "la") | (RUNS["seed"] == 1)]
    found = above(half, "a", "eclm", ["la", "an"], "accuracy_mean")
    assert found.mean == pytest.approx(0.2) and found.seeds == 1 and math.isnan(found.half)


def test_settings_are_pooled_with_welchs_degrees_of_freedom():
    """Two equal errors of 0.05: sqrt(2) * 0.05 / 2, and degrees of freedom add up. One that varies alone keeps its."""
    both = pooled([Estimate(0.2, 0.05, 2, 3), Estimate(0.4, 0.05, 2, 3)])
    assert (both.mean, both.error, both.freedom) == pytest.approx((0.3, 0.05 / 2**0.5, 4))
    alone = pooled([Estimate(0.2, 0.05, 2, 3), Estimate(0.4, 0.0, 2, 3)])
    assert (alone.error, alone.freedom) == pytest.approx((0.025, 2))


def test_margins_by_hand():
    paper = {
        ("a", "eclm"): {"accuracy_mean": 0.9},
        ("a", "la"): {"accuracy_mean": 0.8},
        ("a", "an"): {"accuracy_mean": 0.6},
    }
    margins = Margins(("eclm", "eclm-plus"), {"above_device": ("la", "an")}, paper={"above_device": 0.5})
    lines = margins_of(margins, RUNS, paper)
    assert lines["setting"].tolist() == ["a", "b", MEAN] and set(lines["method"]) == {"eclm"}
    assert lines["value"].tolist() == pytest.approx([0.25] * 3)
    assert lines["paper_value"].tolist() == pytest.approx([0.2, math.nan, 0.5], nan_ok=True)
    table = margins_markdown(lines)
    assert "| a | +25.0 ± 63.5 | +20.0 |" in table and "| mean | +25.0 ± 31.8 | +50.0 |" not in table
    without = margins_of(Margins(("eclm",), {"above_device": ("la", "an")}, beyond=("b",)), RUNS, {})
    assert without["setting"].tolist() == ["a", "b"]  # no mean of one setting


def test_the_papers_averages_are_those_of_its_table():
    table1 = EXPERIMENTS["table1"]
    assert table1.margins is not None
    for metric, average in table1.margins.paper.items():
        of = {}
        for (setting, method), values in table1.paper.items():
            of.setdefault(setting, {})[method] = values["accuracy_mean"]
        rows = [row["eclm"] - sum(row[rival] for rival in table1.margins.rivals[metric]) / 2 for row in of.values()]
        assert sum(rows) / len(rows) == pytest.approx(average, abs=1e-4)


def test_points():
    assert points(0.0123, 0.004) == "+1.2 ± 0.4" and points(-0.001) == "-0.1" and points(math.nan) == "-"


def test_runs_are_means_over_the_ends_of_steps():
    """The last scored rounds of both steps count: (0.5 + 0.7) / 2; an unfinished run does not."""
    accuracy = {1: 0.9, 2: 0.5, 3: 0.6, 4: 0.7}
    rows = [
        Row("toy", "s", method, 1, n, step=(n - 1) // 2, evaluated=5, accuracy_mean=accuracy[n], adapt_s=float(n))
        for method, last in (("eclm", 4), ("la", 3))
        for n in range(1, last + 1)
    ]
    (run,) = of_runs(pd.DataFrame(rows)).to_dict("records")
    assert run["method"] == "eclm" and run["adapt_s"] == 3
    assert (run["accuracy_mean"], run["accuracy_first"], run["accuracy_last"]) == pytest.approx((0.6, 0.5, 0.7))
