"""A small experiment with two settings, for the tests of this folder."""

from pathlib import Path

from fl.results.rows import DeviceRow, MeasureRow, Row
from fl.results.writer import ResultsWriter

SETTINGS = {
    "m=2": {"rounds": 4, "lr": 0.1, "drift": {"kind": "class-swap", "fraction": 0.5}},
    "m=5": {"rounds": 4, "lr": 0.1, "drift": {"kind": "none"}},
}


def changed(**changes: object) -> dict:
    """SETTINGS with other values in setting m=2."""
    return {**SETTINGS, "m=2": {**SETTINGS["m=2"], **changes}}


def open_(out: Path, settings=SETTINGS, seeds=(0,), **kwargs) -> ResultsWriter:
    return ResultsWriter(out, "toy", settings, seeds, ["na", "fedavg"], **kwargs)


def row(round: int, method: str = "fedavg", **kwargs) -> Row:
    values = {"experiment": "toy", "setting": "m=2", "method": method, "seed": 0, "round": round, "step": 0} | kwargs
    return Row(**values)


def device_row(round: int, device: int) -> DeviceRow:
    return DeviceRow("toy", "m=2", "fedavg", 0, round, 0, device, "pi4", 50, 0.5, 0.4, 1e6, 0.25, 1e6, 2.5)


def measure_row(round: int) -> MeasureRow:
    return MeasureRow("toy", "m=2", "fedavg", 0, round, 0, "bytes", round / 4)
