"""docs/extending.md does what it says: its files and lines, put into a copy of the project, work and keep its laws."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"`([\w/]+\.py)`\n\n```(python|diff)\n(.*?)```", re.DOTALL)


def insert(text: str, change: str) -> str:
    """The ``+`` lines of ``change`` before and after its one line of context, which ``text`` must hold once."""
    lines = change.splitlines()
    (at,) = (i for i, line in enumerate(lines) if line.startswith(" "))
    context, new = lines[at][1:], [line.removeprefix("+") for line in lines]
    assert text.count(f"\n{context}\n") == 1, f"docs/extending.md changes the line {context!r}, which is not there"
    return text.replace(f"\n{context}\n", "\n" + "\n".join([*new[:at], context, *new[at + 1 :]]) + "\n")


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with everything of the page in it."""
    copy = tmp_path_factory.mktemp("extended")
    for folder in ("partitions", "models", "strategies", "fl", "tests"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    for name, kind, content in BLOCK.findall((ROOT / "docs" / "extending.md").read_text()):
        file = copy / name
        assert file.is_file() == (kind == "diff"), f"{name} is {'not ' * (kind == 'diff')}there"
        file.write_text(insert(file.read_text(), content) if kind == "diff" else content)
    return copy


def python(folder: Path, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_the_page_runs_and_its_methods_learn(extended: Path) -> None:
    python(extended, "run.py")
    rounds = pd.read_csv(extended / "rings-results" / "rounds.csv")
    assert set(rounds["method"]) >= {"na", "median", "median+ft", "eclm"} and rounds["round"].max() == 4
    last = rounds[rounds["round"] == 4].set_index("method")["accuracy_mean"]
    assert last["median+ft"] > 0.8 and last["eclm"] > 0.8  # a device has two of the five rings
    measured = pd.read_csv(extended / "rings-results" / "measures.csv")
    assert set(measured["measure"]) == {"classes"} and (measured["value"] == 2).all()
    assert set(measured["method"]) == {"median", "median+ft", "eclm-derive", "eclm"}  # nobody trains for na


def test_the_new_rows_keep_the_laws(extended: Path) -> None:
    """Those of partitions and drifts for all pairs, those of models and methods for the new ones."""
    tables = ["tests/partitions/test_partition_world.py", "tests/partitions/test_kinds.py"]
    tables += ["tests/models/test_networks.py", "tests/strategies/test_strategies.py"]
    tables += ["tests/fl/workloads/test_registry.py"]
    said = python(
        extended,
        "-m",
        "pytest",
        "-q",
        *tables,
        "-k",
        "test_partition_world or every_partition or squares or median or census",
    )
    assert "passed" in said
