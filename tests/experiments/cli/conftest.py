"""How tests call the command line."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.cli.main import main

ROOT = Path(__file__).resolve().parents[3]
SMALL = [
    f"--set={change}"
    for change in ("devices.count=6", "cohort=3", "rounds=2", "rounds-per-step=1", "client.adapt-epochs=1")
]
Call = Callable[..., tuple[object, str, str]]


def experiments(*words: str, cwd: Path = ROOT, timeout: float = 480) -> subprocess.CompletedProcess[str]:
    """Run `python -m experiments` in a new process."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    command = [sys.executable, "-m", "experiments", *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout)


def run(call: Call, *words: str) -> None:
    """Run an experiment in this process. Ray gets one, because it never waits for those that it starts."""
    if "ray" in words:
        done = experiments("run", *words)
        code, printed, errors = done.returncode, done.stdout, done.stderr
    else:
        code, printed, errors = call("run", *words)
    assert code == 0, f"{printed}{errors}"


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs a command in this process and returns its exit status, its output and its errors."""

    def _call(*words: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["experiments", *words])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code or 0, *capsys.readouterr()

    return _call
