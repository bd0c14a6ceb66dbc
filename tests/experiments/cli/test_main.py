"""Help and errors, as a user sees them."""

import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import click
import pytest
import typer

from experiments.cli.main import app
from fl.results.rows import COLUMNS
from tests.experiments.cli.conftest import ROOT

Call = Callable[..., tuple[object, str, str]]


def test_driftfed_is_the_same_command() -> None:
    script = Path(sys.executable).with_name("driftfed")
    words = [[str(script)], [sys.executable, "-m", "experiments"]]
    first, second = (
        subprocess.run([*one, "list"], cwd=ROOT, capture_output=True, text=True, check=True) for one in words
    )
    assert first.stdout == second.stdout and "quickstart" in first.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["run", "quikstart"],
            "unknown experiment 'quikstart'; known: ablation, detection, drift-suite, feature-drift, fig1",
        ),
        (["run", "fig77"], "did you mean"),
        (["run", "main", "--settings", "m=3"], "no setting of 'main' is called 'm=3'; known: strangers"),
        (["drift", "--set", "drift"], "--set drift: write KEY=VALUE"),
        (["run", "main", "--scale", "big"], "unknown scale 'big'; known: cpu, paper, smoke"),
        (["run", "main", "--engine", "mpi"], "unknown engine 'mpi'; known: flower, local, loopback, ray"),
        (["run", "main", "--set", "client.lr"], "--set client.lr: write KEY=VALUE"),
        (["run", "main", "--set", "lr=0.1"], "`lr` is now `client.lr`"),
        (
            ["run", "main", "--set", "data.nam=x"],
            "(did you mean 'data.name'?); `python -m experiments settings data` explains",
        ),
        (["run", "main", "--set", "client.lr=fast"], "client.lr = 'fast': input should be a valid number"),
        (["run", "main", "--set", "vq.codes=8"], "vq.codes is an option of workload 'vq', which this run does not use"),
        (["run", "main", "--seeds", "one"], "seeds = 'one' is not a list of integers"),
        (["run", "main", "--set", "data.name=har-uci"], "python -m experiments data fetch har-uci"),
        (["run", "main", "--set", "data.root=/nowhere"], "/nowhere, which is not an existing folder"),
        (["run", "main", "--set", "out=here"], "--set out=here: use the option --out of `run`"),
        (
            ["run", "main", "--set", "devices.placement=own"],
            "devices.placement = 'own' does not fit `run`, which simulates devices: use --engine loopback",
        ),
        (["run", "quickstart", "--set", "setting=x"], "setting = 'x' would be the name of 2 settings (subject, m=2)"),
        (["run", "."], "pyproject.toml cannot be read"),
        (["run", "./nowhere", "--scale", "smoke"], "an app has neither"),
        (["drift", "--out", f"{__file__}/below"], "test_main.py/below': Not a directory"),
        (["settings", "drfit"], "the run-config has no section, component or key 'drfit'; similar: drift"),
        (["settings", "cifar10"], "data set 'cifar10' has no options; name it with data.name = 'cifar10'"),
        (["new", "my app"], "'my app' cannot name an app"),
        (["new", "numpy"], "Python already has a package 'numpy'"),
        (["plot", "/nowhere"], "/nowhere"),
        (["data", "import", "cifar10", "/nowhere.zip"], "/nowhere.zip does not exist"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_sentence_and_exit_status_1(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, errors = call(*words)
    assert code == 1
    assert errors.startswith("error: ") and message in errors and errors.count("\n") == 1
    assert not list(tmp_path.iterdir()), "nothing was started"


@pytest.mark.parametrize(
    "words", [["run", "main", "--out", ""], ["plot", ""], ["merge", "", "--out", "new"], ["new", ""]]
)
def test_an_empty_name_is_not_the_current_folder(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, errors = call(*words)
    assert code == 2 and "name a folder, or '.' for the current one" in errors
    assert not list(tmp_path.iterdir())


def test_a_figure_that_cannot_be_written_is_one_sentence(tmp_path: Path, call: Call) -> None:
    (tmp_path / "rounds.csv").write_text(",".join(COLUMNS) + "\n")
    (tmp_path / "table.md").mkdir()
    code, _, errors = call("plot", str(tmp_path))
    assert code == 1
    assert errors.startswith(f"error: cannot write to '{tmp_path}': ")


def test_interrupted_while_modules_load(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(ModuleType):
        def __getattr__(self, name: str) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["experiments", "list"])
    monkeypatch.setitem(sys.modules, "experiments.cli.main", Slow("experiments.cli.main"))
    with pytest.raises(SystemExit) as end:
        runpy.run_module("experiments", run_name="__main__")
    assert end.value.code == 130


def test_an_error_of_code_names_its_file_and_line(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be the user's own; one sentence, no traceback."""

    def broken(*values: object, **options: object) -> None:
        raise ZeroDivisionError("of\nmine")

    monkeypatch.setattr("experiments.finish.finish", broken)
    code, _, errors = call("plot", ".")
    assert code == 1 and errors.count("\n") == 1
    assert re.match(rf"error: broken failed in {re.escape(__file__)}, line \d+: ZeroDivisionError: of mine; ", errors)


def commands(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        whole = f"{path} {name}".strip()
        if isinstance(command, click.Group):
            yield from commands(command, whole)
        else:
            yield whole, command


def test_the_help_of_every_command_has_an_example() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, click.Group)
    found = dict(commands(group))
    assert {
        "list",
        "run",
        "plot",
        "merge",
        "new",
        "settings",
        "drift",
        "bench",
        "attack",
        "soak",
        "chat",
    } <= found.keys()
    assert {"data fetch", "deploy supernode", "spa train"} <= found.keys()
    for name, command in found.items():
        assert f"Example: [bold]python -m experiments {name}" in (command.help or ""), name
        assert all(getattr(p, "help", "") for p in command.params if p.name != "help"), (
            f"{name}: a parameter has no help"
        )


def test_help_shows_commands_and_explains_arguments(call: Call) -> None:
    code, helped, _ = call("--help")
    assert code == 0 and all(name in helped for name in ("list", "run", "plot", "settings", "data", "deploy", "new"))
    assert "An experiment of" in call("run", "--help")[1], "arguments are explained, not options alone"


def test_data_sets_are_listed(call: Call) -> None:
    _, listed, _ = call("data", "where")
    assert "har-embedded" in listed and "generated" in listed


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        ("import experiments.cli.main", ["torch", "flwr", "pandas", "matplotlib"]),
        ("import experiments.finish; from experiments.plots import PLOTS; [*PLOTS.values()]", ["torch", "flwr"]),
    ],
    ids=["help and errors", "figures"],
)
def test_what_is_not_needed_is_not_loaded(code: str, heavy: list[str]) -> None:
    code = f"import sys; {code}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
