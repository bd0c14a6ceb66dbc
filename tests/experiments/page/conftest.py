"""A small results folder: two methods, two seeds, four rounds with a drift in the middle, two devices."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from fl.results import DeviceRow, ResultsWriter, Row

METHODS = ("fedavg", "</script>")
SCORES = {1: {2: 0.5, 4: 0.7}, 2: {2: 0.7, 4: 0.9}}  # seed -> round -> accuracy


def writer_of(folder: Path, methods: Sequence[str]) -> ResultsWriter:
    settings = {"still": {"rounds": 4, "drift": {"kind": "class-swap", "schedule": "every"}}}
    return ResultsWriter(folder, "toy", settings, [1, 2], methods)


def record(writer: ResultsWriter, method: str) -> None:
    """Write the runs of a method; FedAvg has rows of devices, too."""
    for seed, scores in SCORES.items():
        for round in range(1, 5):
            who = ("toy", "still", method, seed, round, (round - 1) // 2)
            scored = {"evaluated": 2, "accuracy_mean": scores[round], "loss": 1.0} if round in scores else {}
            writer.append(
                [Row(*who, devices=2, bytes_up=1_000_000, bytes_down=500_000, virtual_s=60.0 * round, **scored)]
            )
            if scored and method == "fedavg":
                near = [(0, scores[round] - 0.1), (1, scores[round] + 0.1)]
                writer.append_devices([DeviceRow(*who, i, "pi", 9, a, a, 1, 0.5, 1, 1) for i, a in near])
        writer.finish("still", method, seed)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    with writer_of(tmp_path / "toy", METHODS) as writer:
        for method in METHODS:
            record(writer, method)
    return tmp_path / "toy"
