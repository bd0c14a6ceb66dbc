"""Whatever a client sends, the run continues and the model is what the other clients make of it. Whatever a client is
sent, it answers or says why not. DRIFTFED_FUZZ=10 tries ten times as much, --hypothesis-seed=7 something else."""

import math
import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st
from safetensors.torch import load_file

from experiments.attacks.mutations import array, config, content, figure, model, report
from experiments.attacks.replies import judge, lie, same
from experiments.attacks.round import LIAR, OTHER, Lie, Round, sends, silent
from fl.devices.clock import link_seconds, train_seconds
from fl.messages import records
from fl.results.files import cell
from fl.results.reader import read_rounds
from fl.server.checkpoint import loads
from fl.workloads.state_store import ClientStateStore
from models.training.loop import MAX_LOSS
from strategies.core.averaging import Mean
from strategies.core.strategy import TrainTask, Update

OTHERS = {0, 2, 3}
LONGER = int(os.environ.get("DRIFTFED_FUZZ", "1"))


def fuzz(examples: int) -> budget:
    """That many tries."""
    return budget(max_examples=examples * LONGER)


@pytest.fixture(scope="module", params=["fedavg", "heterofl", "eclm", "scaffold", "ifca", "feddrift"])
def round_(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Round]:
    yield Round(request.param, tmp_path_factory.mktemp("clients"))


dices = st.randoms(use_true_random=False)
figures, reports, arrays = dices.map(figure), dices.map(report), dices.map(array)
models, configs, contents = dices.map(model), dices.map(config), dices.map(content)


@fuzz(40)
@given(data=st.data())
def test_no_answer_ends_the_run_or_reaches_the_model(round_: Round, data: st.DataObject) -> None:
    """Anything at all; or an honest answer with some of its arrays and numbers replaced by anything."""
    honest = round_.content("train")
    content = data.draw(contents)
    if data.draw(st.booleans()):
        content = honest
        content[records.REPORT] = MetricRecord({**honest[records.REPORT], **data.draw(reports)})
        if data.draw(st.booleans()):
            name = data.draw(st.sampled_from([key for key in honest if key != records.REPORT]))
            of = dict(honest[name])
            of[data.draw(st.sampled_from([*of, "unknown"]))] = data.draw(arrays)
            content[name] = ArrayRecord(of)
    costs, model = round_.train(sends(content))
    assert costs.clients + costs.refused + costs.failures == 4 and costs.clients >= 3
    assert all(torch.isfinite(value).all() for value in model.values())
    if costs.clients == 3:
        _, without = round_.train(silent)
        assert same(model, without)


def poisoned(round_: Round, value: float, scale: float = 0.0) -> RecordDict:
    """The liar's honest update with every entry ``scale * entry + value``."""
    content = round_.content("train")
    state = {k: (scale * v + value).to(v.dtype) for k, v in records.unpack(content[records.MODEL]).items()}
    content[records.MODEL] = records.pack(state)
    return content


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30, -1e6])
def test_a_poisoned_update_is_refused(round_: Round, value: float) -> None:
    costs, model = round_.train(sends(poisoned(round_, value)))
    assert (costs.clients, costs.refused, costs.failures) == (3, 1, 0)
    assert same(model, round_.train(silent)[1])


def test_an_update_as_large_as_the_model_is_not_huge(round_: Round) -> None:
    costs, _ = round_.train(sends(poisoned(round_, 0.0, scale=2.0)))
    assert costs.clients == 4


def test_a_client_that_lost_its_state_sends_no_update(round_: Round) -> None:
    """It is a failure, so an update that comes with the news does not reach the model."""
    content = round_.content("train")
    content[records.REPORT] = MetricRecord({**content[records.REPORT], "lost": 1})
    costs, model = round_.train(sends(content))
    assert (costs.clients, costs.refused, costs.failures) == (3, 0, 1)
    assert same(model, round_.train(silent)[1])


def stray(round_: Round, kind: str) -> Lie:
    """The liar's honest answer, and one answer too many or too few."""
    content = round_.content("train")
    named = {**content, records.REPORT: MetricRecord({**content[records.REPORT], "device": OTHER})}

    def lie(message: Message) -> list[Message]:
        answer = Message(RecordDict(dict(content)), reply_to=message)
        if kind == "twice":
            return [answer, *sends(poisoned(round_, 1.0))(message)]
        if kind == "for another client":
            return [Message(RecordDict(named), reply_to=message)]
        if kind == "another node":
            answer.metadata._src_node_id = 77
            return [answer]
        answer.metadata._reply_to_message_id = "another round's"  # no message of this round has that number
        return [answer]

    return lie


@pytest.mark.parametrize(
    ("kind", "clients"), [("twice", 4), ("for another client", 3), ("another node", 3), ("another round", 3)]
)
def test_an_answer_that_the_server_did_not_ask_for_is_refused(round_: Round, kind: str, clients: int) -> None:
    """It does not take another client's place: client 2's own answer is the one that counts."""
    costs, model = round_.train(stray(round_, kind))
    assert (costs.clients, costs.failures, costs.refused_answers) == (clients, 4 - clients, 1)
    assert same(model, round_.train(None if kind == "twice" else silent)[1])


@fuzz(18)
@given(dice=dices)
def test_both_ways_of_aggregation_judge_any_answer_alike(round_: Round, dice: random.Random) -> None:
    """And an answer that is counted as refused or as a failure leaves no trace in the model."""
    seen, fault = judge(round_, {LIAR: lie(dice, round_, LIAR)}, again_in_parts=dice.random() < 0.5)
    assert not fault and seen


@pytest.mark.parametrize("how", ["at once", "parts", "one by one"])
def test_no_part_of_an_update_stays_that_breaks_the_aggregator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """It raises after half of the work. What was summed at once cannot be taken apart: the model stays as it was."""
    round_ = Round("fedavg", tmp_path, **{"server.deadline-s": 1e6 if how == "one by one" else 0.0})
    before, without = loads(round_.before)["method"]["model"], round_.train(silent)[1]
    add = Mean.add

    def breaking(self: Mean, task: TrainTask, update: Update) -> None:
        add(self, task, update)
        if update.client == LIAR:
            raise IndexError("half done")

    monkeypatch.setattr(Mean, "add", breaking)
    costs, model = round_.train(None, parts=how == "parts")
    assert same(model, without if how == "one by one" else before)
    assert costs.refused == (1 if how == "one by one" else 3) and "IndexError" in round_.rounds.complaint


def test_an_update_that_does_not_fit_is_refused_unread(round_: Round, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names and sizes are compared first: an array that nobody asked for is not unpacked, whatever it is called."""
    unpacked, unpack = [], records.unpack
    monkeypatch.setattr(records, "unpack", lambda record: unpacked.append(record) or unpack(record))
    large = Array(np.zeros(1 << 19, np.float32))
    content = round_.content("train")
    first = next(iter(content[records.MODEL]))
    for record, name in ((records.MODEL, "unknown"), (records.MODEL, first), ("tensors.unknown", "x"), ("other", "x")):
        answer = RecordDict({**content, record: ArrayRecord({**content.get(record, {}), name: large})})
        unpacked.clear()
        costs, _ = round_.train(sends(answer))
        assert (costs.clients, costs.refused) == (3, 1)
        assert all(large not in record.values() for record in unpacked)
    report = MetricRecord({**content[records.REPORT], "long": [0.5] * (1 << 18)})
    costs, _ = round_.train(sends(RecordDict({**content, records.REPORT: report})))
    assert costs.refused == 1 and " bytes, at most " in round_.rounds.complaint


def test_a_log_line_of_a_client_is_short_and_one_line(round_: Round, monkeypatch: pytest.MonkeyPatch) -> None:
    name, said = "x\n\x1b[2J" * 10**6, []
    monkeypatch.setattr("fl.server.replies.log", lambda level, text, *values: said.append(text % values))
    honest = round_.content("train")
    arrays = ArrayRecord({**honest[records.MODEL], name[: 10**5]: Array(np.zeros(1))})
    round_.train(sends(RecordDict({**honest, records.MODEL: arrays})))
    round_.train(lambda message: [Message(Error(1, name), reply_to=message)])
    report = MetricRecord({**honest[records.REPORT], "device": [7] * 10**6})
    round_.train(sends(RecordDict({**honest, records.REPORT: report})))
    assert len(said) == 3 and all(len(line) < 700 and line.isprintable() for line in said)


@pytest.mark.parametrize("reason", ["", " ", "\n\x0b", "x" * 10**7, "\n" * 10**6 + "File here\nend"])
def test_an_error_without_a_reason_or_with_a_huge_one_is_a_failure(round_: Round, reason: str) -> None:
    costs, model = round_.train(lambda message: [Message(Error(1, reason), reply_to=message)])
    assert (costs.clients, costs.failures) == (3, 1) and same(model, round_.train(silent)[1])
    assert round_.rounds.complaint.startswith("client 1 failed: ") and len(round_.rounds.complaint) < 600


def test_one_client_cannot_fail_for_all(round_: Round) -> None:
    """Four errors of one client are not a round in which every client failed."""
    round_.train(lambda message: [Message(Error(1, "x"), reply_to=message)] * 4)
    assert not round_.rounds.all_failed


@pytest.mark.parametrize("loss", [1e308, 1e30, 1.01 * MAX_LOSS, math.nan, math.inf, -0.1])
def test_a_loss_that_no_model_can_have_is_no_score(round_: Round, loss: float) -> None:
    report = {**round_.content("evaluate")[records.REPORT], "adapted": [0.5, 0.5, loss]}
    scores = round_.evaluate(sends(RecordDict({records.REPORT: MetricRecord(report)})))
    assert {score.client for score in scores} == OTHERS


@pytest.mark.parametrize("loss", [0.0, MAX_LOSS, float(np.float32(MAX_LOSS))])
def test_the_loss_of_a_diverged_model_is_a_score(round_: Round, loss: float) -> None:
    report = {**round_.content("evaluate")[records.REPORT], "adapted": [0.5, 0.5, loss]}
    assert len(round_.evaluate(sends(RecordDict({records.REPORT: MetricRecord(report)})))) == 4


@pytest.mark.parametrize("classes", [[99], [-1], [0, 0], []])
def test_classes_that_a_method_did_not_ask_for_change_nothing(tmp_path: Path, classes: list[int]) -> None:
    """FjORD averages whole layers: a client that reports classes all the same is treated like any other."""
    round_ = Round("fjord", tmp_path)
    honest = round_.train()[1]
    content = round_.content("train")
    content[records.REPORT] = MetricRecord({**content[records.REPORT], "classes": classes})
    costs, model = round_.train(sends(content))
    assert costs.clients == 4 and same(model, honest)


def test_a_client_that_never_answers_is_a_failure(round_: Round) -> None:
    costs, _ = round_.train(silent)
    assert (costs.clients, costs.failures, costs.refused) == (3, 1, 0)
    costs, _ = round_.train(lambda message: [Message(Error(1, ""), reply_to=message)])
    assert (costs.clients, costs.failures, costs.refused) == (3, 1, 0)


@fuzz(40)
@given(data=st.data())
def test_no_profile_ends_the_run(round_: Round, data: st.DataObject) -> None:
    method = round_.rounds.method
    if method.asks == "nothing":
        return
    columns = {"block.modules": 16} if method.asks == "importance" else {}
    values = st.floats(-1, 2) | st.sampled_from([math.nan, math.inf, -1.0, 0.0, 1e300])
    report: dict = {"device": LIAR}
    for name in data.draw(st.sets(st.sampled_from(["link", "compute", "memory"]))):
        report[name] = data.draw(values)
    if data.draw(st.booleans()):
        report["macs"] = data.draw(st.floats())
    for when in ("now", "before") if method.asks == "losses" else ():
        report[when] = data.draw(st.lists(values, max_size=2))
    for layer, n in columns.items():
        report[f"importance.{layer}"] = data.draw(st.lists(values, min_size=n - 1, max_size=n + 1))
        if data.draw(st.booleans()):
            report[f"held.{layer}"] = data.draw(st.lists(st.integers(-2, 20), max_size=4))
    profiles = round_.ask(sends(RecordDict({records.REPORT: MetricRecord(report)})))
    assert {p.client for p in profiles} >= OTHERS
    assert 0 <= round_.rounds.costs.train_macs < 1e18
    tasks = method.configure_train(1, profiles)
    assert all(torch.isfinite(v).all() for task in tasks.values() for v in (task.model.state or {}).values())
    assert OTHERS <= set(method.configure_evaluate(profiles)) <= {p.client for p in profiles}


@pytest.mark.parametrize("kind", [MetricRecord, ConfigRecord])
@pytest.mark.parametrize("value", [[0.5, 0.5], [0.5], [], [[]], math.nan, math.inf, -0.1, 1e300, "0.5", "nan", True])
def test_limits_are_three_numbers(round_: Round, kind: type, value: object) -> None:
    """Lists of one length each would pass as an array; what is no number of a report cannot be sent as one."""
    if round_.rounds.method.asks == "nothing":
        return
    honest = round_.content("query")[records.REPORT]
    try:
        report = kind({**honest, "link": value, "compute": value, "memory": value})
    except TypeError:
        return
    profiles = round_.ask(sends(RecordDict({records.REPORT: report})))
    assert {profile.client for profile in profiles} == OTHERS
    round_.rounds.method.configure_train(1, profiles)


@fuzz(40)
@given(data=st.data())
def test_no_score_ends_the_run(round_: Round, data: st.DataObject) -> None:
    """The other clients' scores count; the liar's only if it is possible."""
    honest = round_.content("evaluate")
    content = data.draw(contents)
    if data.draw(st.booleans()):
        keys = st.sampled_from([*honest[records.REPORT], "former"])
        changed = data.draw(st.dictionaries(keys, figures, max_size=3))
        content = RecordDict({records.REPORT: MetricRecord({**honest[records.REPORT], **changed})})
    scores = round_.evaluate(sends(content))
    assert {score.client for score in scores} >= OTHERS and len(scores) <= 4
    for score in scores:
        for values in score.scores.values():
            assert 0 <= values.accuracy <= 1 and 0 <= values.balanced_accuracy <= 1 and 0 <= values.loss < math.inf
        assert score.samples >= 0 and all(0 <= value <= 1 for value in (score.former or {}).values())
        assert all(0 <= seconds < math.inf for seconds in score.seconds.values()) and 0 <= score.macs < math.inf


words = st.text(max_size=8) | st.text(min_size=100, max_size=300)
machines = st.fixed_dictionaries(
    {"partition-id": st.integers(-3, 3) | st.floats() | words, "name": words | st.booleans()},
    optional={key: figures | st.sampled_from([1.0, 1e9]) | words for key in records.POSSIBLE},
).map(lambda about: RecordDict({records.NODE: ConfigRecord(about)}))


@fuzz(100)
@given(contents | machines)
def test_a_machine_says_what_it_is_or_is_refused(content: RecordDict) -> None:
    """What it is fits into a line of a CSV, and gives a finite time to whatever it is sent."""
    try:
        device, hardware = records.introduced(content)
    except ValueError:
        return
    assert device >= 0 and cell(hardware.name) == hardware.name
    assert math.isfinite(train_seconds(hardware, 1e15, 10**6, 100)) and math.isfinite(link_seconds(hardware, 10**12))


plain = (
    st.booleans() | st.integers(-3, 40) | st.floats() | st.text(max_size=5) | st.lists(st.integers(-3, 40), max_size=3)
)
KEYS = (
    "run method device seed round step moment what architecture epochs masked shares rate keep rates blend search "
    "reselect look-back size.block.modules size.block.hidden size.out size.nonsense held.block.modules upload"
).split()


@fuzz(60)
@given(
    kind=st.sampled_from(["query", "train", "evaluate"]),
    drop=st.sets(st.sampled_from(KEYS), max_size=2),
    change=st.dictionaries(st.sampled_from(KEYS), plain, max_size=3),
    other=st.none()
    | st.sampled_from([records.MODEL, records.SELECTOR, records.TASK, "tensors.variate"]).flatmap(
        lambda name: (models | reports | configs).map(lambda record: (name, record))
    ),
)
def test_no_message_ends_a_client_or_leaves_half_a_file(round_: Round, kind: str, drop, change, other) -> None:
    """An answer or an error, and everything in the store reads."""
    honest = round_.engine.asked["train", LIAR].content
    task = {k: v for k, v in {**honest[records.TASK], "what": "importance", **change}.items() if k not in drop}
    content = RecordDict({**honest, records.TASK: ConfigRecord(task)})
    if other is not None:
        content[other[0]] = other[1]
    message = Message(content, LIAR, kind)
    message.metadata.__dict__["_message_id"] = "1"
    reply = round_.grid.worker_server.reply(message)
    assert isinstance(reply, Message)
    for path in round_.root.rglob("*.*"):
        assert path.suffix == ".safetensors"
        load_file(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("epochs", -1), ("epochs", 1e9), ("step", 1e15), ("round", 1e300), ("device", 10**12), ("device", -1)],
)
def test_a_client_does_no_more_than_the_run_config_says(round_: Round, key: str, value: float) -> None:
    """A billion epochs, or steps of the world, would take its memory, or its battery."""
    honest = round_.engine.asked["train", LIAR].content
    message = Message(
        RecordDict({**honest, records.TASK: ConfigRecord({**honest[records.TASK], key: value})}), LIAR, "train"
    )
    message.metadata.__dict__["_message_id"] = "1"
    assert "the run-config says at most" in round_.grid.worker_server.reply(message).error.reason


def test_a_client_that_lost_its_own_model_is_sent_one_again(play, tmp_path: Path) -> None:
    """LA: client 2's disk is wiped after the first step; it fails once and then starts anew."""
    honest, wiped = ClientStateStore.load, []

    def load(self, name):
        if name == "model" and self.folder.name == "2" and self.moment >= 8 and not wiped:
            wiped.append(1)
            for path in self.folder.glob("model@*"):
                path.unlink()
        return honest(self, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClientStateStore, "load", load)
        play(tmp_path, {"strategies": "la", "devices.count": 4, "cohort": 4, "rounds-per-step": 1})
    rounds = read_rounds(tmp_path)
    assert rounds.failures.tolist() == [0, 1, 0, 0] and rounds.evaluated.tolist() == [4, 4, 4, 4]
