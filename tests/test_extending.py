"""docs/extending.md does what it says: its files, put into a folder outside the project, run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"`([\w/]+\.py)`\n\n```python\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with the files of the page."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "my_app").mkdir()
    (folder / "my_app" / "__init__.py").touch()
    blocks = BLOCK.findall((ROOT / "docs" / "extending.md").read_text())
    assert len(blocks) == 7
    for name, content in blocks:
        (folder / name).write_text(content)
    return folder


def test_the_page_runs_and_its_method_learns(folder: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "run.py"], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    rounds = pd.read_csv(folder / "rings-results" / "rounds.csv")
    assert set(rounds["method"]) == {"na", "na+ft", "slow-start", "slow-start+ft", "eclm-derive", "eclm"}
    assert rounds["round"].max() == 4 and (rounds["failures"] == 0).all() and (rounds["refused"] == 0).all()
    last = rounds[rounds["round"] == 4].set_index("method")["accuracy_mean"]
    assert last["slow-start+ft"] > 0.8 and last["eclm"] > 0.8  # a client has two of the five rings
    measured = pd.read_csv(folder / "rings-results" / "measures.csv")
    assert set(measured["measure"]) == {"classes"} and (measured["value"] == 2).all()
    assert set(measured["method"]) == {"slow-start", "slow-start+ft", "eclm-derive", "eclm"}  # na trains no client
    config = (folder / "rings-results" / "config.toml").read_text()
    assert 'name = "my_app.data:Rings"' in config and "rate = 0.7" in config
