"""The commands as a user types them."""

import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from experiments.catalog import EXPERIMENTS, SCALES, VIEWS
from experiments.cli.main import main
from experiments.plots import PLOTS
from experiments.studies import STUDIES
from fl.results.reader import read_rounds
from fl.results.rows import COLUMNS
from strategies import STRATEGIES

ROOT = Path(__file__).resolve().parents[3]
SMALL = "--set devices=6 --set cohort=3 --set rounds=2 --set rounds-per-step=1 --set adapt-epochs=1"


def experiments(*words: str, cwd: Path = ROOT, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    command = [sys.executable, "-m", "experiments", *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout)


def without_clock(path: Path) -> list[str]:
    return [line.rpartition(",")[0] for line in path.read_text().splitlines()]


def test_all_engines_write_the_same_csv(tmp_path: Path) -> None:
    """A real `flwr run` with two Ray actors, one with our workers, our two Ray actors, two worker processes, and none.

    Sums are made in another order each time, in double precision: what is trained differs in a last bit at most.
    """
    outs = {}
    engines = {"flower": ["--engine", "flower"], "two": ["--workers", "2"], "one": ["--workers", "1"]}
    engines |= {"ray": ["--engine", "ray", "--workers", "2"], "inside": ["--engine", "flower", "--set", "engine=local"]}
    for name, options in engines.items():
        outs[name] = tmp_path / name
        done = experiments("run", "main", "--scale", "smoke", *SMALL.split(), "--out", str(outs[name]), *options)
        assert done.returncode == 0, done.stdout + done.stderr
        assert (outs[name] / "figure.png").stat().st_size > 10_000
        assert "eclm" in (outs[name] / "summary.csv").read_text()
    tables = {name: read_rounds(out).drop(columns="wall_s") for name, out in outs.items()}
    for name in ("flower", "inside", "two", "ray"):
        pd.testing.assert_frame_equal(tables[name], tables["one"], rtol=1e-6, obj=name)
    assert len(tables["one"]) == 2 * 11
    (outs["one"] / "config.toml").unlink()
    assert experiments("plot", str(outs["one"])).returncode == 0  # from the CSVs alone


def test_text_really_split_under_flower_gives_what_is_simulated_locally(tmp_path: Path) -> None:
    """The two halves in processes of their own, codes on the wire, on text that ships: no network, no download."""
    words = "run", "text", "--scale", "smoke", "--settings", "codes", "--set", "strategies=fedavg"
    for name, options in {"split": ("--engine", "flower", "--set", "split=messages"), "simulated": ()}.items():
        done = experiments(*words, "--out", str(tmp_path / name), *options)
        assert done.returncode == 0, done.stdout + done.stderr
    split, simulated = (without_clock(tmp_path / name / "rounds.csv") for name in ("split", "simulated"))
    assert split == simulated and len(split) == 1 + 2 * 2
    measures = [(tmp_path / name / "measures.csv").read_bytes() for name in ("split", "simulated")]
    assert measures[0] == measures[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["run", "quikstart"],
            "unknown experiment 'quikstart'; known: ablation, feature-drift, fig1, fig10, fig11, fig12",
        ),
        (["run", "fig77"], "did you mean"),
        (["run", "main", "--settings", "m=3"], "no setting of 'main' is called 'm=3'; known: m=2"),
        (["drift", "--set", "drift"], "--set drift: write KEY=VALUE"),
        (["run", "main", "--scale", "big"], "unknown scale 'big'; known: cpu, paper, smoke"),
        (["run", "main", "--engine", "mpi"], "unknown engine 'mpi'; known: flower, local, loopback, ray"),
        (["run", "main", "--set", "lr"], "--set lr: write KEY=VALUE"),
        (["run", "main", "--set", "datset=x"], "(did you mean 'dataset'?); `python -m experiments settings` explains"),
        (["run", "main", "--set", "lr=fast"], "lr = 'fast': input should be a valid number"),
        (["run", "main", "--seeds", "one"], "seeds = 'one' is not a list of integers"),
        (["run", "main", "--set", "dataset=har-uci"], "python -m experiments data fetch har-uci"),
        (["run", "main", "--set", "data-root=/nowhere"], "/nowhere, which is not an existing folder"),
        (["run", "main", "--set", "out=here"], "--set out=here: with `run` this is said by --out"),
        (
            ["run", "main", "--set", "placement=own"],
            "--set placement=own: `run` stands in for devices; --engine loopback",
        ),
        (["run", "quickstart", "--set", "setting=x"], "setting = 'x' would be the name of 2 settings (subject, m=2)"),
        (["drift", "--out", f"{__file__}/below"], "test_cli.py/below': Not a directory"),
        (["plot", "/nowhere"], "/nowhere"),
        (["data", "import", "cifar10", "/nowhere.zip"], "/nowhere.zip does not exist"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_status_1(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["experiments", *words])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main()
    errors = capsys.readouterr().err
    assert end.value.code == 1
    assert errors.startswith("error: ") and said in errors and errors.count("\n") == 1
    assert not list(tmp_path.iterdir()), "nothing was started"


@pytest.mark.parametrize("words", [["run", "main", "--out", ""], ["plot", ""], ["merge", "", "--out", "new"]])
def test_no_folder_is_not_the_current_one(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["experiments", *words])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2 and "name a folder, or '.' for the current one" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_figure_that_cannot_be_written_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["experiments", "plot", str(tmp_path)])
    (tmp_path / "rounds.csv").write_text(",".join(COLUMNS) + "\n")
    (tmp_path / "config.toml").write_text("")  # says nothing of the order of the methods
    (tmp_path / "table.md").mkdir()
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    assert capsys.readouterr().err.startswith(f"error: cannot write to '{tmp_path}': ")


def test_interrupted_while_modules_load(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(ModuleType):
        def __getattr__(self, name: str) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["experiments", "list"])
    monkeypatch.setitem(sys.modules, "experiments.cli.main", Slow("experiments.cli.main"))
    with pytest.raises(SystemExit) as end:
        runpy.run_module("experiments", run_name="__main__")
    assert end.value.code == 130


def test_help_names_every_command_and_settings_every_key() -> None:
    helped = experiments("--help").stdout
    assert all(command in helped for command in ("list", "run", "plot", "settings", "data", "deploy"))
    assert "An experiment of" in experiments("run", "--help").stdout, "arguments are explained, not options alone"
    assert "drift-fraction" in experiments("settings").stdout
    assert "har-embedded" in experiments("data", "where").stdout


def test_interrupted_and_run_again_gives_the_csv_of_an_unbroken_run(tmp_path: Path) -> None:
    command = ["run", "main", "--scale", "smoke", *SMALL.split(), "--set", "rounds=4", "--workers", "2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    cut = tmp_path / "cut"
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments", *command, "--out", str(cut)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background inherits it ignored
    )
    end = time.monotonic() + 120
    while time.monotonic() < end and not ((cut / "rounds.csv").exists() and len(without_clock(cut / "rounds.csv")) > 5):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes of the group
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert errors.strip() == "interrupted; the same command goes on where it stopped"
    assert experiments(*command, "--out", str(cut)).returncode == 0
    assert experiments(*command, "--out", str(tmp_path / "whole")).returncode == 0
    assert without_clock(cut / "rounds.csv") == without_clock(tmp_path / "whole" / "rounds.csv")


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_resolves_at_every_scale(name: str, scale: str) -> None:
    experiment = EXPERIMENTS[name]
    settings = experiment.resolve(scale, [7, 8], {"lr": "0.5"})
    assert [s.setting for s in settings] == list(experiment.settings[scale])
    assert all(s.experiment == name and s.seed_list == [7, 8] and s.lr == 0.5 for s in settings)
    assert experiment.plot in PLOTS and (not experiment.study or experiment.study in STUDIES)
    assert set(experiment.cost) == set(SCALES)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_values_of_the_paper_belong_to_a_setting_and_a_method(name: str) -> None:
    experiment = EXPERIMENTS[name]
    if experiment.study:
        return
    known = {
        (s.setting, report)
        for scale in SCALES
        for s in experiment.resolve(scale, [1], {})
        for method in s.methods
        for report in STRATEGIES[method].reports
    }
    assert known >= set(experiment.paper)


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_is_of_an_experiment(name: str) -> None:
    view = VIEWS[name]
    assert view.name == name not in EXPERIMENTS and view.of in EXPERIMENTS and view.plot in PLOTS


def test_the_papers_hyper_parameters() -> None:
    """ECLM 7.1: 25 of 500 devices, 3 local epochs, 10 of local adaptation, learning rate 0.001, batches of 16."""
    for s in EXPERIMENTS["table1"].resolve("paper", [1], {}):
        assert (s.devices, s.cohort, s.local_epochs, s.adapt_epochs, s.lr, s.batch_size) == (500, 25, 3, 10, 0.001, 16)
        assert s.image_size == 0 and s.modules == {"mlp": 16, "resnet18": 16, "vgg16": 32, "resnet34": 32}[s.model]


def test_held_out_changes_nothing_but_data_and_seeds() -> None:
    """What runs on Fashion-MNIST is what was chosen on CIFAR-10, and no other experiment has seen its seeds."""
    held, table = EXPERIMENTS["held-out"], EXPERIMENTS["table1"]
    assert not {seed for other in EXPERIMENTS.values() if other is not held for seed in other.seeds} & set(held.seeds)
    for scale in SCALES:
        for part, ours in held.settings[scale].items():
            theirs = table.settings[scale][f"cifar10 {part}"]
            assert {key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key)} <= {"dataset", "image-size"}


def test_settings_option_picks_settings() -> None:
    chosen = EXPERIMENTS["table1"].resolve("cpu", [1], {}, ["cifar10", "har"])
    assert [s.setting for s in chosen] == ["har subject", "har m=2", "cifar10 m=2", "cifar10 m=5"]


def test_a_study_runs_is_skipped_when_complete_and_is_drawn_again(tmp_path: Path) -> None:
    command = ["run", "fig13", "--scale", "smoke", "--settings", "m=2", "--set", "devices=2", "--out", str(tmp_path)]
    first = experiments(*command, "--seeds", "1")
    assert first.returncode == 0, first.stdout + first.stderr
    rows = (tmp_path / "study.csv").read_text()
    assert len(rows.splitlines()) == 1 + 3 * 2 * 6 * 3  # trainings, devices, sizes, kinds
    again = experiments(*command, "--seeds", "1,2")
    assert "har m=2  seed 1: complete, skipped" in again.stdout
    assert (tmp_path / "study.csv").read_text().startswith(rows)
    refused = experiments(*command, "--set", "modules=8", "--set", "top-k=4")
    assert refused.returncode == 1 and "holds results of another config" in refused.stderr
    figure = (tmp_path / "figure.png").read_bytes()
    (tmp_path / "figure.png").unlink()
    assert experiments("plot", str(tmp_path)).returncode == 0
    assert (tmp_path / "figure.png").read_bytes() == figure


def test_drift_draws_the_shares_of_the_world(tmp_path: Path) -> None:
    options = "--devices 2 --steps 3 --set partition=m-classes --set classes-per-device=1 --set drift=class-swap"
    assert experiments("drift", *options.split(), "--out", str(tmp_path)).returncode == 0
    lines = (tmp_path / "drift.csv").read_text().splitlines()
    assert lines[0] == "device,step,cell,share,severity" and len(lines) == 1 + 2 * 3 * 5
    held = [line.split(",")[:3] for line in lines if line.endswith(",1,0")]
    assert len(held) == 6 and held[0][2] != held[1][2]  # one class a device, another one at each step
    assert (tmp_path / "drift.png").stat().st_size > 5_000
