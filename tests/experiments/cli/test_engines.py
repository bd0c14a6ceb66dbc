"""Every engine writes the same CSV."""

from pathlib import Path

import pandas as pd
import pytest

from experiments import finish
from fl.results.reader import read_rounds
from tests.experiments.cli.conftest import SMALL, Call, run
from tests.fl.conftest import write_device_files


def test_all_engines_write_the_same_csv(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`flwr run` with two Ray actors of Flower, and with our workers; our two Ray actors, two worker processes.

    `tests/fl/server/test_run.py` compares two worker processes with none. Clients have files of their own, so every
    process reads what the first one has converted. Each adds in another order, in double precision, so that parameters
    differ in the last bit at most.
    """
    outs: dict[str, Path] = {}
    files = write_device_files(tmp_path / "files", 6) | {"drift.kind": "label-shift"}
    files |= {"data.proxy-domains": "", "data.client-domains": ""}
    engines = {"two": ["--workers", "2"], "ray": ["--engine", "ray", "--workers", "2"]}
    engines |= {"flower": ["--engine", "flower"], "inside": ["--engine", "flower", "--set", "engine=local"]}
    data = [f"--set={key}={value}" for key, value in files.items()] + ["--set=strategies=la,fedavg,heterofl,eclm"]
    drawn = finish.finish
    for name, options in engines.items():
        outs[name] = tmp_path / name
        # a ServerApp draws its results itself
        monkeypatch.setattr(finish, "finish", drawn if name == "two" else lambda *_: None)
        run(call, "main", "--scale", "smoke", *SMALL, *data, "--out", str(outs[name]), *options)
    for name in ("two", "flower", "inside"):
        assert (outs[name] / "figure.png").stat().st_size > 10_000
        assert "eclm" in (outs[name] / "summary.csv").read_text()
    tables = {name: read_rounds(out).drop(columns="wall_s") for name, out in outs.items()}
    for name in ("flower", "inside", "ray"):
        pd.testing.assert_frame_equal(tables[name], tables["two"], rtol=1e-6, obj=name)
    assert len(tables["two"]) == 2 * len({*tables["two"]["method"]}) > 2 * 4
    monkeypatch.setattr(finish, "finish", drawn)
    (outs["two"] / "config.toml").unlink()
    assert call("plot", str(outs["two"]), "--svg")[0] == 0  # from the CSV files alone
    assert (outs["two"] / "figure.svg").stat().st_size > 10_000 and not (outs["flower"] / "figure.svg").exists()
