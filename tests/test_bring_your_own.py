"""docs/bring-your-own.md does what it says: its code runs by its commands, from a folder outside the project."""

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
MODEL, DATA = (ROOT / "docs" / "bring-your-own.md").read_text().split("\n# Bring your own data\n")


def write_blocks(page: str, folder: Path) -> list[str]:
    """Write the page's files to a folder, and return its commands."""
    for name, content in re.findall(r"`([\w/]+\.py)`\n\n```python\n(.*?)```", page, re.DOTALL):
        (folder / name).write_text(content)
    blocks = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").strip().splitlines()]


def run(command: str, folder: Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    words = [sys.executable, *shlex.split(command)[1:]]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_the_network_of_the_page_runs_by_its_commands(tmp_path: Path) -> None:
    inspect, train, _ = write_blocks(MODEL, tmp_path)
    said = run(inspect, tmp_path)
    assert "layers that ECLM cuts into modules: wide.modules" in said and "whole:" not in said
    run(f"{train} --out results --workers 1", tmp_path)
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
    _, command = re.findall(r"```sh\n(.*?)```", MODEL, re.DOTALL)
    assert command.startswith("flwr run docs/examples/own-app ")
    (quoted,) = (block for block in re.findall(r"```python\n(.*?)```", MODEL, re.DOTALL) if "@app" in block)
    assert any(quoted in text for text in files)
    config = tomllib.loads((APP / "pyproject.toml").read_text())
    assert config["tool"]["uv"]["exclude-dependencies"] == config["project"]["dependencies"] == ["driftfed"]
    for words in (["check"], ["format", "--check"]):
        options = ["--no-cache", "--config", str(ROOT / "pyproject.toml"), str(APP)]
        done = subprocess.run([sys.executable, "-m", "ruff", *words, *options], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_data_of_the_page_run_by_its_commands(tmp_path: Path) -> None:
    pytest.importorskip("flwr_datasets")
    make, *commands = write_blocks(DATA, tmp_path)
    run(make, tmp_path)
    for number, command in enumerate(commands):
        run(f"{command} --out results{number} --workers 1 --set eval.per-device=true --set strategies=fedavg", tmp_path)
        rounds = pd.read_csv(tmp_path / f"results{number}" / "rounds.csv")
        assert (rounds["failures"] == 0).all() and (rounds["refused"] == 0).all()
        assert rounds[rounds["round"] == rounds["round"].max()]["accuracy_mean"].min() > 0.5
    for number in (0, 1):
        devices = pd.read_csv(tmp_path / f"results{number}" / "devices.csv")
        assert set(devices["device"]) == set(range(8)) and devices["samples"].between(57, 63).all()
