"""Whatever a client sends, the run continues and the model is what the other clients make of it. Whatever a client is
sent, it answers or says why not. DRIFTFED_FUZZ=10 tries ten times as much, --hypothesis-seed=7 something else."""

import math
import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from hypothesis import HealthCheck, given
from hypothesis import settings as budget
from hypothesis import strategies as st
from safetensors.torch import load_file

from fl.devices.clock import link_seconds, train_seconds
from fl.engines.engine import Aggregator, GridProxy, add_reply
from fl.engines.grid import LocalGrid
from fl.messages import records
from fl.messages.codec import Address
from fl.results.files import cell
from fl.results.reader import read_rounds
from fl.server.checkpoint import dumps, loads
from fl.server.costs import RoundCosts
from fl.server.fleet import Fleet
from fl.server.replies import Replies
from fl.server.rounds import Rounds
from fl.server.scores import ClientScore
from fl.workloads.state_store import ClientStateStore
from models.submodel import State
from models.training.loop import MAX_LOSS
from strategies.core.averaging import Mean
from strategies.core.strategy import Profile, TrainTask, Update
from tests.fl.conftest import resolved

LIAR, OTHER = 1, 2
OTHERS = {0, 2, 3}
LONGER = int(os.environ.get("DRIFTFED_FUZZ", "1"))

Lie = Callable[[Message], Sequence[Message]]
"""Makes the liar's replies to a message."""


def fuzz(examples: int) -> budget:
    """That many tries; a machine that is too busy to draw them quickly is no failure."""
    slow = [HealthCheck.too_slow]
    return budget(max_examples=examples * LONGER, deadline=None, suppress_health_check=slow)


class Replay(GridProxy):
    """Answers messages as the clients did the first time, but for the liar's answers to one kind of message.

    Args:
        inner: the clients.

    Attributes:
        honest: replies by kind of message and client; asked: the first messages, in the same way.
        lies: replies of the liar by kind of message.
    """

    def __init__(self, inner: LocalGrid):
        super().__init__(inner)
        self.honest: dict[tuple[str, int], RecordDict] = {}
        self.asked: dict[tuple[str, int], Message] = {}
        self.lies: dict[str, Lie] = {}

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        replies: list[Message] = []
        for number, message in enumerate(messages):
            message.metadata.__dict__["_message_id"] = str(number)
            kind, client = message.metadata.message_type, message.metadata.dst_node_id
            if (kind, client) not in self.honest:
                (reply,) = self.inner.send_and_receive([message])
                self.honest[kind, client], self.asked[kind, client] = RecordDict(dict(reply.content)), message
            if client == LIAR and kind in self.lies:
                replies += self.lies[kind](message)
            else:
                replies.append(self.answer(message))
        return replies

    def answer(self, message: Message) -> Message:
        """The client's honest reply."""
        content = self.honest[message.metadata.message_type, message.metadata.dst_node_id]
        return Message(RecordDict(dict(content)), reply_to=message)


class Parts(GridProxy):
    """Aggregates as two worker processes do: each fills a copy of the empty aggregator. Every message has one reply."""

    def aggregate(
        self, messages: Iterable[Message], aggregator: Aggregator, timeout: float | None = None
    ) -> list[Message]:
        sent = list(messages)
        parts = [pickle.loads(pickle.dumps(aggregator)) for _ in range(2)]
        replies = [
            add_reply(parts[number % 2], message, reply)
            for number, (message, reply) in enumerate(zip(sent, self.send_and_receive(sent), strict=True))
        ]
        for part in reversed(parts):
            aggregator.merge(pickle.loads(pickle.dumps(part.part())))
        return replies


class Round:
    """One round of a method, to be run again and again with the same honest answers and other ones of the liar."""

    def __init__(self, method: str, root: Path, **settings: object):
        changes = {"devices.count": 4, "cohort": 4, "strategies": method, "devices.state-root": str(root), **settings}
        self.run = resolved(changes)
        self.grid = LocalGrid(self.run.settings.flat(), 4)
        self.engine, self.method, self.root = Replay(self.grid), method, root
        fleet = Fleet.find(self.grid, self.run.settings.devices, timeout_s=60)
        self.rounds = Rounds(self.run, method, self.run.strategy(method, 1), fleet, "1")
        self.before = dumps(self.rounds.state_dict())
        self.rounds.train(1, self.engine)
        self.after = dumps(self.rounds.state_dict())
        self.rounds.evaluate(2, self.engine)

    def content(self, kind: str) -> RecordDict:
        """The liar's honest answer."""
        return RecordDict(dict(self.engine.honest[kind, LIAR]))

    def train(self, lie: Lie | None = None, parts: bool = False) -> tuple[RoundCosts, State]:
        """What a round costs, and the model after it; without ``lie`` all clients are honest."""
        self.rounds.load_state_dict(loads(self.before))
        self.engine.lies = {"train": lie} if lie else {}
        self.rounds.train(1, Parts(self.engine) if parts else self.engine)
        return self.rounds.costs, self.rounds.method.model

    def evaluate(self, lie: Lie) -> list[ClientScore]:
        self.rounds.load_state_dict(loads(self.after))
        self.engine.lies = {"evaluate": lie}
        self.rounds.evaluate(2, self.engine)
        return self.rounds.scores

    def ask(self, lie: Lie) -> list[Profile]:
        """The profiles of a server that knows none."""
        self.rounds.load_state_dict({**loads(self.before), "profiles": {}, "equipped": set()})
        self.engine.lies = {"query": lie}
        self.rounds.replies = Replies(self.rounds.fleet)

        def address(client: int) -> Address:
            return Address("1", 4, self.method, client, 1, 1, 0, self.rounds.method.asks)

        return self.rounds.profiles.ask(self.engine, range(4), address, self.rounds.replies)


@pytest.fixture(scope="module", params=["fedavg", "heterofl", "eclm", "scaffold"])
def round_(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Round]:
    yield Round(request.param, tmp_path_factory.mktemp("clients"))


def sends(content: RecordDict) -> Lie:
    """The liar sends this."""
    return lambda message: [Message(RecordDict(dict(content)), reply_to=message)]


def silent(message: Message) -> list[Message]:
    return []


def same(a: State, b: State) -> bool:
    return all(torch.equal(a[name], value) for name, value in b.items())


figures = st.floats() | st.lists(st.floats() | st.floats(0, 1), max_size=4) | st.integers(-9, 9)
numbers = st.floats() | st.integers(-(2**63), 2**63 - 1)
reports = st.dictionaries(
    st.sampled_from(["device", "num-examples", "loss", "classes", "active.block.modules", "trained.x", "lost"])
    | st.text(max_size=8),
    numbers | st.lists(st.floats(), max_size=4) | st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4),
    max_size=6,
).map(MetricRecord)
blobs = st.builds(
    Array,
    st.sampled_from(["float32", "int64", "object", "<U9", "nonsense", ""]),
    st.lists(st.integers(-1, 2**40), max_size=3).map(tuple),
    st.sampled_from(["numpy.ndarray", "pickle", ""]),
    st.binary(max_size=64) | st.binary(max_size=64).map(lambda tail: b"\x93NUMPY\x01\x00" + tail),
)
honest_arrays = st.sampled_from(
    [np.zeros(3, np.float32), np.full((2, 2), np.nan), np.array("text"), np.zeros((0, 4)), np.array(7)]
).map(Array)
models = st.dictionaries(st.text(max_size=8), blobs | honest_arrays, max_size=3).map(ArrayRecord)
configs = st.dictionaries(st.text(max_size=8), st.text(max_size=8) | st.booleans(), max_size=3).map(ConfigRecord)
contents = st.dictionaries(
    st.sampled_from([records.REPORT, records.MODEL, records.TASK, "other"]), reports | models | configs, max_size=3
).map(RecordDict)


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
            arrays = dict(honest[name])
            arrays[data.draw(st.sampled_from([*arrays, "unknown"]))] = data.draw(blobs | honest_arrays)
            content[name] = ArrayRecord(arrays)
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


Mutation = Callable[[st.DataObject, RecordDict], None]
"""Changes a valid answer in one place."""


def mutate_report(data: st.DataObject, content: RecordDict) -> None:
    """Another value of a key, another key, or one key less."""
    report = dict(content[records.REPORT])
    key = data.draw(st.sampled_from([*report, "lost", "trained.x", "other"]))
    value = data.draw(st.none() | figures | numbers)
    content[records.REPORT] = MetricRecord(
        {k: v for k, v in (report | {key: value}).items() if v is not None}  # type: ignore[arg-type]
    )


def mutate_array(data: st.DataObject, content: RecordDict) -> None:
    """Other values, another type, another shape, another name, or nonsense."""
    name = data.draw(st.sampled_from([name for name in content if isinstance(content[name], ArrayRecord)]))
    arrays = dict(content[name])
    key = data.draw(st.sampled_from(list(arrays)))
    value = arrays.pop(key).numpy()
    how = data.draw(st.sampled_from(["values", "some value", "type", "shape", "name", "nonsense", "none"]))
    if how in ("values", "some value"):
        value = value.copy()
        entries = slice(None) if how == "values" else data.draw(st.integers(0, value.size - 1))
        value.reshape(-1)[entries] = data.draw(st.sampled_from([math.nan, math.inf, -1.0, 1e30, -1e4, 0.5]))
    elif how == "type":
        value = value.astype(data.draw(st.sampled_from(["float64", "float16", "int64", "bool", "complex64"])))
    elif how == "shape":
        value = data.draw(st.sampled_from([value[None], value.reshape(-1), value[:1], value[..., :0], value.T]))
    if how != "none":
        arrays["other" if how == "name" else key] = data.draw(blobs) if how == "nonsense" else Array(value.copy())
    content[name] = ArrayRecord(arrays)


def mutate_records(data: st.DataObject, content: RecordDict) -> None:
    """A record is lost, comes under another name, or is of another kind."""
    name = data.draw(st.sampled_from(list(content)))
    record = content.pop(name)
    if data.draw(st.booleans()):
        other = st.sampled_from([name, records.MODEL, records.REPORT, "tensors.variate", "tensors.other", "other"])
        content[data.draw(other)] = data.draw(st.just(record) | reports | models | configs)


@fuzz(18)
@given(data=st.data())
def test_both_ways_of_aggregation_judge_any_answer_alike(round_: Round, data: st.DataObject) -> None:
    """And an answer that is counted as refused or as a failure leaves no trace in the model."""
    content, metadata = round_.content("train"), dict[str, object]()
    mutations = [mutate_report, mutate_array, mutate_records]  # in this order, for what a later one needs
    for mutate in sorted(data.draw(st.lists(st.sampled_from(mutations), max_size=2, unique=True)), key=mutations.index):
        mutate(data, content)
    if data.draw(st.integers(0, 4)) == 0:
        wrong = st.sampled_from([("_src_node_id", OTHER), ("_src_node_id", 77), ("_reply_to_message_id", "another")])
        metadata = dict([data.draw(wrong)])

    def lie(message: Message) -> list[Message]:
        (reply,) = sends(content)(message)
        reply.metadata.__dict__.update(metadata)
        return [reply]

    (one, whole), (two, merged) = round_.train(lie), round_.train(lie, parts=True)
    assert (one.clients, one.refused, one.refused_answers, one.failures) == (
        two.clients, two.refused, two.refused_answers, two.failures,
    )  # fmt: skip
    for name, value in whole.items():
        torch.testing.assert_close(merged[name], value)
    assert one.clients + one.refused + one.failures == 4 and one.clients >= 3
    if one.clients == 3:
        assert same(whole, round_.train(silent)[1])
        assert same(merged, round_.train(silent_error, parts=True)[1])


def silent_error(message: Message) -> list[Message]:
    return [Message(Error(1, ""), reply_to=message)]


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
    for layer, n in columns.items():
        report[f"importance.{layer}"] = data.draw(st.lists(values, min_size=n - 1, max_size=n + 1))
        if data.draw(st.booleans()):
            report[f"held.{layer}"] = data.draw(st.lists(st.integers(-2, 20), max_size=4))
    profiles = round_.ask(sends(RecordDict({records.REPORT: MetricRecord(report)})))
    assert {p.client for p in profiles} >= OTHERS
    assert 0 <= round_.rounds.costs.train_macs < 1e18
    tasks = method.configure_train(1, profiles)
    assert all(torch.isfinite(v).all() for task in tasks.values() for v in (task.model.state or {}).values())
    assert len(method.configure_evaluate(profiles)) == len(profiles)


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
