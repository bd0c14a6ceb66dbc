"""docs/bring-your-own.md does what it says: its network runs by its commands, from a folder outside the project."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pandas as pd
import pytest

from experiments.hermetic import flwr_run

ROOT = Path(__file__).resolve().parents[1]
APP = ROOT / "docs" / "examples" / "own-app"
PAGE = (ROOT / "docs" / "bring-your-own.md").read_text()


def test_the_network_of_the_page_runs_by_its_commands(tmp_path: Path) -> None:
    ((name, content),) = re.findall(r"`([\w/]+\.py)`\n\n```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / name).write_text(content)
    commands, _ = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    inspect, run = commands.replace("\\\n", " ").strip().splitlines()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    said = []
    for line in (inspect, f"{run} --out results --workers 1"):
        command = [sys.executable, *shlex.split(line)[1:]]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        said.append(done.stdout)
    assert "layers that ECLM cuts into modules: wide.modules" in said[0] and "whole:" not in said[0]
    rounds = pd.read_csv(tmp_path / "results" / "rounds.csv")
    assert set(rounds["method"]) == {"fedavg", "fedavg+ft", "heterofl", "heterofl+ft", "eclm-derive", "eclm"}
    assert (rounds["failures"] == 0).all() and (rounds["refused"] == 0).all()
    last = rounds[rounds["round"] == rounds["round"].max()].groupby("method")["accuracy_mean"].mean()
    assert last["fedavg"] > 0.6 and last["eclm"] > 0.8
    sent = rounds.groupby("method")["bytes_up"].sum()
    assert sent["heterofl"] < sent["fedavg"] and sent["eclm"] < sent["fedavg"]


@pytest.mark.parametrize("strategy", ["HeteroFL", "ECLM"])
def test_the_app_of_the_page_runs_under_flower(strategy: str) -> None:
    lines: list[str] = []
    flwr_run(APP, {"strategy": strategy, "rounds": 2}, supernodes=4, on_line=lines.append, timeout_s=400)
    log = "\n".join(lines)
    assert "Sampled 2 nodes (out of 4)" in log and "WARNING" not in log, log
    assert log.count("aggregate_train: 2 valid replies") == log.count("aggregate_evaluate: 4 valid replies") == 2, log
    assert re.search(r"accuracy of each round: \[\d.\d+, \d.\d+, \d.\d+\]", log), log


def test_the_app_is_short_and_the_page_quotes_it() -> None:
    files = [file.read_text() for file in APP.rglob("*.py")]
    assert sum(len(text.splitlines()) for text in files) <= 100
    _, command = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    assert command.startswith("flwr run docs/examples/own-app ")
    (quoted,) = (block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "@app" in block)
    assert any(quoted in text for text in files)
    config = tomllib.loads((APP / "pyproject.toml").read_text())
    assert config["tool"]["uv"]["exclude-dependencies"] == config["project"]["dependencies"] == ["driftfed"]
    for words in (["check"], ["format", "--check"]):
        options = ["--no-cache", "--config", str(ROOT / "pyproject.toml"), str(APP)]
        done = subprocess.run([sys.executable, "-m", "ruff", *words, *options], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
