"""Whatever a device sends, the run goes on and the model is what the others make of it; whatever a device is sent, it
answers or says why not. DRIFTFED_FUZZ=10 tries ten times as much, --hypothesis-seed=7 something else."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from hypothesis import HealthCheck, given
from hypothesis import settings as budget
from hypothesis import strategies as st
from safetensors.torch import load_file

from fl.config.settings import Settings
from fl.devices.clock import link_seconds, train_seconds
from fl.engines.grid import LocalGrid
from fl.messages import records as wire
from fl.results.files import cell
from fl.server.adapter import DeviceScore, FlowerStrategy, Ledger
from fl.server.checkpoint import dumps, loads
from fl.server.fleet import Fleet
from fl.workloads.pretraining import prepare
from strategies import STRATEGIES
from strategies.base import Plan
from tests.fl.conftest import SMALL

LIAR, OTHER = 1, 2
LONGER = int(os.environ.get("DRIFTFED_FUZZ", "1"))


def fuzz(examples: int) -> budget:
    """That many tries; that a machine is too busy to draw them quickly is no failure."""
    slow = [HealthCheck.too_slow]
    return budget(max_examples=examples * LONGER, deadline=None, suppress_health_check=slow)


class Round:
    """One round of a method with honest answers, to be merged again and again with the liar's replaced."""

    def __init__(self, method: str, root: Path):
        values = {**SMALL, "devices": 4, "cohort": 4, "strategies": method, "state-root": str(root)}
        self.settings = Settings.parse(values)
        self.grid = LocalGrid(self.settings.flat(), 4)
        plan = Plan(4, 4, 1, 1, 2)
        made = STRATEGIES[method](prepare(self.settings, 1), plan, 1)
        self.strategy = FlowerStrategy(made, method, self.settings, Fleet.find(self.grid, self.settings), "1")
        none = ArrayRecord(), ConfigRecord()
        asked = self.strategy.configure_train(1, *none, self.grid)
        self.asked = sorted(asked, key=lambda message: message.metadata.dst_node_id)
        self.before = dumps(self.strategy.saved())
        self.replies = list(self.grid.send_and_receive(self.asked))
        training = self._state()
        profiles = self.strategy._ask(self.grid, range(4), 1, 2)
        self.delivered = sorted(self.strategy._deliver(profiles, 1), key=lambda message: message.metadata.dst_node_id)
        self.scored = list(self.grid.send_and_receive(self.delivered))
        self.serving = self._state()
        vars(self.strategy).update(training)

    def _state(self) -> dict[str, object]:
        """What belongs to the messages that are under way."""
        return {name: getattr(self.strategy, name) for name in ("_tasks", "_sent", "_down")}

    def merge(self, replies: list[Message]) -> tuple[Ledger, dict[str, torch.Tensor]]:
        self.strategy.load(loads(self.before))
        self.strategy.ledger, self.strategy._spent = Ledger(), {}
        self.strategy.aggregate_train(1, replies)
        return self.strategy.ledger, self.strategy.method.model

    def scores(self, replies: list[Message]) -> list[DeviceScore]:
        training = self._state()
        vars(self.strategy).update(self.serving)
        scores = self.strategy._scores(replies)
        vars(self.strategy).update(training)
        return scores

    def lie(self, content: RecordDict) -> Message:
        return Message(content, reply_to=self.asked[LIAR])

    def with_liar(self, *lies: Message) -> list[Message]:
        return [*self.replies[:LIAR], *lies, *self.replies[LIAR + 1 :]]


@pytest.fixture(scope="module", params=["fedavg", "heterofl", "eclm"])
def round_(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Round]:
    yield Round(request.param, tmp_path_factory.mktemp("devices"))


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
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
    st.sampled_from([wire.REPORT, wire.MODEL, wire.TASK, "other"]), reports | models | configs, max_size=3
).map(RecordDict)


@fuzz(40)
@given(data=st.data())
def test_no_answer_ends_the_run_or_reaches_the_model(round_: Round, data: st.DataObject) -> None:
    """Anything at all; or an honest answer with some of its arrays and numbers replaced by anything."""
    honest = round_.replies[LIAR].content
    content = data.draw(contents)
    if data.draw(st.booleans()):
        report, model = dict(honest[wire.REPORT]), dict(honest[wire.MODEL])
        report |= dict(data.draw(reports))
        if data.draw(st.booleans()):
            model[data.draw(st.sampled_from([*model, "unknown"]))] = data.draw(blobs | honest_arrays)
        content = RecordDict({wire.REPORT: MetricRecord(report), wire.MODEL: ArrayRecord(model)})
    ledger, model = round_.merge(round_.with_liar(round_.lie(content)))
    assert ledger.devices + ledger.refused + ledger.failures == 4 and ledger.devices >= 3
    assert all(torch.isfinite(value).all() for value in model.values())
    if ledger.devices == 3:
        _, without = round_.merge(round_.with_liar())
        assert same(model, without)


def poisoned(round_: Round, value: float, scale: float = 0.0) -> Message:
    """The liar's honest update with every entry ``scale * entry + value``."""
    honest = round_.replies[LIAR].content
    state = {k: (scale * v + value).to(v.dtype) for k, v in wire.unpack(honest[wire.MODEL]).items()}
    return round_.lie(RecordDict({wire.REPORT: honest[wire.REPORT], wire.MODEL: wire.pack(state)}))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30, -1e6])
def test_a_poisoned_update_is_refused(round_: Round, value: float) -> None:
    ledger, model = round_.merge(round_.with_liar(poisoned(round_, value)))
    assert (ledger.devices, ledger.refused, ledger.failures) == (3, 1, 0)
    assert same(model, round_.merge(round_.with_liar())[1])


def test_an_update_as_large_as_the_model_is_not_huge(round_: Round) -> None:
    ledger, _ = round_.merge(round_.with_liar(poisoned(round_, 0.0, scale=2.0)))
    assert ledger.devices == 4


def stray(round_: Round, kind: str) -> list[Message]:
    """The liar's honest answer, and one answer too many or too few."""
    honest, content = round_.replies[LIAR], round_.replies[LIAR].content
    named = {**content, wire.REPORT: MetricRecord({**content[wire.REPORT], "device": OTHER})}
    if kind == "twice":
        return [honest, poisoned(round_, 1.0)]
    if kind == "for another device":
        return [Message(RecordDict(named), reply_to=round_.asked[LIAR])]
    if kind == "another node":
        answer = Message(content, reply_to=round_.asked[LIAR])
        answer.metadata._src_node_id = 77
        return [answer]
    answer = Message(content, reply_to=round_.asked[LIAR])  # of another round: no message of this one has that number
    answer.metadata._reply_to_message_id = "another round's"
    return [answer]


@pytest.mark.parametrize(
    ("kind", "devices"), [("twice", 4), ("for another device", 3), ("another node", 3), ("another round", 3)]
)
def test_an_answer_that_nobody_asked_for_is_refused(round_: Round, kind: str, devices: int) -> None:
    """What it is not takes nobody's place: device 2's own answer is the one that counts."""
    ledger, model = round_.merge(round_.with_liar(*stray(round_, kind)))
    assert (ledger.devices, ledger.failures, ledger.refused_answers) == (devices, 4 - devices, 1)
    honest = [round_.replies[LIAR]] if kind == "twice" else []
    assert same(model, round_.merge(round_.with_liar(*honest))[1])


def test_a_device_that_never_answers_is_a_failure(round_: Round) -> None:
    ledger, _ = round_.merge(round_.with_liar())
    assert (ledger.devices, ledger.failures, ledger.refused) == (3, 1, 0)
    ledger, _ = round_.merge(round_.with_liar(Message(Error(1, ""), reply_to=round_.asked[LIAR])))
    assert (ledger.devices, ledger.failures, ledger.refused) == (3, 1, 0)


@fuzz(40)
@given(data=st.data())
def test_no_profile_ends_the_run(round_: Round, data: st.DataObject) -> None:
    strategy = round_.strategy
    if strategy.method.asks == "nothing":
        return
    columns = {"block.modules": 16} if strategy.method.asks == "importance" else {}
    values = st.floats(-1, 2) | st.sampled_from([math.nan, math.inf, -1.0, 0.0, 1e300])
    told: dict = {"device": LIAR}
    for name in data.draw(st.sets(st.sampled_from(["link", "compute", "memory"]))):
        told[name] = data.draw(values)
    if data.draw(st.booleans()):
        told["macs"] = data.draw(st.floats())
    for layer, n in columns.items():
        told[f"importance.{layer}"] = data.draw(st.lists(values, min_size=n - 1, max_size=n + 1))
        if data.draw(st.booleans()):
            told[f"held.{layer}"] = data.draw(st.lists(st.integers(-2, 20), max_size=4))

    class Liars(LocalGrid):
        def send_and_receive(self, messages, *, timeout=None):
            replies = list(super().send_and_receive(messages, timeout=timeout))
            if len(replies) > LIAR:
                replies[LIAR] = Message(RecordDict({wire.REPORT: MetricRecord(told)}), reply_to=messages[LIAR])
            return replies

    strategy.load({**loads(round_.before), "profiles": {}, "equipped": set()})
    profiles = strategy._ask(Liars(round_.settings.flat(), 4), range(4), 1, 0)
    assert {0, 2, 3} <= {p.device for p in profiles}
    assert 0 <= strategy.ledger.train_macs < 1e18
    tasks = strategy.method.tasks(1, profiles)
    assert all(torch.isfinite(v).all() for task in tasks.values() for v in (task.state or {}).values())
    assert len(strategy.method.deliver(profiles)) == len(profiles)


@fuzz(40)
@given(data=st.data())
def test_no_score_ends_the_run(round_: Round, data: st.DataObject) -> None:
    """The others' scores count; the liar's only if it could be one."""
    honest = round_.scored[LIAR].content
    content = data.draw(contents)
    if data.draw(st.booleans()):
        changed = data.draw(st.dictionaries(st.sampled_from([*honest[wire.REPORT], "former"]), figures, max_size=3))
        content = RecordDict({wire.REPORT: MetricRecord({**honest[wire.REPORT], **changed})})
    replies = [*round_.scored[:LIAR], Message(content, reply_to=round_.delivered[LIAR]), *round_.scored[LIAR + 1 :]]
    scores = round_.scores(replies)
    assert {0, 2, 3} <= {score.device for score in scores} and len(scores) <= 4
    for score in scores:
        for accuracy, balanced, loss in (score.delivered, score.adapted):
            assert 0 <= accuracy <= 1 and 0 <= balanced <= 1 and 0 <= loss < math.inf
        assert score.samples >= 0 and all(0 <= value <= 1 for value in (score.former or {}).values())
        assert all(0 <= seconds < math.inf for seconds in score.seconds.values()) and 0 <= score.macs < math.inf


words = st.text(max_size=8) | st.text(min_size=100, max_size=300)
machines = st.fixed_dictionaries(
    {"partition-id": st.integers(-3, 3) | st.floats() | words, "name": words | st.booleans()},
    optional={key: figures | st.sampled_from([1.0, 1e9]) | words for key in wire.POSSIBLE},
).map(lambda about: RecordDict({wire.NODE: ConfigRecord(about)}))


@fuzz(100)
@given(contents | machines)
def test_a_machine_says_what_it_is_or_why_not(content: RecordDict) -> None:
    """And what it is fits into a line of a CSV, and gives a finite time to whatever it is sent."""
    try:
        device, hardware = wire.introduced(content)
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
    | st.sampled_from([wire.MODEL, wire.SELECTOR, wire.TASK]).flatmap(
        lambda name: (models | reports | configs).map(lambda record: (name, record))
    ),
)
def test_no_message_ends_a_device_or_leaves_half_a_file(round_: Round, kind: str, drop, change, other) -> None:
    """An answer or an error, and everything in the store reads."""
    honest = next(m for m in round_.asked if m.metadata.dst_node_id == LIAR).content
    task = {k: v for k, v in {**honest[wire.TASK], "what": "importance", **change}.items() if k not in drop}
    content = RecordDict({wire.TASK: ConfigRecord(task), wire.MODEL: honest[wire.MODEL]})
    if other is not None:
        content[other[0]] = other[1]
    message = Message(content, LIAR, kind)
    message.metadata.__dict__["_message_id"] = "1"
    reply = round_.grid._host.reply(message)
    assert isinstance(reply, Message)
    for path in Path(round_.settings.state_root).rglob("*.*"):
        assert path.suffix == ".safetensors"
        load_file(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("epochs", -1), ("epochs", 1e9), ("step", 1e15), ("round", 1e300), ("device", 10**12), ("device", -1)],
)
def test_a_device_does_no_more_than_the_run_config_says(round_: Round, key: str, value: float) -> None:
    """Whoever asks: a billion epochs, or steps of the world, would be its memory, or its battery."""
    honest = next(m for m in round_.asked if m.metadata.dst_node_id == LIAR).content
    task = ConfigRecord({**honest[wire.TASK], key: value})
    message = Message(RecordDict({wire.TASK: task, wire.MODEL: honest[wire.MODEL]}), LIAR, "train")
    message.metadata.__dict__["_message_id"] = "1"
    assert "the run-config says at most" in round_.grid._host.reply(message).error.reason


def test_a_device_that_lost_its_own_model_is_sent_one_again(play, tmp_path: Path) -> None:
    """LA: device 2's disk is wiped after the first step; it fails once and then starts anew."""
    from fl.results.reader import read_rounds
    from fl.workloads.state_store import Store

    honest, wiped = Store.load, []

    def load(self, name):
        if name == "model" and self.folder.name == "2" and self.moment >= 8 and not wiped:
            wiped.append(1)
            for _, path in self._files("model"):
                path.unlink()
        return honest(self, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "load", load)
        play(tmp_path, strategies="la", **{"devices": 4, "rounds": 4, "rounds-per-step": 1, "cohort": 4})
    rounds = read_rounds(tmp_path)
    assert rounds.failures.tolist() == [0, 1, 0, 0] and rounds.evaluated.tolist() == [4, 4, 4, 4]
