"""`run` with split training under Flower."""

from pathlib import Path

from tests.experiments.cli.conftest import Call, run
from tests.fl.conftest import without_clock


def test_split_training_under_flower_gives_the_rows_of_the_simulation(call: Call, tmp_path: Path) -> None:
    """Both halves in their own processes, codes on the wire, on text that ships with the project."""
    few = [f"--set={change}" for change in ("data.samples-min=10", "data.samples-max=20", "data.test-samples=20")]
    words = "text", "--scale", "smoke", "--settings", "codes", "--set", "strategies=fedavg", *few
    for name, options in {"split": ("--engine", "flower", "--set", "split=messages"), "simulated": ()}.items():
        run(call, *words, "--out", str(tmp_path / name), *options)
    split, simulated = (without_clock(tmp_path / name) for name in ("split", "simulated"))
    assert split == simulated and len(split) == 1 + 2 * 2
    measures = [(tmp_path / name / "measures.csv").read_bytes() for name in ("split", "simulated")]
    assert measures[0] == measures[1]
