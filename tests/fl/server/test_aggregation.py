"""Updates are validated and aggregated where they are made: numbers, costs and refusals are those of an engine that
brings every update to the server."""

import pickle
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fl.engines.engine import as_engine
from fl.engines.grid import LocalGrid
from fl.engines.worker_server import WorkerServer, pack, set_task_identity
from fl.messages import records
from fl.messages.codec import tensor_records
from fl.results.reader import read_rounds
from fl.server.aggregation import RoundAggregator, Rules, ValidatedUpdate, validate_update
from fl.workloads.classify import Classify
from models.costs import Cost
from models.submodel import FULL, State
from strategies.core.averaging import Mean
from strategies.core.strategy import SubModel, TrainTask, Update

AXES = {"w": (None,)}
MODEL: State = {"w": torch.zeros(2)}
VARIATE: State = {"w": torch.zeros(2)}
TASK = TrainTask(SubModel("dense", FULL, MODEL), 1, Cost(2, 8, 1, 1))
CORRECTED = replace(TASK, tensors={"variate": VARIATE})
RULES = Rules(most_examples=10, may_withhold=False, measures=frozenset({"bits"}))
IMPOSTOR, ELSEWHERE = 2, 77


class PlainGrid(Grid):
    """A Flower grid that cannot aggregate, as Flower's own.

    Attributes:
        brought: updates that reached the server.
    """

    def __init__(self, inner: LocalGrid):
        self.inner, self.brought = inner, 0

    def set_run(self, run: Any) -> None:
        self.inner.set_run(run)

    @property
    def run(self) -> Any:
        return self.inner.run

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        return self.inner.create_message(*args, **kwargs)

    def get_node_ids(self) -> Iterable[int]:
        return self.inner.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return self.inner.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return self.inner.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        replies = list(self.inner.send_and_receive(messages))
        self.brought += sum(records.MODEL in reply.content for reply in replies if reply.has_content())
        return replies


def through_plain_grid(play: Callable, out: Path, changes: Mapping[str, Any]) -> tuple[list[str], int]:
    """Rows of a run on a plain grid, and how many updates it brought to the server."""
    grids: list[PlainGrid] = []

    def wrap(grid: LocalGrid) -> PlainGrid:
        grids.append(PlainGrid(grid))
        return grids[-1]

    return play(out, changes, wrap=wrap), grids[0].brought


@pytest.fixture
def mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Client 1 sends what is not finite, 2 too many examples, 3 crashes."""
    honest = Classify.train

    def train(self, context, task, half):
        got = honest(self, context, task, half)
        if context.client == 1:
            return replace(got, state={name: torch.full_like(v, torch.inf) for name, v in got.state.items()})
        if context.client == 3:
            raise RuntimeError("on purpose")
        return replace(got, examples=10**6) if context.client == 2 else got

    monkeypatch.setattr(Classify, "train", train)


def test_aggregates_are_those_of_single_updates(play: Callable, mixed: None, tmp_path: Path) -> None:
    """Every method that averages, with some bad clients and some that keep their updates to themselves."""
    names = ["fedavg", "heterofl", "fjord", "eclm"]
    how = {"strategies": ",".join(names), "client.upload-change": 0.0016, "cohort": 5, "rounds": 3}
    aggregated = play(tmp_path / "aggregated", how)
    single, brought = through_plain_grid(play, tmp_path / "single", how)
    assert aggregated == single
    rounds = read_rounds(tmp_path / "aggregated").query("method in @names")
    assert rounds.refused.sum() > 0 and rounds.failures.sum() > 0 and rounds.withheld.sum() > 0
    assert brought > rounds.devices.sum() - rounds.withheld.sum() > 0  # refused updates are among them


PARITY: dict[str, dict[str, Any]] = {
    "averages": {"strategies": "fedavg,scaffold,fedbn,ditto,heterofl,eclm"},
    "drift": {"strategies": "ifca,feddrift,adaptive-fedavg,flash,tent", "feddrift.delta": 0.02},
    "kept models": {"strategies": "la,an,eclm-local", "eclm.candidates": 2.0},
    "robust": {"strategies": "fedavg,eclm", "server.robust": "trimmed-mean"},
    "buffered": {"strategies": "fedavg,heterofl", "server.aggregation": "buffered", "server.buffer": 2},
    "deadline": {"strategies": "fedavg,eclm", "server.deadline-s": 0.5},
}


@pytest.mark.parametrize("case", PARITY)
def test_a_plain_flower_grid_gives_the_same_rows(play: Callable, tmp_path: Path, case: str) -> None:
    """The process that answers aggregates, and the server does: not a byte of rounds.csv differs."""
    own = play(tmp_path / "own", PARITY[case])
    plain, brought = through_plain_grid(play, tmp_path / "plain", PARITY[case])
    assert own == plain
    assert (tmp_path / "own" / "devices.csv").read_bytes() == (tmp_path / "plain" / "devices.csv").read_bytes()
    assert (brought > 0) == (case != "kept models")


def test_worker_processes_give_the_rows_of_a_plain_flower_grid(play: Callable, tmp_path: Path) -> None:
    """Workers add up updates in another order, in double precision: a last bit may differ."""
    how = {"strategies": "fedavg,scaffold,eclm", "cohort": 5}
    play(tmp_path / "workers", how, workers=2)
    _, brought = through_plain_grid(play, tmp_path / "plain", how)
    workers, plain = (read_rounds(tmp_path / name).drop(columns="wall_s") for name in ("workers", "plain"))
    pd.testing.assert_frame_equal(workers, plain, rtol=1e-6)
    assert brought == 3 * 4 * 5


def aggregator(at_once: bool = True, clients: int = 4) -> RoundAggregator:
    tasks = dict.fromkeys(range(clients), TASK.without_state())
    like = {name: torch.empty_like(value, device="meta") for name, value in MODEL.items()}
    return RoundAggregator(RULES, tasks, Mean(AXES, MODEL), AXES, like, at_once, measure=True)


def asking(client: int) -> Message:
    """A training message to a client."""
    task = ConfigRecord({"device": client})
    return Message(RecordDict({records.TASK: task, records.MODEL: records.pack(MODEL)}), client, "train")


def answer(message: Message, context: Context | None = None) -> Message:
    """Client d sends d everywhere, as d + 1 examples. The impostor's answers come from another node."""
    client = int(message.content[records.TASK]["device"])
    state = {"w": torch.full((2,), float(client))}
    report = MetricRecord({"device": client, "num-examples": client + 1, "loss": 1.0})
    content = RecordDict({records.REPORT: report, records.MODEL: records.pack(state)})
    reply = Message(content, reply_to=message)
    if client == IMPOSTOR:
        reply.metadata._src_node_id = ELSEWHERE
    return reply


def another_update(message: Message) -> Message:
    """A second answer to a message, with another update."""
    reply = answer(message)
    reply.content[records.MODEL] = records.pack({"w": torch.full((2,), 50.0)})
    return reply


HONEST = {0: 1, 1: 2, 3: 4}  # examples by client, without the impostor
MEAN = sum(client * n for client, n in HONEST.items()) / sum(HONEST.values())


def check_only_honest(got: RoundAggregator, replies: Iterable[Message], untouched: int) -> None:
    """The aggregate is that of the honest clients; so many replies still have their update."""
    assert sorted(got.updates) == sorted(got.method.clients) == sorted(HONEST)
    assert {client: found.update.examples for client, found in got.updates.items() if found.update} == HONEST
    assert got.method.result(MODEL)["w"].tolist() == pytest.approx([MEAN, MEAN])
    assert sum(records.MODEL in reply.content for reply in replies) == untouched


@pytest.mark.parametrize("workers", [1, 2])
def test_an_answer_of_another_node_is_ignored_where_workers_aggregate(workers: int) -> None:
    got = aggregator()
    with LocalGrid({}, 4, workers, client_app=answer) as grid:
        replies = grid.aggregate([asking(client) for client in range(4)], got)
    check_only_honest(got, replies, untouched=1)


def test_an_answer_of_another_node_is_ignored_where_the_server_aggregates() -> None:
    got = aggregator()
    with LocalGrid({}, 4, client_app=answer) as grid:
        replies = as_engine(PlainGrid(grid)).aggregate([asking(client) for client in range(4)], got)
    check_only_honest(got, replies, untouched=1)


class TwiceGrid(PlainGrid):
    """Every client answers twice."""

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        asked = list(messages)
        replies = list(super().send_and_receive(asked))
        return [
            reply for message, first in zip(asked, replies, strict=True) for reply in (first, another_update(message))
        ]


def test_a_second_answer_is_ignored_where_the_server_aggregates() -> None:
    got = aggregator()
    with LocalGrid({}, 4, client_app=answer) as grid:
        replies = as_engine(TwiceGrid(grid)).aggregate([asking(client) for client in range(4)], got)
    check_only_honest(got, replies, untouched=4 + 1)


def test_a_second_answer_is_ignored_where_a_worker_aggregates() -> None:
    """A worker process is asked for the same client again, and the client then sends another update."""
    set_task_identity(1)
    calls: list[int] = []

    def changing(message: Message, context: Context) -> Message:
        client = int(message.content[records.TASK]["device"])
        calls.append(client)
        return answer(message) if calls.count(client) == 1 else another_update(message)

    server, got = WorkerServer(1, 4, {}, changing), aggregator()
    messages = [asking(client) for client in (0, 1, 1, 2, 3, 0)]
    for number, message in enumerate(messages):
        message.metadata.__dict__["_message_id"] = str(number)
    job, _ = pack(messages, {})
    replies, _, part = pickle.loads(server.work(pickle.dumps(got), job, {}, last=True))
    got.merge(part)
    assert len(calls) == 6
    check_only_honest(got, replies, untouched=2 + 1)


def test_parts_merge_to_the_whole_in_any_order() -> None:
    """Also the divergence, and updates that the server has to add one by one."""
    set_task_identity(1)
    for at_once in (True, False):
        whole, parts = aggregator(at_once), [aggregator(at_once) for _ in range(3)]
        for client in range(4):
            for one in (whole, parts[client % 3]):
                message = asking(client)
                reply = answer(message)
                reply.metadata._src_node_id = client
                rest = one.add(message, reply)
                assert list(rest.content) == [records.REPORT]
        got = aggregator(at_once)
        for part in reversed(parts):
            got.merge(pickle.loads(pickle.dumps(part.part())))
        assert got.updates.keys() == whole.updates.keys() == {0, 1, 2, 3}
        assert got.divergence is not None and whole.divergence is not None
        assert got.divergence.values(["w"]) == pytest.approx(whole.divergence.values(["w"]))
        assert torch.equal(got.method.result(MODEL)["w"], whole.method.result(MODEL)["w"])
        assert got.method.clients == (set(range(4)) if at_once else set())
        kept = {client: found.update.state for client, found in got.updates.items() if found.update}
        for client, state in kept.items():
            assert state == {} if at_once else state["w"].tolist() == [client, client]


def content(
    report: Mapping[str, Any] = {}, model: State | None = None, tensors: Mapping[str, State] = {}
) -> RecordDict:
    """An answer of client 1."""
    values = {"device": 1, "num-examples": 5, "loss": 0.5, **report}
    sent = {"w": torch.ones(2)} if model is None else model
    return RecordDict(
        {
            records.REPORT: MetricRecord({k: v for k, v in values.items() if v is not None}),
            records.MODEL: records.pack(sent),
            **tensor_records(tensors),
        }
    )


def validated(answer: RecordDict, task: TrainTask = TASK, rules: Rules = RULES) -> ValidatedUpdate:
    return validate_update(rules, Mean(AXES, MODEL), 1, task, answer)


def test_a_valid_answer_is_an_update() -> None:
    sent = content({"trained.bits": 2.5, "classes": [0, 2]}, tensors={"variate": {"w": torch.ones(2)}})
    got = validated(sent, CORRECTED)
    assert got.why == "" and not got.withheld and got.loss == 0.5 and got.measures == {"bits": 2.5}
    assert got.byte_count == records.size(sent)
    assert got.update is not None and (got.update.client, got.update.examples) == (1, 5)
    assert got.update.report["classes"] == [0, 2]
    assert torch.equal(got.update.state["w"], torch.ones(2))
    assert torch.equal(got.update.tensors["variate"]["w"], torch.ones(2))


@pytest.mark.parametrize(
    ("report", "why"),
    [
        ({"device": 2}, "answers for another client"),
        ({"device": None}, "answers for another client"),
        ({"lost": 1}, "lost the state that it was to continue from"),
        ({"num-examples": 0}, "reports 0 examples, a client has 1 to 10"),
        ({"num-examples": 11}, "reports 11 examples, a client has 1 to 10"),
        ({"num-examples": None}, "KeyError: 'num-examples'"),
        ({"loss": [1.0]}, "TypeError"),
        ({"trained.bits": float("nan")}, "measure bits is nan"),
        ({"trained.other": 1.0}, "measure other is 1.0"),
    ],
)
def test_an_impossible_report_is_refused(report: dict, why: str) -> None:
    got = validated(content(report))
    assert why in got.why and got.update is None and not got.withheld and got.byte_count > 0


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ({}, "has the tensors [] instead of ['variate']"),
        ({"other": {"w": torch.ones(2)}}, "has the tensors ['other'] instead of ['variate']"),
        (
            {"variate": {"w": torch.ones(2)}, "other": {"w": torch.ones(2)}},
            "has the tensors ['other', 'variate'] instead of ['variate']",
        ),
        ({"variate": {}}, "lacks w"),
        ({"variate": {"w": torch.ones(2), "v": torch.ones(2)}}, "holds unknown v"),
        ({"variate": {"w": torch.ones(3)}}, "w has shape (3,) instead of (2,)"),
        ({"variate": {"w": torch.ones(2).double()}}, "w is torch.float64 instead of torch.float32"),
        ({"variate": {"w": torch.tensor([1.0, torch.inf])}}, "w is not finite"),
        ({"variate": {"w": torch.tensor([torch.nan, 1.0])}}, "w is not finite"),
        ({"variate": {"w": torch.full((2,), 1e6)}}, "moved by 1.41e+06, the norm of what was sent is 1"),
    ],
)
def test_tensors_that_are_not_as_they_were_sent_are_refused(tensors: dict, why: str) -> None:
    """Missing, additional, of another shape or type, not finite, or far too large."""
    got = validated(content(tensors=tensors), CORRECTED)
    assert got.why == why and got.update is None


def test_tensors_of_a_method_that_sends_none_are_refused() -> None:
    got = validated(content(tensors={"variate": {"w": torch.ones(2)}}))
    assert got.why == "has the tensors ['variate'] instead of []" and got.update is None


@pytest.mark.parametrize(
    ("model", "why"),
    [
        ({}, "lacks w"),
        ({"w": torch.ones(2), "v": torch.ones(2)}, "holds unknown v"),
        ({"w": torch.ones(2, 1)}, "w has shape (2, 1) instead of (2,)"),
        ({"w": torch.tensor([1.0, torch.nan])}, "w is not finite"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(model: State, why: str) -> None:
    got = validated(content(model=model))
    assert got.why == why and got.update is None


def test_a_negative_variance_is_refused() -> None:
    """Small and finite, it would turn every activation behind it into NaN."""
    rules, sent = replace(RULES, never_negative=frozenset({"w"})), replace(TASK, tensors={"v": MODEL})
    got = validated(content(model={"w": torch.tensor([1.0, -1e-3])}), rules=rules)
    assert got.why == "w has negative values, which it cannot have" and got.update is None
    assert validated(content(model={"w": torch.zeros(2)}), rules=rules).why == ""
    assert validated(content(tensors={"v": {"w": -torch.ones(2)}}), sent, rules).why == ""  # a change, no variance


@pytest.mark.parametrize("aggregation", ["synchronous", "buffered"])
def test_a_negative_variance_does_not_reach_a_network_with_batch_norm(
    play: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, aggregation: str
) -> None:
    honest = Classify.train

    def train(self, context, task, half):
        got = honest(self, context, task, half)
        negative = {name: -value if name.endswith("var") else value for name, value in got.state.items()}
        return replace(got, state=negative) if context.client == 1 else got

    monkeypatch.setattr(Classify, "train", train)
    draw, y = np.random.default_rng(0), np.arange(300) % 2
    x = (draw.normal(size=(300, 3, 8, 8)) + 2 * y[:, None, None, None]).astype(np.float32)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "classes.txt").write_text("a\nb\n")
    np.savez(tmp_path / "data" / "data.npz", x=x, y=y)
    how = {
        "data.name": "folder", "data.root": str(tmp_path / "data"), "data.partition": "iid", "drift.kind": "none",
        "model.name": "resnet18", "model.norm": "batch", "model.width": 8, "cohort": 6,
        "strategies": "fedavg", "rounds": 1, "pretrain.dense-epochs": 1, "server.aggregation": aggregation,
    }  # fmt: skip
    play(tmp_path / "out", how | ({"server.buffer": 4} if aggregation == "buffered" else {}))
    (rounds,) = read_rounds(tmp_path / "out").query("method == 'fedavg'").itertuples()
    assert (rounds.refused, rounds.devices) == (1, 5)


def test_an_update_is_withheld_only_if_clients_may() -> None:
    bare = content()
    del bare[records.MODEL]
    got = validated(bare, rules=replace(RULES, may_withhold=True))
    assert got.withheld and got.why == "" and got.update is not None and got.update.state == {}
    assert validated(bare).why == "KeyError: 'model'" and not validated(bare).withheld
    kept = validated(bare, replace(TASK, upload=False))  # the server did not ask for it
    assert kept.why == "" and not kept.withheld and kept.update is not None


def test_the_methods_aggregator_may_refuse_what_its_client_half_reports() -> None:
    class Picky(Mean):
        def check(self, task: TrainTask, update: Update) -> None:
            if update.report["vote"] != 1:
                raise ValueError("no such vote")

    got = validate_update(RULES, Picky(AXES, MODEL), 1, TASK, content({"vote": 2}))
    assert got.why == "ValueError: no such vote" and got.update is None
    assert validate_update(RULES, Picky(AXES, MODEL), 1, TASK, content({"vote": 1})).why == ""
