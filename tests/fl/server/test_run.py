"""The round loop end to end: same numbers on any number of workers, faults counted, a second run that goes on."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from flwr.app import Error, Message, RecordDict

from fl.config.settings import Settings, SettingsError
from fl.engines.grid import LocalGrid
from fl.messages import records as wire
from fl.results.files import read_devices, read_rounds
from fl.server.run import NobodyAnswered, open_results, run
from fl.workloads import classify as workload
from strategies import STRATEGIES
from strategies.eclm import ECLM
from strategies.fedavg import FedAvg
from tests.fl.conftest import SMALL, without_clock


def test_one_and_two_workers_write_the_same_csv(play: Callable, tmp_path: Path) -> None:
    """Two of them add up in an order of their own, in double precision: a last bit may differ."""
    for workers in (1, 2):
        play(tmp_path / str(workers), workers=workers)
    for read in (read_rounds, read_devices):
        one, two = (read(tmp_path / name).drop(columns="wall_s", errors="ignore") for name in ("1", "2"))
        pd.testing.assert_frame_equal(two, one, rtol=1e-6)


def test_every_method_reports_its_rows(play: Callable, tmp_path: Path) -> None:
    play(tmp_path, strategies=",".join(STRATEGIES))
    rounds = pd.read_csv(tmp_path / "rounds.csv")
    reports = [report for strategy in STRATEGIES.values() for report in strategy.reports]
    assert list(rounds.method.unique()) == reports
    assert (rounds.groupby("method").size() == 4).all()
    scored = rounds[rounds.evaluated > 0]
    assert list(scored.method.unique()) == reports
    assert (scored.evaluated == 6).all() and set(scored["round"]) == {2, 4}
    assert scored.accuracy_mean.between(0.2, 1).all()
    assert (rounds.failures == 0).all() and (rounds.refused == 0).all()
    bytes_down = rounds.groupby("method").bytes_down.sum()
    assert (rounds[rounds.method == "an"].bytes_down > 0).tolist() == [True, False, False, False]  # once per device
    assert bytes_down["na"] == 0 and bytes_down["la"] > 0  # each device fetches the model once
    assert rounds.groupby("method").bytes_up.sum()["la"] < 1000  # only that it is done, never a model
    assert bytes_down["eclm"] < 0.5 * bytes_down["fedavg"]


def test_bytes_are_those_of_the_messages(play: Callable, tmp_path: Path) -> None:
    """FedAvg, 3 devices a round: at least 3 models of float32 each way, and little more."""
    play(tmp_path, strategies="fedavg")
    rounds = pd.read_csv(tmp_path / "rounds.csv")
    from fl.workloads.world import architectures

    params = sum(p.numel() for p in architectures(Settings.parse(SMALL))["dense"].whole(0).parameters())
    for column in ("bytes_down", "bytes_up"):
        assert rounds[column].between(3 * 4 * params, 3 * 4 * params + 3 * 2500).all()


def test_how_many_devices_are_delivered_to_at_once_changes_nothing(play, tmp_path: Path, monkeypatch) -> None:
    how = {"strategies": "la,heterofl,eclm", "candidates": 2.0}
    whole = play(tmp_path / "all", **how)
    monkeypatch.setattr("fl.server.adapter.AT_ONCE", 4)
    assert play(tmp_path / "parts", **how) == whole


def test_class_shares_reach_the_device(play: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device of one class that answers only what it holds is always right; by itself the model is not."""

    class Corrected(FedAvg):
        def deliver(self, profiles):
            return {device: replace(task, masked="prior") for device, task in super().deliver(profiles).items()}

    one_class = {"partition": "m-classes", "classes-per-device": 1, "drift": "none", "strategies": "fedavg"}
    play(tmp_path / "free", **one_class)
    monkeypatch.setitem(STRATEGIES, "fedavg", Corrected)
    play(tmp_path / "corrected", **one_class)
    free, corrected = (read_rounds(tmp_path / name).query("evaluated > 0") for name in ("free", "corrected"))
    assert (corrected.accuracy_mean == 1).all() and (corrected.loss == 0).all()
    assert (free.query("method == 'fedavg'").accuracy_mean < 1).all()


def test_eclm_without_cloud_is_la_where_the_sub_model_is_the_whole_model(play: Callable, tmp_path: Path) -> None:
    """One module of full width, limits that admit it, and both models left as the take-over made them."""
    whole = {"modules": 1, "shrink": 1, "top-k": 1, "modular-epochs": 0, "ability-epochs": 0, "background-load": 0.0}
    play(tmp_path, strategies="la,eclm-local", **whole, **{"limit-low": 3.0, "limit-high": 3.0})
    rounds = read_rounds(tmp_path)
    la, local = (rounds[rounds.method == name].set_index("round") for name in ("la", "eclm-local"))
    for column in ("accuracy_mean", "accuracy_p10", "loss", "evaluated", "devices"):
        np.testing.assert_array_equal(la[column], local[column], err_msg=column)
    # A device hears of the cloud once: later steps bring orders, no model, no selector and no query.
    assert (local.bytes_down[[2, 4]] == 0).all() and 0 < local.bytes_down[3] < 0.1 * local.bytes_down[1]


def test_a_second_run_skips_what_is_complete_and_finishes_the_rest(play: Callable, tmp_path: Path) -> None:
    whole = play(tmp_path / "whole", strategies="na,fedavg")
    play(tmp_path / "parts", strategies="na")
    before = (tmp_path / "parts" / "rounds.csv").read_bytes()
    play(tmp_path / "parts", strategies="na,fedavg")
    after = (tmp_path / "parts" / "rounds.csv").read_bytes()
    assert after.startswith(before)
    assert without_clock(tmp_path / "parts") == whole


def test_a_run_cut_short_is_run_again_to_the_same_csv(play: Callable, tmp_path: Path) -> None:
    whole = play(tmp_path / "whole", strategies="na,fedavg")

    class Stop(Exception):
        pass

    def stop(event) -> None:
        if event.kind == "round" and event.what == "fedavg" and event.at == 3:
            raise Stop

    settings = Settings.parse({**SMALL, "strategies": "na,fedavg"})
    out = tmp_path / "cut"
    with pytest.raises(Stop), open_results([settings], out, False) as results, LocalGrid(settings.flat(), 6) as grid:
        run(settings, grid, results, stop)
    assert 4 < len(without_clock(out)) < len(whole)
    assert play(out, strategies="na,fedavg") == whole


@pytest.fixture
def breaking(monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Make one device misbehave in training."""

    def _break(device: int, how: Callable[[workload.Trained], workload.Trained]) -> None:
        honest = workload.train

        def train(settings, order, store, state):
            got = honest(settings, order, store, state)
            return how(got) if order.device == device else got

        monkeypatch.setattr(workload, "train", train)

    return _break


def poison(state: dict, value: float) -> dict:
    return {name: torch.full_like(v, value) for name, v in state.items()}


@pytest.mark.parametrize(
    ("how", "column"),
    [
        (lambda t: workload.Trained(poison(t.state, float("nan")), t.examples, t.loss), "refused"),
        (lambda t: workload.Trained({n: v[:1] for n, v in t.state.items()}, t.examples, t.loss), "refused"),
        (lambda t: workload.Trained({**t.state, "extra": torch.zeros(2)}, t.examples, t.loss), "refused"),
        (lambda t: workload.Trained(t.state, 0, t.loss), "refused"),
        (lambda t: workload.Trained(t.state, -5, t.loss), "refused"),
        (lambda t: workload.Trained(t.state, 10**9, t.loss), "refused"),
        (lambda t: 1 / 0, "failures"),
    ],
    ids=["nan", "mis-shaped", "unknown entry", "no examples", "negative examples", "too many examples", "crash"],
)
@pytest.mark.parametrize("strategy", ["fedavg", "heterofl", "eclm"])
def test_one_bad_device_is_counted_and_reaches_nothing(
    play, breaking, tmp_path, how, column: str, strategy: str
) -> None:
    """Device 2 is bad: the model becomes what the others alone make of it."""
    breaking(2, how)
    play(tmp_path, strategies=strategy, **{"devices": 4, "cohort": 4, "rounds": 2})
    rounds = pd.read_csv(tmp_path / "rounds.csv").drop_duplicates("round")
    assert (rounds[column] == 1).all() and (rounds.devices == 3).all()
    assert rounds[["failures", "refused"]].sum(axis=1).eq(1).all()
    assert pd.read_csv(tmp_path / "rounds.csv").accuracy_mean.dropna().gt(0.2).all()


@pytest.mark.parametrize("classes", [[], [0, 99], [-1]])
def test_a_device_cannot_claim_classes_that_do_not_exist(play, breaking, tmp_path, classes: list[int]) -> None:
    breaking(2, lambda t: replace(t, classes=classes))
    play(tmp_path, strategies="heterofl", **{"devices": 4, "cohort": 4, "rounds": 1})
    assert (pd.read_csv(tmp_path / "rounds.csv").refused == 1).all()


def test_a_cohort_that_fails_whole_leaves_the_model_as_it_was(play, breaking, tmp_path) -> None:
    honest = play(tmp_path / "na", strategies="na")

    def crash(order_device: int) -> None:
        breaking(order_device, lambda t: 1 / 0)

    for device in range(6):
        crash(device)
    play(tmp_path / "fed", strategies="fedavg")
    na, fed = (pd.read_csv(tmp_path / name / "rounds.csv") for name in ("na", "fed"))
    assert (fed.devices == 0).all() and (fed.failures == 3).all()
    kept = fed[fed.method == "fedavg"].accuracy_mean.dropna().tolist()
    assert kept == na[na.method == "na"].accuracy_mean.dropna().tolist() and honest


@pytest.mark.parametrize("spoil", [lambda score: 1 / 0, lambda score: replace(score, samples=-1)])
def test_a_round_in_which_nobody_is_scored_ends_the_run_which_goes_on_from_there(
    play, tmp_path, monkeypatch, spoil: Callable
) -> None:
    """A mistake in what devices run must not pass for a result, nor for a complete run."""
    honest = workload.evaluate

    def evaluate(settings, order, *rest):
        score = honest(settings, order, *rest)
        return spoil(score) if order.round > 2 else score

    with monkeypatch.context() as spoilt, pytest.raises(NobodyAnswered) as error:
        spoilt.setattr(workload, "evaluate", evaluate)
        play(tmp_path / "cut", strategies="fedavg")
    said = str(error.value)
    assert said.startswith("fedavg: no device could be scored in round 4; the last reason: ")
    assert ("division by zero (File" in said and "test_run.py" in said) or "score of device 5 refused: -1 and " in said
    assert play(tmp_path / "cut", strategies="fedavg") == play(tmp_path / "whole", strategies="fedavg")


@pytest.mark.parametrize(
    "told",
    [
        {"link": float("nan")},
        {"memory": -0.1},
        {"importance.block.modules": [0.5, 0.5]},
        {"importance.block.modules": [1.0] * 16},
        {"importance.block.modules": [-1.0, 2.0] + [0.0] * 14},
        {"compute": None},
        {"held.block.modules": [3, 3]},
        {"held.block.modules": [3, 16]},
        {"held.block.modules": []},
        {"macs": float("nan")},
        {"macs": -1.0},
    ],
)
def test_a_lying_profile_is_refused(play, tmp_path, monkeypatch, told: dict) -> None:
    honest = workload.profile

    def profile(settings, order, store, with_importance):
        got = honest(settings, order, store, with_importance)
        if order.device == 2:
            got = {key: value for key, value in {**got, **told}.items() if value is not None}
        return got

    monkeypatch.setattr(workload, "profile", profile)
    play(tmp_path, strategies="eclm", **{"devices": 4, "cohort": 4, "rounds": 2})
    rounds = pd.read_csv(tmp_path / "rounds.csv").drop_duplicates("round")
    assert (rounds.failures == 1).all() and (rounds.devices == 3).all()


def test_limits_too_small_for_any_sub_model(play, tmp_path, monkeypatch) -> None:
    """It is said; nobody trains, and the smallest sub-models are served."""
    said = []
    monkeypatch.setattr("fl.server.run.log", lambda level, text, *values: said.append(text % values))
    play(tmp_path, strategies="eclm,fedavg", rounds=2, **{"limit-low": 0.01, "limit-high": 0.02})
    assert len(said) == 1 and said[0].startswith("eclm: no device will train. One module per layer takes 0.")
    rounds = pd.read_csv(tmp_path / "rounds.csv").query("method == 'eclm'")
    assert (rounds.devices == 0).all() and rounds.accuracy_mean.iloc[-1] > 0.2


def test_a_core_is_in_every_sub_model_whatever_a_device_says(play, tmp_path, monkeypatch) -> None:
    """Here as noise might have it: a device says that its core is of no importance."""
    honest, held = workload.profile, []

    def profile(settings, order, store, with_importance):
        got = honest(settings, order, store, with_importance)
        return {**got, "importance.block.modules": [0.0] + [1 / 15] * 15}

    derive = ECLM.derive_all
    monkeypatch.setattr(workload, "profile", profile)
    monkeypatch.setattr(ECLM, "derive_all", lambda self, asked: held.extend(derive(self, asked)) or derive(self, asked))
    play(tmp_path, strategies="eclm-tailored", rounds=1)
    assert held and all(0 in modules["block.modules"] for modules in held if modules is not None)


def test_devices_whose_models_diverge_count(play, tmp_path) -> None:
    """Nobody is left out of the mean because training went wrong: NaN is no answer, and what was delivered still is."""
    play(tmp_path, strategies="la,fedavg", lr=1e3, clip=0.0)
    rounds = pd.read_csv(tmp_path / "rounds.csv").query("evaluated > 0")
    assert (rounds.evaluated == 6).all() and not rounds.accuracy_mean.isna().any()
    assert rounds.query("method == 'la'").accuracy_mean.max() < 0.5


@pytest.mark.parametrize("score", [(float("nan"), 0.5, 1.0), (1.5, 0.5, 1.0), (0.5, 0.5), (0.5, 0.5, -1.0)])
def test_a_lying_score_is_left_out(play, tmp_path, monkeypatch, score: tuple) -> None:
    honest = workload.evaluate

    def evaluate(settings, order, store, state):
        got = honest(settings, order, store, state)
        return replace(got, delivered=score) if order.device == 2 else got

    monkeypatch.setattr(workload, "evaluate", evaluate)
    play(tmp_path, strategies="fedavg")
    scored = pd.read_csv(tmp_path / "rounds.csv").query("evaluated > 0")
    assert (scored.evaluated == 5).all() and scored.accuracy_mean.between(0.2, 1).all()


def test_a_device_that_lost_the_selector_gets_it_again(play, tmp_path, monkeypatch) -> None:
    from fl.workloads.state_store import Store

    honest, lost = Store.load, []

    def load(self, name):
        if name == "selector" and self.folder.name == "2" and len(lost) < 1:
            lost.append(1)
            self._files("selector")[-1][1].unlink()
        return honest(self, name)

    monkeypatch.setattr(Store, "load", load)
    play(tmp_path, strategies="eclm", **{"devices": 4, "cohort": 4, "rounds": 4, "rounds-per-step": 1})
    failures = pd.read_csv(tmp_path / "rounds.csv").drop_duplicates("round").failures.tolist()
    assert failures == [1, 0, 0, 0]


def test_a_dead_worker_costs_one_device_not_the_round(tmp_path, monkeypatch) -> None:
    """Device 2's training kills its process; the others are answered all the same."""

    settings = Settings.parse(SMALL)
    with LocalGrid(settings.flat(), 6, workers=2) as grid:
        monkeypatch.setattr("fl.engines.worker_server.answer", _answer_or_die)
        replies = list(grid.send_and_receive([_who(node) for node in range(6)]))
    assert [reply.has_error() for reply in replies] == [node == 2 for node in range(6)]
    assert replies[2].error.code == 0
    assert [int(wire.metrics(r.content)["device"]) for r in replies if not r.has_error()] == [0, 1, 3, 4, 5]


def _who(node: int) -> Message:
    """Asks a device what it can spare."""
    task = {"what": "limits", "method": "na", "device": node, "seed": 1, "round": 1, "step": 0, "run": "1", "moment": 1}
    return Message(RecordDict({wire.TASK: wire.task_record(task)}), node, "query")


def _answer_or_die(message: Message, context) -> Message:
    from fl.client_app import app

    if message.metadata.dst_node_id == 2:
        os._exit(1)
    return app(message, context)


def test_an_exception_on_a_device_is_an_error_reply(tmp_path) -> None:

    with LocalGrid(Settings.parse(SMALL).flat(), 2) as grid:
        bad = Message(RecordDict({wire.TASK: wire.task_record({"what": "importance"})}), 0, "query")
        (reply,) = grid.send_and_receive([bad])
    assert reply.has_error() and isinstance(reply.error, Error) and "KeyError" in (reply.error.reason or "")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "resnet18"}, "needs images"),
        ({"shrink": 7}, "shrink = 7 does not divide"),
        ({"partition": "m-classes", "drift": "subject"}, "subject"),
        ({"classes-per-device": 9, "partition": "m-classes", "drift": "resample"}, "9"),
    ],
)
def test_what_does_not_fit_together_is_said_before_anything_starts(play, tmp_path, changes: dict, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        play(tmp_path, strategies="eclm", **changes)


def test_nobody_there_is_said_in_time() -> None:
    from fl.server.fleet import Fleet

    settings = Settings.parse(SMALL)
    with LocalGrid(settings.flat(), 0) as grid, pytest.raises(SettingsError, match="no SuperNode showed up within"):
        Fleet.find(grid, settings, wait_s=0.3)


ORPHANS = """
import sys, time
from flwr.app import Message, RecordDict
from fl.config.settings import Settings
from fl.engines.grid import LocalGrid

if __name__ == "__main__":
    with LocalGrid(Settings().flat(), 4, workers=2) as grid:
        list(grid.send_and_receive([Message(RecordDict(), n, "query") for n in range(4)]))
        print(*(hand.worker.process.pid for hand in grid._crew.hands), flush=True)
        time.sleep(60)
"""


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "orphans.py"
    script.write_text(ORPHANS)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    parent = subprocess.Popen([sys.executable, str(script)], env=environment, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        workers = [int(word) for word in parent.stdout.readline().split()]
    parent.kill()
    parent.wait()
    end = time.monotonic() + 10
    while time.monotonic() < end and any(Path(f"/proc/{pid}/exe").exists() for pid in workers):
        time.sleep(0.05)
    assert len(workers) == 2 and not any(Path(f"/proc/{pid}/exe").exists() for pid in workers)


def test_a_torn_cached_cloud_model_is_trained_again(play, tmp_path) -> None:
    whole = play(tmp_path / "one", strategies="na", seeds="5")
    from fl.workloads.pretraining import address

    cached = address(Settings.parse(SMALL), 5, "dense")
    intact = cached.read_bytes()
    cached.write_bytes(intact[: len(intact) // 2])
    assert play(tmp_path / "two", strategies="na", seeds="5") == whole
    assert cached.read_bytes() == intact
