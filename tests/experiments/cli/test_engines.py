"""Every engine writes the same CSV."""

from pathlib import Path

import pandas as pd

from fl.results.reader import read_rounds
from tests.experiments.cli.conftest import SMALL, Call, run
from tests.fl.conftest import write_device_files


def test_all_engines_write_the_same_csv(call: Call, tmp_path: Path) -> None:
    """`flwr run` with two Ray actors of Flower, and with our workers; our two Ray actors, two worker processes, none.

    Clients have files of their own, so every process reads what the first one has converted.
    Each adds in another order, in double precision, so that parameters differ in the last bit at most.
    """
    outs: dict[str, Path] = {}
    files = write_device_files(tmp_path / "files", 6) | {"drift.kind": "label-shift"}
    files |= {"data.proxy-domains": "", "data.client-domains": ""}
    engines = {"flower": ["--engine", "flower"], "two": ["--workers", "2"], "one": ["--workers", "1"]}
    engines |= {"ray": ["--engine", "ray", "--workers", "2"], "inside": ["--engine", "flower", "--set", "engine=local"]}
    data = [f"--set={key}={value}" for key, value in files.items()] + ["--set=strategies=la,fedavg,heterofl,eclm"]
    for name, options in engines.items():
        outs[name] = tmp_path / name
        run(call, "main", "--scale", "smoke", *SMALL, *data, "--out", str(outs[name]), *options)
        assert (outs[name] / "figure.png").stat().st_size > 10_000
        assert "eclm" in (outs[name] / "summary.csv").read_text()
    tables = {name: read_rounds(out).drop(columns="wall_s") for name, out in outs.items()}
    for name in ("flower", "inside", "two", "ray"):
        pd.testing.assert_frame_equal(tables[name], tables["one"], rtol=1e-6, obj=name)
    assert len(tables["one"]) == 2 * len({*tables["one"]["method"]}) > 2 * 4
    (outs["one"] / "config.toml").unlink()
    assert call("plot", str(outs["one"]), "--svg")[0] == 0  # from the CSV files alone
    assert (outs["one"] / "figure.svg").stat().st_size > 10_000 and not (outs["two"] / "figure.svg").exists()
