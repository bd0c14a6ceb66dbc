"""An app that `new` wrote runs outside of the project's folder, on every engine."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from experiments.cli.new import write_app
from fl.results.reader import read_config, read_rounds
from tests.experiments.cli.conftest import ROOT, experiments

Call = Callable[..., tuple[object, str, str]]
SHORT = ["--set=rounds=2", "--set=rounds-per-step=1", "--set=client.adapt-epochs=1"]
METHODS = {"fedavg", "fedavg+ft", "fed-hello", "fed-hello+ft"}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("apps") / "my-app"
    write_app(folder)
    return folder


def python(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run([sys.executable, *words], cwd=folder, env=variables, capture_output=True, text=True)


def rows(out: Path) -> pd.DataFrame:
    return read_rounds(out).drop(columns="wall_s")


def test_the_app_runs_on_worker_processes(app: Path) -> None:
    done = experiments("run", ".", "--workers", "2", *SHORT, "--set=fed-hello.decay=0.5", cwd=app)
    assert done.returncode == 0, done.stdout + done.stderr
    found, config = read_rounds(app / "runs" / "my-app"), read_config(app / "runs" / "my-app")
    assert set(found["experiment"]) == {"my-app"} and set(found["method"]) == METHODS and len(found) == 8
    assert not found["failures"].any() and not found["refused"].any()
    setting = config["settings"]["default"]
    assert setting["data"]["name"] == "my_app.data:Rings"
    assert setting["fed-hello"] == {"pull": 0.5, "decay": 0.5, "prior": False, "smooth": False}
    assert (app / "runs" / "my-app" / "figure.png").stat().st_size > 10_000


def test_its_own_test_passes_and_ruff_finds_nothing(app: Path) -> None:
    done = python(app, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr
    for words in (["check"], ["format", "--check"]):
        done = python(app, "-m", "ruff", *words, "--no-cache", "--config", str(ROOT / "pyproject.toml"), ".")
        assert done.returncode == 0, done.stdout + done.stderr


def test_flwr_run_downloads_nothing_for_it(app: Path, tmp_path: Path) -> None:
    """`flwr run` synchronises the dependencies of an app before each run: offline, with an empty cache."""
    (tmp_path / "pyproject.toml").write_bytes((app / "pyproject.toml").read_bytes())
    offline = {"UV_OFFLINE": "1", "UV_CACHE_DIR": str(tmp_path / "c"), "UV_PROJECT_ENVIRONMENT": str(tmp_path / "e")}
    words = [*"-m uv sync --python".split(), sys.executable]
    done = python(tmp_path, *words, *"--no-install-project --no-install-package flwr --inexact".split(), **offline)
    assert done.returncode == 0 and "Resolved 1 package " in done.stderr, done.stderr


def test_a_folder_that_exists_is_left_alone(app: Path, call: Call) -> None:
    before = sorted(path for path in app.rglob("*") if path.is_file())
    code, _, errors = call("new", str(app))
    assert code == 1 and errors == f"error: {app} already exists: choose another name, or remove it first\n"
    assert sorted(path for path in app.rglob("*") if path.is_file()) == before


def test_new_names_the_next_commands(tmp_path: Path, call: Call) -> None:
    code, printed, _ = call("new", str(tmp_path / "other"))
    assert code in (0, None) and f"cd {tmp_path / 'other'} && python -m experiments run ." in printed
    readme = (tmp_path / "other" / "README.md").read_text()
    assert "python -m experiments run ." in readme and "flwr run ." in readme and "python -m pytest" in readme
    assert "$" not in readme


@pytest.mark.skipif("DRIFTFED_SLOW" not in os.environ, reason="minutes of two idle cores: set DRIFTFED_SLOW=1")
def test_every_engine_gives_the_same_rows(app: Path, tmp_path: Path) -> None:
    """Worker processes, Ray actors and Flower's SuperNodes import the app's package too."""
    engines = {"one": ["--workers", "1"], "two": ["--workers", "2"], "ray": ["--engine", "ray", "--workers", "2"]}
    engines |= {"flower": ["--engine", "flower"], "inside": ["--engine", "flower", "--set=engine=local"]}
    tables = {}
    for name, options in engines.items():
        done = experiments("run", ".", *SHORT, *options, "--out", str(tmp_path / name), cwd=app, timeout=900)
        assert done.returncode == 0, f"{name}: {done.stdout} {done.stderr}"
        tables[name] = rows(tmp_path / name)
        pd.testing.assert_frame_equal(tables[name], tables["one"], rtol=1e-6, obj=name)
    assert set(tables["one"]["method"]) == METHODS
