"""Detectors are judged as by hand, on streams whose drifts are known."""

import math
from pathlib import Path

import pandas as pd
import pytest

from experiments.studies import STUDIES
from experiments.studies.detection import SENSITIVITIES, metrics, outcomes
from experiments.studies.study import read_study
from tests.experiments.cli.conftest import Call


def rows(device: int, drifts: str, alarms: str) -> list[tuple[str, float, int, int, int, int]]:
    pairs = enumerate(zip(drifts, alarms, strict=True), 1)
    return [("d", 0.5, device, step, int(drift), int(alarm)) for step, (drift, alarm) in pairs]


COLUMNS = ["detector", "sensitivity", "device", "step", "drifts", "alarm"]


def test_outcomes_by_hand() -> None:
    """Client 0: noticed at once, once more (false), then one step late. Client 1: false, missed, noticed at once."""
    frame = pd.DataFrame(rows(0, "0100010", "0101001") + rows(1, "0010100", "1000100"), columns=COLUMNS)
    share, delay, false = outcomes(frame)
    assert share == 3 / 4 and delay == pytest.approx((0 + 1 + 0) / 3) and false == pytest.approx(100 * 2 / 14)
    assert metrics(frame)["d 0.5", "noticed"] == 3 / 4


def test_without_drifts_every_alarm_is_false_and_nothing_is_noticed() -> None:
    frame = pd.DataFrame(rows(0, "0000", "0110"), columns=COLUMNS)
    share, delay, false = outcomes(frame)
    assert math.isnan(share) and math.isnan(delay) and false == 50
    assert set(metrics(frame)) == {("d 0.5", "false_alarms")}


def test_importance_sees_classes_at_once_and_swapped_labels_never(call: Call, tmp_path: Path) -> None:
    command = ["run", "detection", "--scale", "smoke", "--seeds", "1", "--out", str(tmp_path)]
    code, printed, errors = call(*command, "--settings", "har classes")
    assert code == 0, printed + errors
    code, printed, errors = call(*command, "--settings", "har labels")
    assert code == 0, printed + errors
    found = read_study(tmp_path, STUDIES["detection"])
    assert len(found) == 2 * 4 * 7 * sum(map(len, SENSITIVITIES.values()))
    assert found.groupby("setting")["drifts"].sum().nunique() == 1  # the schedule is the same
    values = {name: metrics(of) for name, of in found.groupby("setting")}
    assert values["har classes"]["importance 0.3", "noticed"] == 1
    assert values["har labels"]["importance 0.3", "noticed"] == 0
    assert values["har labels"]["adwin 0.002", "noticed"] == 1
    assert (tmp_path / "figure.png").stat().st_size > 10_000
