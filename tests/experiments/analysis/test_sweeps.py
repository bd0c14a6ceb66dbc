"""Sweeps: which points they have, and that a results folder is recognised as one."""

import re

import pandas as pd
import pytest

from experiments.analysis.sweeps import label, point_of, points_of, swept_keys, tidy
from fl.config import SettingsError


def test_points_are_all_combinations() -> None:
    found = points_of(["dirichlet.alpha=0.1, 5", "drift.kind=none,resample"])
    assert [label(point) for point in found] == [
        " dirichlet.alpha=0.1 drift.kind=none",
        " dirichlet.alpha=0.1 drift.kind=resample",
        " dirichlet.alpha=5 drift.kind=none",
        " dirichlet.alpha=5 drift.kind=resample",
    ]
    assert points_of([]) == [{}] and label({}) == ""


@pytest.mark.parametrize(
    ("sweeps", "message"),
    [
        (["client.lr"], "--sweep client.lr: write KEY=V1,V2,..., e.g."),
        (["client.lr="], "write KEY=V1,V2,..."),
        (["client.lr=1", "client.lr=2"], "--sweep client.lr: the key is given twice"),
        (["cohort=1,2"], "--sweep cohort: the key is given twice"),
        (["seeds=1,2"], "--sweep seeds: rows are kept apart by it anyway, so use --set seeds= or --seeds"),
    ],
)
def test_sweeps_that_cannot_be(sweeps: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(message)):
        points_of(sweeps, {"cohort": "4"})


def test_a_folder_is_a_sweep_if_every_setting_is_a_point() -> None:
    values = {"dirichlet": {"alpha": 0.1}, "drift": {"kind": "none"}, "cohort": 4, "flag": True}
    assert point_of("har m=2 dirichlet.alpha=0.1 drift.kind=none", values) == {
        "dirichlet.alpha": 0.1,
        "drift.kind": "none",
    }
    assert point_of("cohort=4 flag=true", values) == {"cohort": 4, "flag": True}
    for no in ("har m=2", "cohort=5", "cohort=4 har", "cohort=four"):  # no key, another value, not at the end
        assert point_of(no, values) == {}
    assert swept_keys({"a cohort=4": values, "b cohort=4": values}) == ["cohort"]
    assert swept_keys({"a cohort=4": values, "b": values}) == swept_keys({}) == []


def test_swept_keys_are_columns() -> None:
    names = ["har cohort=2", "har cohort=4"]
    rows = {"experiment": "toy", "setting": names, "method": "eclm", "metric": "loss", "value": [1.0, 2.0]}
    summary = pd.DataFrame(rows)
    table = tidy(summary, {name: {"cohort": int(name[-1])} for name in names}, ["cohort"])
    assert table.columns.tolist() == ["experiment", "setting", "cohort", "method", "metric", "value"]
    assert table[["setting", "cohort", "value"]].to_numpy().tolist() == [["har", 2, 1.0], ["har", 4, 2.0]]
