"""Detectors are judged as by hand, on streams whose drifts are known."""

from pathlib import Path

import pandas as pd
import pytest

from experiments.plots.eclm.detection import at_random
from experiments.studies import STUDIES
from experiments.studies.detection import SENSITIVITIES, judge, metrics
from experiments.studies.study import read_study
from tests.experiments.cli.conftest import Call


def bools(text: str) -> list[bool]:
    return [letter == "1" for letter in text]


@pytest.mark.parametrize(
    ("drifts", "alarms", "expected"),
    [
        ("0100010", "0101001", (2, 1, 1)),  # at once, again (false), one step late
        ("0010100", "1000100", (1, 0, 1)),  # false, missed, at once
        ("0000", "0110", (0, 0, 2)),
        ("1100", "0011", (1, 1, 1)),
    ],
)
def test_alarms_are_judged_as_by_hand(drifts: str, alarms: str, expected: tuple[int, int, int]) -> None:
    assert judge(bools(drifts), bools(alarms)) == expected


def test_metrics_by_hand() -> None:
    columns = ["detector", "sensitivity", "device", "steps", "drifts", "noticed", "waited", "false_alarms"]
    frame = pd.DataFrame([["d", 0.5, 0, 7, 2, 2, 1, 1], ["d", 0.5, 1, 7, 2, 1, 0, 1], ["e", 1.0, 0, 9, 0, 0, 0, 3]])
    found = metrics(frame.set_axis(columns, axis=1))
    assert found["d 0.5", "noticed"] == 3 / 4 and found["d 0.5", "delay_steps"] == pytest.approx(1 / 3)
    assert found["d 0.5", "false_alarms"] == pytest.approx(100 * 2 / 14)
    assert {name for who, name in found if who == "e 1"} == {"false_alarms"}


def test_importance_sees_classes_at_once_and_swapped_labels_never(call: Call, tmp_path: Path) -> None:
    command = ["run", "detection", "--scale", "smoke", "--seeds", "1", "--out", str(tmp_path)]
    code, printed, errors = call(*command, "--settings", "har classes")
    assert code == 0, printed + errors
    code, printed, errors = call(*command, "--settings", "har labels")
    assert code == 0, printed + errors
    found = read_study(tmp_path, STUDIES["detection"])
    assert len(found) == 2 * 4 * sum(map(len, SENSITIVITIES.values()))
    assert found.groupby("setting")["drifts"].sum().nunique() == 1  # the schedule is the same
    values = {name: metrics(of) for name, of in found.groupby("setting")}
    assert values["har classes"]["importance 0.3", "noticed"] == 1
    assert values["har labels"]["importance 0.3", "noticed"] == 0
    assert values["har labels"]["adwin 0.002", "noticed"] == 1
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_random_alarms_by_hand() -> None:
    """A drift every other step, alarms at half of the steps: 3 of 4 drifts noticed; 37.5 alarms in 100 steps do it."""
    noticed, false = at_random(2)
    assert noticed[50] == pytest.approx(3 / 4) and false[50] == pytest.approx(50 - 37.5)
    assert noticed[[0, -1]].tolist() == [0, 1] and false[[0, -1]] == pytest.approx([0, 50])
