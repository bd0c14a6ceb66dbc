"""The round loop end to end: same numbers on any number of workers, faults counted, a second run continues."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from flwr.app import ConfigRecord, Context, Error, Message, MetricRecord, RecordDict

from fl.config import Settings, SettingsError
from fl.devices.hardware import Shares
from fl.engines.engine import GridProxy
from fl.engines.grid import LocalGrid
from fl.messages import records
from fl.messages.codec import Address
from fl.results.files import CHECKPOINTS, ResultsError
from fl.results.reader import read_devices, read_rounds
from fl.server.fleet import Fleet
from fl.server.run import Abandoned, Event, NobodyAnswered, execute, open_results
from fl.workloads.classify import Classify
from fl.workloads.state_store import ClientStateStore
from fl.workloads.workload import Scored, Trained
from partitions.errors import DataError
from strategies import STRATEGIES
from strategies.core.strategy import Profile, TrainTask
from strategies.eclm import ECLM
from strategies.fedavg import FedAvg
from tests.fl.conftest import SMALL, resolved, without_clock

FOUR = {"devices.count": 4, "cohort": 4}


def test_one_and_two_workers_write_the_same_csv(play: Callable, tmp_path: Path) -> None:
    """Two workers add up updates in another order, in double precision: a last bit may differ."""
    for workers in (1, 2):
        play(tmp_path / str(workers), workers=workers)
    for read in (read_rounds, read_devices):
        one, two = (read(tmp_path / name).drop(columns="wall_s", errors="ignore") for name in ("1", "2"))
        pd.testing.assert_frame_equal(two, one, rtol=1e-6)


def test_an_abandoned_run_leaves_its_rows_and_can_be_run_again(play: Callable, tmp_path: Path) -> None:
    run = resolved({"strategies": "la", "devices.state-root": str(tmp_path / "clients")})

    def observe(event: Event) -> None:
        if event.kind == "round" and event.at == 2:
            raise Abandoned

    with open_results([run], tmp_path / "out", False) as results, LocalGrid(run.settings.flat(), 6) as grid:
        with pytest.raises(Abandoned):
            execute(run, grid, results, observe)
        assert set(read_rounds(tmp_path / "out")["round"]) == {1, 2} and not results.done()
    assert not list((tmp_path / "clients").glob("*")) and not (tmp_path / "out" / CHECKPOINTS).exists()
    assert play(tmp_path / "out", {"strategies": "la"}) == play(tmp_path / "whole", {"strategies": "la"})


def test_every_method_reports_its_rows(play: Callable, tmp_path: Path) -> None:
    play(tmp_path, {"strategies": ",".join(STRATEGIES), "fedrep.head-epochs": 0})
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
    assert (rounds[rounds.method == "an"].bytes_down > 0).tolist() == [True, False, False, False]  # once per client
    assert bytes_down["na"] == 0 and bytes_down["la"] > 0  # each client fetches the model once
    assert rounds.groupby("method").bytes_up.sum()["la"] < 1000  # only a confirmation, never a model
    assert bytes_down["eclm"] < 0.5 * bytes_down["fedavg"]


def test_bytes_are_those_of_the_messages(play: Callable, tmp_path: Path) -> None:
    """FedAvg, 3 clients a round: at least 3 models of float32 each way, and little more."""
    play(tmp_path, {"strategies": "fedavg"})
    rounds = pd.read_csv(tmp_path / "rounds.csv")
    workload = resolved().workload
    assert isinstance(workload, Classify)
    params = sum(p.numel() for p in workload.architectures["dense"].whole(0).parameters())
    for column in ("bytes_down", "bytes_up"):
        assert rounds[column].between(3 * 4 * params, 3 * 4 * params + 3 * 2500).all()


def test_how_many_clients_are_scored_at_once_changes_nothing(play, tmp_path: Path, monkeypatch) -> None:
    how = {"strategies": "la,heterofl,eclm", "eclm.candidates": 2.0}
    whole = play(tmp_path / "all", how)
    monkeypatch.setattr("fl.server.rounds.AT_ONCE", 4)
    assert play(tmp_path / "parts", how) == whole


class Corrected(FedAvg):
    """FedAvg whose clients use the model with logits corrected by their class shares."""

    def configure_evaluate(self, profiles: Sequence[Profile]) -> dict[int, TrainTask]:
        tasks = super().configure_evaluate(profiles)
        options = self.client_options(masked="prior")
        return {client: replace(task, options=options) for client, task in tasks.items()}


def test_class_shares_reach_the_client(play: Callable, tmp_path: Path) -> None:
    """A client of one class that only answers a class that it has is always right; the model alone is not."""
    one_class = {"data.partition": "m-classes", "m-classes.m": 1, "drift.kind": "none"}
    play(tmp_path / "free", {**one_class, "strategies": "fedavg"})
    play(tmp_path / "corrected", {**one_class, "strategies": "tests.fl.server.test_run:Corrected"})
    free, corrected = (read_rounds(tmp_path / name).query("evaluated > 0") for name in ("free", "corrected"))
    assert (corrected.accuracy_mean == 1).all() and (corrected.loss == 0).all()
    assert (free.query("method == 'fedavg'").accuracy_mean < 1).all()


def test_eclm_without_cloud_is_la_where_the_sub_model_is_the_whole_model(play: Callable, tmp_path: Path) -> None:
    """One module of full width, limits that admit it, and both models as they were before modular training."""
    whole = {"eclm.modules": 1, "eclm.shrink": 1, "eclm.top-k": 1, "devices.background-load": 0.0}
    whole |= {"pretrain.modular-epochs": 0, "pretrain.ability-epochs": 0}
    whole |= {"devices.limit-low": 3.0, "devices.limit-high": 3.0}
    play(tmp_path, {"strategies": "la,eclm-local", **whole})
    rounds = read_rounds(tmp_path)
    la, local = (rounds[rounds.method == name].set_index("round") for name in ("la", "eclm-local"))
    for column in ("accuracy_mean", "accuracy_p10", "loss", "evaluated", "devices"):
        np.testing.assert_array_equal(la[column], local[column], err_msg=column)
    # A client hears from the cloud once: later steps bring tasks, but no model, no selector and no query.
    assert (local.bytes_down[[2, 4]] == 0).all() and 0 < local.bytes_down[3] < 0.1 * local.bytes_down[1]


def test_a_second_run_skips_what_is_complete_and_finishes_the_rest(play: Callable, tmp_path: Path) -> None:
    whole = play(tmp_path / "whole", {"strategies": "na,fedavg"})
    play(tmp_path / "parts", {"strategies": "na"})
    before = (tmp_path / "parts" / "rounds.csv").read_bytes()
    play(tmp_path / "parts", {"strategies": "na,fedavg"})
    after = (tmp_path / "parts" / "rounds.csv").read_bytes()
    assert after.startswith(before)
    assert without_clock(tmp_path / "parts") == whole


def test_a_run_cut_short_is_run_again_to_the_same_csv(play: Callable, tmp_path: Path) -> None:
    whole = play(tmp_path / "whole", {"strategies": "na,fedavg"})

    class Stop(Exception):
        pass

    def stop(event: Event) -> None:
        if event.kind == "round" and event.what == "fedavg" and event.at == 3:
            raise Stop

    run = resolved({"strategies": "na,fedavg"})
    out = tmp_path / "cut"
    with pytest.raises(Stop), open_results([run], out, False) as results, LocalGrid(run.settings.flat(), 6) as grid:
        execute(run, grid, results, stop)
    assert 4 < len(without_clock(out)) < len(whole)
    assert play(out, {"strategies": "na,fedavg"}) == whole


@pytest.fixture
def breaking(monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Make one client misbehave in training."""

    def _break(client: int, how: Callable[[Trained], Trained]) -> None:
        honest = Classify.train

        def train(self, context, task, half):
            got = honest(self, context, task, half)
            return how(got) if context.client == client else got

        monkeypatch.setattr(Classify, "train", train)

    return _break


def poison(state: dict, value: float) -> dict:
    return {name: torch.full_like(v, value) for name, v in state.items()}


@pytest.mark.parametrize(
    ("how", "column"),
    [
        (lambda t: replace(t, state=poison(t.state, float("nan"))), "refused"),
        (lambda t: replace(t, state={n: v[:1] for n, v in t.state.items()}), "refused"),
        (lambda t: replace(t, state={**t.state, "extra": torch.zeros(2)}), "refused"),
        (lambda t: replace(t, examples=0), "refused"),
        (lambda t: replace(t, examples=-5), "refused"),
        (lambda t: replace(t, examples=10**9), "refused"),
        (lambda t: replace(t, tensors={"extra": {"w": torch.zeros(2)}}), "refused"),
        (lambda t: 1 / 0, "failures"),
    ],
    ids=[
        "nan",
        "mis-shaped",
        "unknown entry",
        "no examples",
        "negative examples",
        "too many examples",
        "unknown tensors",
        "crash",
    ],
)
@pytest.mark.parametrize("strategy", ["fedavg", "heterofl", "eclm"])
def test_one_bad_client_is_counted_and_reaches_nothing(
    play, breaking, tmp_path, how, column: str, strategy: str
) -> None:
    """Client 2 is bad: the model becomes what the others alone make of it."""
    breaking(2, how)
    play(tmp_path, {"strategies": strategy, **FOUR, "rounds": 2})
    rounds = pd.read_csv(tmp_path / "rounds.csv").drop_duplicates("round")
    assert (rounds[column] == 1).all() and (rounds.devices == 3).all()
    assert rounds[["failures", "refused"]].sum(axis=1).eq(1).all()
    assert pd.read_csv(tmp_path / "rounds.csv").accuracy_mean.dropna().gt(0.2).all()


@pytest.mark.parametrize("classes", [[], [0, 99], [-1], [0, 0]])
def test_a_client_cannot_claim_classes_that_do_not_exist(play, breaking, tmp_path, classes: list[int]) -> None:
    breaking(2, lambda t: replace(t, report={**t.report, "classes": classes}))
    play(tmp_path, {"strategies": "heterofl", **FOUR, "rounds": 1})
    assert (pd.read_csv(tmp_path / "rounds.csv").refused == 1).all()


def test_a_cohort_that_is_refused_whole_leaves_the_model_as_it_was(play, breaking, tmp_path) -> None:
    honest = play(tmp_path / "na", {"strategies": "na"})
    for client in range(6):
        breaking(client, lambda t: replace(t, state=poison(t.state, float("nan"))))
    play(tmp_path / "fed", {"strategies": "fedavg"})
    na, fed = (pd.read_csv(tmp_path / name / "rounds.csv") for name in ("na", "fed"))
    assert (fed.devices == 0).all() and (fed.refused == 3).all()
    kept = fed[fed.method == "fedavg"].accuracy_mean.dropna().tolist()
    assert kept == na[na.method == "na"].accuracy_mean.dropna().tolist() and honest


def test_a_round_in_which_every_client_fails_ends_the_run_which_continues_from_there(
    play, tmp_path, monkeypatch
) -> None:
    """A mistake in what clients run must not pass for a result."""
    honest = Classify.train

    def train(self, context, task, half):
        return honest(self, context, task, half) if context.round < 3 else 1 / 0

    monkeypatch.setattr(Classify, "train", train)
    with pytest.raises(NobodyAnswered, match=r"^fedavg: every client failed in round 3; .*: .*division by zero"):
        play(tmp_path / "cut", {"strategies": "fedavg"})
    monkeypatch.setattr(Classify, "train", honest)
    assert play(tmp_path / "cut", {"strategies": "fedavg"}) == play(tmp_path / "whole", {"strategies": "fedavg"})


@pytest.mark.parametrize("where", ["configure_train", "aggregator", "server_update", "configure_evaluate"])
def test_a_mistake_in_a_strategy_is_shown_and_the_run_continues_from_there(
    play, tmp_path, monkeypatch, where: str
) -> None:
    """The author sees the traceback; the rounds before it are on disk, and their checkpoint."""
    honest, calls = getattr(FedAvg, where), []

    def broken(self, *args):
        calls.append(1)
        return honest(self, *args) if len(calls) < (2 if where == "configure_evaluate" else 4) else 1 / 0

    monkeypatch.setattr(FedAvg, where, broken)
    with pytest.raises(ZeroDivisionError):
        play(tmp_path / "cut", {"strategies": "fedavg"})
    monkeypatch.setattr(FedAvg, where, honest)
    assert set(read_rounds(tmp_path / "cut")["round"]) == {1, 2, 3}
    assert play(tmp_path / "cut", {"strategies": "fedavg"}) == play(tmp_path / "whole", {"strategies": "fedavg"})


@pytest.fixture
def misreporting(monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Change the scores of some clients."""

    def _change(chosen: Callable[[Any], bool], how: Callable[[Scored], Scored]) -> None:
        honest = Classify.evaluate

        def evaluate(self, context, task, half):
            got = honest(self, context, task, half)
            return how(got) if chosen(context) else got

        monkeypatch.setattr(Classify, "evaluate", evaluate)

    return _change


@pytest.mark.parametrize("spoil", [lambda score: 1 / 0, lambda score: replace(score, samples=-1)])
def test_a_round_in_which_nobody_is_scored_ends_the_run_which_continues_from_there(
    play, tmp_path, misreporting, monkeypatch, spoil: Callable
) -> None:
    """A mistake in what clients run must not pass for a result, nor for a complete run."""
    honest = Classify.evaluate
    misreporting(lambda context: context.round > 2, spoil)
    with pytest.raises(NobodyAnswered) as error:
        play(tmp_path / "cut", {"strategies": "fedavg"})
    monkeypatch.setattr(Classify, "evaluate", honest)
    said = str(error.value)
    assert said.startswith("fedavg: no client could be scored in round 4; the last reason: ")
    assert ("division by zero (File" in said and "test_run.py" in said) or "score of client 5 refused: -1 and " in said
    assert play(tmp_path / "cut", {"strategies": "fedavg"}) == play(tmp_path / "whole", {"strategies": "fedavg"})


class Misreporting(GridProxy):
    """One client's answers to queries are changed on their way; a value of None removes the key."""

    def __init__(self, inner: LocalGrid, client: int, changes: Mapping[str, Any]):
        super().__init__(inner)
        self.client, self.changes = client, changes

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        asked = list(messages)
        for message, reply in zip(asked, super().send_and_receive(asked, timeout=timeout), strict=True):
            if message.metadata.message_type == "query" and message.content[records.TASK]["device"] == self.client:
                report = {**records.metrics(reply.content), **self.changes}
                reply.content[records.REPORT] = MetricRecord({k: v for k, v in report.items() if v is not None})
            yield reply


@pytest.mark.parametrize(
    "changes",
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
def test_an_impossible_profile_is_refused(play, tmp_path, changes: dict) -> None:
    play(tmp_path, {"strategies": "eclm", **FOUR, "rounds": 2}, wrap=lambda grid: Misreporting(grid, 2, changes))
    rounds = pd.read_csv(tmp_path / "rounds.csv").drop_duplicates("round")
    assert (rounds.failures == 1).all() and (rounds.devices == 3).all()


@pytest.mark.parametrize("method", ["eclm", "eclm-static", "eclm-local", "heterofl"])
def test_limits_too_small_for_any_sub_model(play, tmp_path, monkeypatch, method: str) -> None:
    """The method has no scores and a warning says why; the run goes on to the next method."""
    said = []
    monkeypatch.setattr("fl.server.run.log", lambda level, text, *values: said.append(text % values))
    tight = {"devices.limit-low": 0.001, "devices.limit-high": 0.002}
    play(tmp_path, {"strategies": f"{method},fedavg", "rounds": 2, **tight})
    rounds = read_rounds(tmp_path)
    own, fedavg = (rounds[rounds["method"].str.startswith(name)] for name in (method, "fedavg"))
    assert (own.devices == 0).all() and (own.evaluated == 0).all() and own.unserved.iloc[-1] == 6
    assert fedavg.evaluated.iloc[-1] == 6 and not fedavg.unserved.any()
    assert any(text.startswith(f"{method}: no client is scored in round 2, no sub-model") for text in said)


@pytest.mark.parametrize("method", ["eclm", "eclm-static", "eclm-local", "heterofl"])
def test_a_client_that_nothing_fits_gets_nothing(play, tmp_path, monkeypatch, method: str) -> None:
    """It neither trains nor is scored, and a column counts it."""
    own = Classify.limits

    def limits(self, context):
        return Shares(1e-3, 1e-3, 1e-3) if context.client in (1, 4) else own(self, context)

    monkeypatch.setattr(Classify, "limits", limits)
    play(
        tmp_path, {"strategies": method, **FOUR, "cohort": 6, "devices.count": 6, "rounds": 2, "eval.per-device": True}
    )
    rounds = read_rounds(tmp_path)
    assert (rounds.query("evaluated > 0").unserved == 2).all() and (rounds.query("evaluated > 0").evaluated == 4).all()
    assert rounds.devices.max() <= 4
    assert set(read_devices(tmp_path).device) == {0, 2, 3, 5}


def test_a_core_is_in_every_sub_model_whatever_a_client_reports(play, tmp_path, monkeypatch) -> None:
    """Noise on importance could do this: a client reports that its core has no importance."""
    honest, derived = Classify.profile, []

    def profile(self, context, half):
        return {**honest(self, context, half), "importance.block.modules": [0.0] + [1 / 15] * 15}

    derive = ECLM.derive
    monkeypatch.setattr(Classify, "profile", profile)
    monkeypatch.setattr(ECLM, "derive", lambda self, asked: derived.extend(derive(self, asked)) or derive(self, asked))
    play(tmp_path, {"strategies": "eclm-tailored", "rounds": 1})
    assert derived and all(0 in modules["block.modules"] for modules in derived if modules is not None)


def test_clients_whose_models_diverge_count(play, tmp_path) -> None:
    """The mean includes clients whose training diverged: NaN is no score, and the model as delivered still has one."""
    play(tmp_path, {"strategies": "la,fedavg", "client.lr": 1e3, "client.clip": 0.0})
    rounds = pd.read_csv(tmp_path / "rounds.csv").query("evaluated > 0")
    assert (rounds.evaluated == 6).all() and not rounds.accuracy_mean.isna().any()
    assert rounds.query("method == 'la'").accuracy_mean.max() < 0.5


@pytest.mark.parametrize("score", [(float("nan"), 0.5, 1.0), (1.5, 0.5, 1.0), (0.5, 0.5), (0.5, 0.5, -1.0)])
def test_an_impossible_score_is_left_out(play, tmp_path, misreporting, score: tuple) -> None:
    misreporting(lambda context: context.client == 2, lambda got: replace(got, delivered=score))
    play(tmp_path, {"strategies": "fedavg"})
    scored = pd.read_csv(tmp_path / "rounds.csv").query("evaluated > 0")
    assert (scored.evaluated == 5).all() and scored.accuracy_mean.between(0.2, 1).all()


def test_a_client_that_lost_the_selector_gets_it_again(play, tmp_path, monkeypatch) -> None:
    honest, lost = ClientStateStore.load, []

    def load(self, name):
        if name == "selector" and self.folder.name == "2" and len(lost) < 1:
            lost.append(1)
            max(self.folder.glob("selector@*"), key=lambda path: path.stat().st_mtime_ns).unlink()
        return honest(self, name)

    monkeypatch.setattr(ClientStateStore, "load", load)
    play(tmp_path, {"strategies": "eclm", **FOUR, "rounds": 4, "rounds-per-step": 1})
    failures = pd.read_csv(tmp_path / "rounds.csv").drop_duplicates("round").failures.tolist()
    assert failures == [1, 0, 0, 0] and lost


def test_a_worker_that_dies_costs_one_client_not_the_round() -> None:
    """Client 2's message kills its worker process; the other clients are answered all the same."""
    with LocalGrid(Settings.parse(SMALL).flat(), 6, workers=2, client_app=answer_or_die) as grid:
        replies = list(grid.send_and_receive([query(node) for node in range(6)]))
    assert [reply.has_error() for reply in replies] == [node == 2 for node in range(6)]
    assert replies[2].error.code == 0
    assert [int(records.metrics(r.content)["device"]) for r in replies if not r.has_error()] == [0, 1, 3, 4, 5]


def query(node: int) -> Message:
    """Ask a client for its limits."""
    task = Address("1", 1, "na", node, 1, 1, 0, what="limits").values()
    return Message(RecordDict({records.TASK: ConfigRecord(task)}), node, "query")


def answer_or_die(message: Message, context: Context) -> Message:
    from fl.client_app import app

    if message.metadata.dst_node_id == 2:
        os._exit(1)
    return app(message, context)


def test_an_exception_on_a_client_is_an_error_reply() -> None:
    with LocalGrid(Settings.parse(SMALL).flat(), 2) as grid:
        bad = Message(RecordDict({records.TASK: ConfigRecord({"what": "importance"})}), 0, "query")
        (reply,) = grid.send_and_receive([bad])
    assert reply.has_error() and isinstance(reply.error, Error) and "KeyError" in (reply.error.reason or "")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model.name": "resnet18"}, "needs images"),
        ({"eclm.shrink": 7}, "shrink = 7 does not divide"),
        ({"data.partition": "m-classes", "drift.kind": "subject"}, "subject"),
        ({"m-classes.m": 9, "data.partition": "m-classes", "drift.kind": "resample"}, "9"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused_before_anything_starts(
    play, tmp_path, changes: dict, said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        play(tmp_path, {"strategies": "eclm", **changes})


def test_without_nodes_the_server_gives_up_in_time() -> None:
    settings = Settings.parse(SMALL)
    with LocalGrid(settings.flat(), 0) as grid, pytest.raises(SettingsError, match="no SuperNode connected within"):
        Fleet.find(grid, settings.devices, settings.server.timeout_s, wait_s=0.3)


ORPHANS = """
import sys, time
from flwr.app import Message, RecordDict
from fl.config import Settings
from fl.engines.grid import LocalGrid

if __name__ == "__main__":
    with LocalGrid(Settings().flat(), 4, workers=2) as grid:
        list(grid.send_and_receive([Message(RecordDict(), n, "query") for n in range(4)]))
        print(*(slot.worker.process.pid for slot in grid.pool.slots), flush=True)
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


PLAIN = {"model.name": "tests.fl.workloads.plain_model:plain", "client.batch-size": 19, "data.samples-max": 20}


def test_a_model_of_the_users_with_torchs_batch_norm(play, tmp_path) -> None:
    """Batches of 19 and then of 1 sample, which torch's batch norm refuses in training; an integer buffer."""
    play(tmp_path, {**PLAIN, "strategies": "na,la,fedavg,heterofl,fjord,fedrolex,fedbn,fedprox", "rounds": 2})
    rounds = read_rounds(tmp_path)
    assert not rounds["failures"].any() and not rounds["refused"].any()
    assert rounds[rounds["evaluated"] > 0]["accuracy_mean"].gt(0.2).all()


@pytest.mark.parametrize("strategy", ["eclm", "eclm-plus", "an"])
@pytest.mark.parametrize("model", ["plain", "narrow"])
def test_a_method_that_cuts_modules_needs_module_layers(play, tmp_path, model: str, strategy: str) -> None:
    with pytest.raises(SettingsError, match="needs a model with module layers, and this model has none: choose "):
        play(tmp_path, {**PLAIN, "model.name": f"tests.fl.workloads.plain_model:{model}", "strategies": strategy})


def test_a_folder_that_cannot_be_written_is_named_before_anything_starts(play, tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file/states cannot be written .*devices.state-root"):
        play(tmp_path / "out", {"strategies": "la", "devices.state-root": str(tmp_path / "file" / "states")})


def test_a_cloud_model_that_diverges_is_named_and_not_kept(play, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(SettingsError, match=r"^the cloud model 'early' diverged in pretraining: .*lower pretrain.lr$"):
        play(tmp_path / "out", {"strategies": "na", "pretrain.lr": 1e38})
    assert not list((tmp_path / "cache").rglob("early*"))


def test_data_that_change_under_a_name_change_the_cloud_model_and_are_refused_by_the_folder(play, tmp_path) -> None:
    """Folder B holds A's samples with labels moved by one: A's cloud model would be right for none of them."""
    values = {
        "strategies": "na", "data.name": "folder", "data.partition": "iid", "drift.kind": "none", "devices.count": 3,
        "pretrain.dense-epochs": 10,
    }  # fmt: skip
    centres, draw = np.eye(3) * 6, np.random.default_rng(0)
    y = draw.integers(3, size=400)
    x = (centres[y] + draw.normal(size=(400, 3))).astype(np.float32)
    for name, moved in (("a", 0), ("b", 1)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "classes.txt").write_text("a\nb\nc\n")
        np.savez(folder / "data.npz", x=x, y=(y + moved) % 3)
        play(tmp_path / f"out-{name}", values | {"data.root": str(tmp_path / name)})
        found = read_rounds(tmp_path / f"out-{name}")
        assert found["accuracy_mean"].iloc[-1] > 0.9
    with pytest.raises(ResultsError, match=r"on other data \('folder' or a file of its config has changed since\)"):
        play(tmp_path / "out-a", values | {"data.root": str(tmp_path / "b")})


def test_a_damaged_cached_cloud_model_is_trained_again(play, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    whole = play(tmp_path / "one", {"strategies": "na", "seeds": "5"})
    (cached,) = (tmp_path / "cache").rglob("dense-*.safetensors")
    intact = cached.read_bytes()
    cached.write_bytes(intact[: len(intact) // 2])
    assert play(tmp_path / "two", {"strategies": "na", "seeds": "5"}) == whole
    assert cached.read_bytes() == intact
