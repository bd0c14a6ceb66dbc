"""docs/bring-your-own.md does what it says: its code runs by its commands, from a folder outside the project."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from experiments import finish
from experiments.hermetic import flwr_run
from tests.experiments.cli.conftest import Call, call  # noqa: F401

ROOT = Path(__file__).resolve().parents[1]
APP = ROOT / "docs" / "examples" / "own-app"
MODEL, DATA = (ROOT / "docs" / "bring-your-own.md").read_text().split("\n# Bring your own data\n")


def write_blocks(page: str, folder: Path) -> list[str]:
    """Write the page's files to a folder, and return its commands."""
    for name, content in re.findall(r"`([\w/]+\.py)`\n\n```python\n(.*?)```", page, re.DOTALL):
        (folder / name).write_text(content)
    blocks = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").strip().splitlines()]


def start(command: str, folder: Path) -> str:
    """Run a command in a process of its own, and return what it printed."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    words = [sys.executable, *shlex.split(command)[1:]]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def run(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:  # noqa: F811
    """Runs `python -m experiments ...` in the user's folder, in this process, and draws nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # as `python -m` does
    monkeypatch.setattr(finish, "finish", lambda *_: None)

    def _run(command: str) -> None:
        words = shlex.split(command)
        assert words[:3] == ["python", "-m", "experiments"]
        code, printed, errors = call(*words[3:])
        assert code == 0, printed[-3000:] + errors[-3000:]

    yield _run
    for name in ("net", "people"):
        sys.modules.pop(name, None)


def test_the_network_of_the_page_runs_by_its_commands(tmp_path: Path, run: Callable[[str], None]) -> None:
    inspect, train, _ = write_blocks(MODEL, tmp_path)
    said = start(inspect, tmp_path)
    assert "layers that ECLM cuts into modules: wide.modules" in said and "whole:" not in said
    run(f"{train} --out results --workers 1 --settings m=2")  # one of two settings
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
    config = {"strategy": strategy, "rounds": 2}
    flwr_run(APP, config, supernodes=4, cpus_per_client=2, on_line=lines.append, timeout_s=400)
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


def test_the_data_of_the_page_run_by_its_commands(tmp_path: Path, run: Callable[[str], None]) -> None:
    pytest.importorskip("flwr_datasets")
    make, *commands = write_blocks(DATA, tmp_path)
    start(make, tmp_path)
    for number, command in enumerate(commands):
        few = "--settings m=2 --set strategies=fedavg --set eval.per-device=true"  # one of two settings
        run(f"{command} --out results{number} --workers 1 {few}")
        rounds = pd.read_csv(tmp_path / f"results{number}" / "rounds.csv")
        assert (rounds["failures"] == 0).all() and (rounds["refused"] == 0).all()
        assert rounds[rounds["round"] == rounds["round"].max()]["accuracy_mean"].min() > 0.5
    for number in (0, 1):
        devices = pd.read_csv(tmp_path / f"results{number}" / "devices.csv")
        assert set(devices["device"]) == set(range(8)) and devices["samples"].between(57, 63).all()
