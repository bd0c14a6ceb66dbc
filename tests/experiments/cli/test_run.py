"""Commands `run` and `plot`, and the catalog that they read."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.catalog import EXPERIMENTS, SCALES, VIEWS
from experiments.catalog.tasks import setting
from experiments.plots import PLOTS
from experiments.studies import STUDIES
from fl.workloads.resolve import resolve
from tests.experiments.cli.conftest import ROOT, SMALL, Call
from tests.fl.conftest import without_clock


def test_an_interrupted_run_that_continues_gives_the_csv_of_an_unbroken_run(call: Call, tmp_path: Path) -> None:
    command = ["run", "main", "--scale", "smoke", *SMALL, "--set", "rounds=4", "--workers", "2"]
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
    end = time.monotonic() + 240
    while time.monotonic() < end and not ((cut / "rounds.csv").exists() and len(without_clock(cut)) > 5):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes of the group
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert errors.strip() == "interrupted; the same command continues where it stopped"
    for out in (cut, tmp_path / "whole"):
        assert call(*command, "--out", str(out))[0] == 0
    assert without_clock(cut) == without_clock(tmp_path / "whole")
    assert "complete: nothing was run; --overwrite runs it again" in call(*command, "--out", str(cut))[1]


def test_a_study_runs_is_skipped_when_complete_and_is_drawn_again(call: Call, tmp_path: Path) -> None:
    command = ["run", "fig13", "--scale", "smoke", "--settings", "m=2", "--set", "devices.count=2"]
    command += ["--out", str(tmp_path)]
    code, printed, errors = call(*command, "--seeds", "1")
    assert code == 0, printed + errors
    rows = (tmp_path / "study.csv").read_text()
    assert len(rows.splitlines()) == 1 + 3 * 2 * 6 * 3  # trainings, devices, sizes, kinds
    _, printed, _ = call(*command, "--seeds", "1,2")
    assert "har m=2  seed 1: complete, skipped" in printed
    assert (tmp_path / "study.csv").read_text().startswith(rows)
    code, _, errors = call(*command, "--set", "eclm.modules=8", "--set", "eclm.top-k=4")
    assert code == 1 and "holds results of another config" in errors
    figure = (tmp_path / "figure.png").read_bytes()
    (tmp_path / "figure.png").unlink()
    assert call("plot", str(tmp_path))[0] == 0
    assert (tmp_path / "figure.png").read_bytes() == figure


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_resolves_at_every_scale(name: str, scale: str) -> None:
    experiment = EXPERIMENTS[name]
    settings = experiment.resolve(scale, [7, 8], {"eval.every": "7"})
    assert [s.setting for s in settings] == list(experiment.settings[scale])
    assert all(s.experiment == name and s.seed_list == [7, 8] and s.eval.every == 7 for s in settings)
    assert all(resolve(s, study=bool(experiment.study)).settings is s for s in settings)
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
        for report in resolve(s).reports
    }
    assert known >= set(experiment.paper)


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_is_of_an_experiment(name: str) -> None:
    view = VIEWS[name]
    assert view.name == name not in EXPERIMENTS and view.of in EXPERIMENTS and view.plot in PLOTS


def test_the_papers_hyper_parameters() -> None:
    """ECLM 7.1: 25 of 500 devices, 3 local epochs, 10 of local adaptation, learning rate 0.001, batches of 16."""
    for s in EXPERIMENTS["table1"].resolve("paper", [1], {}):
        client = s.client
        assert (s.devices.count, s.cohort, client.local_epochs, client.adapt_epochs) == (500, 25, 3, 10)
        assert (client.lr, client.batch_size, s.data.image_size) == (0.001, 16, 0)
        modules = {"mlp": 16, "resnet18": 16, "vgg16": 32, "resnet34": 32}[s.model.name]
        assert resolve(s).options["eclm"].modules == modules  # type: ignore[attr-defined]


def test_held_out_changes_nothing_but_data_and_seeds() -> None:
    """Fashion-MNIST runs with what was chosen on CIFAR-10, and no other one with modular models its seeds."""
    held = EXPERIMENTS["held-out"]
    others = [other for name, other in EXPERIMENTS.items() if other is not held and not name.startswith("vq-")]
    assert not {seed for other in others for seed in other.seeds} & set(held.seeds)
    for scale in SCALES:
        for part, ours in held.settings[scale].items():
            theirs = setting(part if part.startswith("har") else f"cifar10 {part}", scale)
            changed = {key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key)}
            assert changed <= {"data.name", "data.image-size"}


def test_settings_option_picks_settings() -> None:
    chosen = EXPERIMENTS["table1"].resolve("cpu", [1], {}, ["cifar10", "har"])
    assert [s.setting for s in chosen] == ["har subject", "har m=2", "cifar10 m=2", "cifar10 m=5"]
