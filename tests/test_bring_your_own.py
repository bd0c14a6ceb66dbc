"""docs/bring-your-own.md does what it says: its network runs by its commands, from a folder outside the project."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "bring-your-own.md").read_text()


def test_the_network_of_the_page_runs_by_its_commands(tmp_path: Path) -> None:
    ((name, content),) = re.findall(r"`([\w/]+\.py)`\n\n```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / name).write_text(content)
    ((commands,)) = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
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
