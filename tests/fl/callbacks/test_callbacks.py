"""Callbacks see the rows of rounds.csv, and a real tracker holds the same numbers."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from fl.callbacks import Callback, Callbacks
from fl.callbacks.trackers import numbers
from fl.config import SettingsError
from fl.results import Row, read_config, read_rounds

HERE = "tests.fl.callbacks.test_callbacks"


class Seen(Callback):
    """Notes what it is called with."""

    calls: ClassVar[list[tuple[str, str, int]]] = []
    rows: ClassVar[list[Row]] = []

    def round_end(self, row: Row) -> None:
        assert self.settings["rounds"] == 4
        self.calls.append(("round", row.method, row.round))
        self.rows.append(row)

    def evaluation(self, row: Row) -> None:
        self.calls.append(("evaluation", row.method, row.round))

    def run_end(self, row: Row) -> None:
        self.calls.append(("end", row.method, row.round))


class Broken(Callback):
    def evaluation(self, row: Row) -> None:
        raise ConnectionError(f"no server for round {row.round}\nand a long story")


def test_callbacks_and_tensorboard_get_the_numbers_of_the_csv(play: Callable, tmp_path: Path) -> None:
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    names = f"tensorboard, {HERE}:Broken, {HERE}:Seen"
    play(tmp_path, {"callbacks": names, "strategies": "fedavg"})
    twice = [("round", 1), ("round", 2), ("evaluation", 2)]
    of_method = [*twice, *((what, round + 2) for what, round in twice), ("end", 4)]
    for method in ("fedavg", "fedavg+ft"):
        assert [(what, round) for what, of, round in Seen.calls if of == method] == of_method
    table = read_rounds(tmp_path)
    for _, line in table.iterrows():
        (row,) = (row for row in Seen.rows if (row.method, row.round) == (line["method"], line["round"]))
        assert {name: line[name] for name in numbers(row)} == pytest.approx(numbers(row), rel=1e-9)
    for method, rows in table.groupby("method"):
        events = loader.EventAccumulator(str(tmp_path / "tensorboard" / f"default {method} seed 1"))
        events.Reload()
        for name in ("accuracy_mean", "bytes_up", "loss", "virtual_s"):
            scored = rows.dropna(subset=[name])
            found = events.Scalars(name)
            assert [event.step for event in found] == scored["round"].tolist()
            assert [np.float32(event.value) for event in found] == scored[name].astype(np.float32).tolist()
    assert "callbacks" not in read_config(tmp_path)["settings"]["default"]  # who looks changes no number


def test_a_callback_that_fails_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Seen.calls.clear()
    callbacks = Callbacks({"broken": Broken(tmp_path, {}), "seen": Seen(tmp_path, {"rounds": 4})})
    rows = [Row("toy", "still", "fedavg", 1, round, 0, evaluated=1) for round in (1, 2)]
    for row in rows:
        callbacks.round_end([row], last=False)
    assert list(callbacks.callbacks) == ["seen"] and len(Seen.calls) == 4
    warnings = [record.getMessage() for record in caplog.records]
    assert warnings == ["callback 'broken' failed and is left out from now on: no server for round 1"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tensorbord", r"callbacks = 'tensorbord': unknown callback .* \(did you mean 'tensorboard'\?\)"),
        ("mlflow", "callbacks = 'mlflow': needs the package mlflow: pip install mlflow"),
    ],
)
def test_a_callback_that_cannot_be(
    name: str, message: str, play: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(SettingsError, match=message):
        play(tmp_path, {"callbacks": name})
