"""Paired tests and ranks give the numbers that one works out by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from experiments.analysis.significance import compare, critical_difference, friedman, markdown, ranks


def runs(values: dict[tuple[str, str], list[float]]) -> pd.DataFrame:
    rows = [(*who, seed, value) for who, of in values.items() for seed, value in enumerate(of, 1)]
    return pd.DataFrame(rows, columns=["setting", "method", "seed", "accuracy_mean"])


TWO = runs({
    ("a", "ours"): [0.9, 0.8, 0.85], ("a", "x"): [0.8, 0.75, 0.74], ("a", "y"): [0.9, 0.8, 0.85],
    ("b", "ours"): [0.6, 0.5, 0.55], ("b", "x"): [0.7, 0.5, 0.6], ("b", "y"): [0.5, 0.4, 0.45],
})  # fmt: skip


def test_differences_are_those_of_equal_seeds() -> None:
    table = compare(TWO, "ours").set_index(["setting", "method"])
    assert table.loc[("a", "x"), "difference"] == pytest.approx((0.1 + 0.05 + 0.11) / 3)
    expected = ttest_rel([0.9, 0.8, 0.85], [0.8, 0.75, 0.74])
    assert table.loc[("a", "x"), "p"] == pytest.approx(expected.pvalue)
    low, high = expected.confidence_interval(0.95)
    assert table.loc[("a", "x"), "ci95"] == pytest.approx((high - low) / 2)
    assert table.loc[("a", "y"), ["difference", "ci95", "p", "p_holm"]].tolist() == [0, 0, 1, 1]
    assert table.loc[("b", "y"), "difference"] == pytest.approx(0.1) and table.loc[("b", "y"), "p"] == 0


def test_holm_multiplies_the_smallest_p_by_the_number_of_tests() -> None:
    """p 0, 0.037.., 0.42.., 1 in four tests: 4 * 0, 3 * 0.037, 2 * 0.42, 1."""
    table = compare(TWO, "ours")
    p = np.sort(table["p"])
    assert np.sort(table["p_holm"]) == pytest.approx(np.maximum.accumulate(np.minimum(p * [4, 3, 2, 1], 1)))


def test_a_seed_that_one_method_lacks_is_left_out_and_one_seed_is_no_test() -> None:
    table = compare(runs({("a", "ours"): [0.9, 0.8], ("a", "x"): [0.5]}), "ours")
    assert table["seeds"].tolist() == [1] and table["difference"].tolist() == [pytest.approx(0.4)]
    assert table[["ci95", "p", "p_holm"]].isna().all(axis=None)
    assert compare(TWO, "unknown").empty


def test_ranks_share_places_and_leave_out_what_a_setting_lacks() -> None:
    got = ranks(TWO)
    assert got["a"].to_dict() == {"ours": 1.5, "x": 3, "y": 1.5}
    assert got["b"].to_dict() == {"ours": 2, "x": 1, "y": 3}
    more = pd.concat([TWO, runs({("a", "only here"): [1.0, 1.0, 1.0]})])
    assert ranks(more).index.tolist() == ["ours", "x", "y"]


def test_the_critical_difference_is_that_of_demsars_example() -> None:
    """Four methods on 14 data sets: 1.25 at 5 % (JMLR 2006, section 3.2.2)."""
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)


def test_friedman_needs_three_methods_and_two_settings() -> None:
    assert math.isnan(friedman(ranks(TWO)[["a"]]))
    clear = pd.DataFrame([[1.0] * 8, [2.0] * 8, [3.0] * 8])
    assert friedman(clear) == pytest.approx(math.exp(-8))  # chi-squared 16 with 2 degrees of freedom


@settings(max_examples=15)  # statsmodels collects garbage in each call
@given(st.lists(st.floats(0, 1), min_size=2, max_size=6), st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_exchanging_the_methods_changes_the_sign(one: list[float], other: list[float]) -> None:
    values = runs({("a", "one"): one, ("a", "other"): other})
    there, back = compare(values, "one").iloc[0], compare(values, "other").iloc[0]
    assert there["difference"] == pytest.approx(-back["difference"]) and there["p"] == pytest.approx(back["p"])


def test_the_page_marks_what_is_significant() -> None:
    page = markdown(compare(TWO, "ours"), ranks(TWO), "ours")
    assert "| y | +0.0 ± 0.0 | **+10.0 ± 0.0** | 2.2 |" in page and "Mean rank of ours: 1.8" in page
    assert "| x | +8.7 ± 8.0 |" in page
