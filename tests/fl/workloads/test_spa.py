"""SPA as a workload: what travels, what stays, and whole runs on a base that is trained for a second."""

import csv
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from fl.config import Settings, SettingsError
from fl.results.reader import read_measures, read_rounds
from fl.workloads.resolve import Run, resolve
from fl.workloads.spa import SPA
from fl.workloads.state_store import ClientStateStore
from fl.workloads.workload import ClientContext, Scored, Trained
from models.spa.codec import Frame
from models.submodel import State
from partitions.errors import DataError
from strategies.core.client import ClientTask
from strategies.core.strategy import Budget, Profile, Update
from strategies.fedavg import FedAvg
from tests.fl.workloads.running import assert_fedprox_holds, forget, half_of, play

SMALL: dict[str, Any] = {
    "workload": "spa", "strategies": "na,la,fedavg", "spa.tiny-steps": 20, "spa.facts": 2, "spa.every": 2,
    "devices.count": 3, "cohort": 2, "rounds": 2, "rounds-per-step": 1, "eval.every": 1, "client.local-epochs": 2,
    "client.adapt-epochs": 2, "client.lr": 0.02,
}  # fmt: skip


class Lab:
    """The workload of the small run with other values for some keys, and one client of it."""

    def __init__(self, folder: Path, changes: Mapping[str, Any] = {}, client: int = 0):
        self.run: Run = resolve(Settings.parse({**SMALL, **changes}))
        assert isinstance(self.run.workload, SPA)
        self.workload, self.store = self.run.workload, ClientStateStore(folder)
        self.context = ClientContext(client, 1, 1, 0, self.store)

    @property
    def start(self) -> State:
        return self.workload.prepare(1).state("dense")

    def train(self, state: State | None) -> Trained:
        task = ClientTask(epochs=2, state=state)
        return self.workload.train(self.context, task, half_of(self.run, task))

    def evaluate(self, state: State | None, epochs: int = 2, server_round: int = 1, keep: bool = False) -> Scored:
        task = ClientTask(epochs=epochs, keep=keep, state=state)
        context = replace(self.context, round=server_round)
        return self.workload.evaluate(context, task, half_of(self.run, task, training=False))


def test_a_run_is_complete_and_can_be_repeated(tmp_path: Path) -> None:
    lines = play(tmp_path / "a", SMALL)
    again = play(tmp_path / "b", {**SMALL, "strategies": "fedavg"})
    assert again[1:] == [line for line in lines if ",fedavg" in line]
    rows = list(csv.DictReader(lines))
    assert {row["method"] for row in rows} == {"na", "na+ft", "la", "fedavg", "fedavg+ft"}
    assert not any(int(row["failures"]) or int(row["refused"]) for row in rows)
    measured = read_measures(tmp_path / "a").pivot_table(index=["method", "round"], columns="measure", values="value")
    assert set(measured.columns) == set(SPA.measures)
    last = {row["method"]: row for row in rows if row["round"] == "2"}
    # an untrained plugin adds nothing: na is the base, whatever its gate decides
    assert float(last["na"]["accuracy_mean"]) == pytest.approx(measured.loc[("na", 2), "base_accuracy"])
    assert max(float(last[name]["loss"]) for name in ("la", "fedavg", "fedavg+ft")) < float(last["na"]["loss"])
    size = sum(value.nbytes for value in Lab(tmp_path).start.values())
    per_client = int(last["fedavg"]["bytes_up"]) / int(last["fedavg"]["devices"])
    assert size < per_client < 1.2 * size + 4000  # the plugin and its report: never the base


def test_no_weight_of_the_base_is_in_a_message(tmp_path: Path) -> None:
    names = set(Lab(tmp_path).start)
    assert names and all(name.startswith(("side.", "gate.")) for name in names)


@pytest.mark.parametrize(("personal", "stays"), [("gate", ("gate.",)), ("gate+out", ("gate.", "side.out."))])
def test_the_personal_part_stays_on_the_client_and_is_used_again(
    personal: str, stays: tuple[str, ...], tmp_path: Path
) -> None:
    lab = Lab(tmp_path, {"spa.personal": personal})
    sent = lab.start
    assert not any(name.startswith(stays) for name in sent)
    first = lab.train(sent).state
    assert first is not None and first.keys() == sent.keys()
    mine = lab.store.load("personal")
    assert mine and all(name.startswith(stays) for name in mine)
    # without training the client has the part that it was sent, and its own
    lab.evaluate(sent, epochs=0, keep=True)
    kept, alone = lab.store.load("model"), lab.store.load("personal")
    assert kept.keys() == sent.keys() and all(torch.equal(kept[name], sent[name]) for name in sent)
    assert alone.keys() == mine.keys() and all(torch.equal(alone[name], mine[name]) for name in mine)
    stranger = Lab(tmp_path / "stranger", {"spa.personal": personal})
    assert stranger.evaluate(first, epochs=0).delivered != lab.evaluate(first, epochs=0).delivered
    axes = lab.workload.prepare(1).architectures["dense"].part({}).axes()
    assert axes.keys() == sent.keys()
    # scoring after adaptation must not change what the client keeps
    lab.evaluate(first, server_round=2)
    assert all(torch.equal(lab.store.load("personal")[name], mine[name]) for name in mine)


def test_fedavg_of_one_client_is_that_client(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    method = FedAvg(lab.workload.prepare(1), Budget(3, 1, 2, 2, 1), 1)
    tasks = method.configure_train(1, [Profile(0)])
    trained = lab.train(tasks[0].model.state)
    assert trained.state is not None and trained.examples == 18
    total = method.aggregator()
    total.add(tasks[0], Update(0, trained.state, trained.examples))
    method.server_update(1, total)
    assert all(torch.equal(method.model[name], value) for name, value in trained.state.items())


@pytest.mark.parametrize("gate", ["two-stage", "mixture"])
def test_fedprox_holds_the_side(gate: str, tmp_path: Path) -> None:
    assert_fedprox_holds({**SMALL, "spa.gate": gate}, ClientContext(0, 1, 1, 0, ClientStateStore(tmp_path)))


def test_training_is_a_function_of_its_address(tmp_path: Path) -> None:
    start = Lab(tmp_path).start
    once, again = (Lab(tmp_path / name).train(start).state for name in "ab")
    other = Lab(tmp_path / "c", client=1).train(start).state
    assert once is not None and again is not None and other is not None
    assert all(torch.equal(once[name], again[name]) for name in once)
    assert not all(torch.equal(once[name], other[name]) for name in once)


def test_people_drift_by_the_schedule(tmp_path: Path) -> None:
    still, moving = (Lab(tmp_path, {"drift.schedule": text}).workload.people(1) for text in ("never", "every:2"))
    at = [moving.examples(0, step, "test") for step in range(4)]
    assert at[0] == at[1] != at[2] == at[3]
    assert all(still.examples(0, step, "test") == at[0] for step in range(4))


def test_clients_may_have_files(tmp_path: Path) -> None:
    for client in range(3):
        rows = [{"instruction": f"Say {n}", "output": f"{client} and {n}"} for n in range(10)]
        (tmp_path / f"device-{client}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    lab = Lab(tmp_path / "store", {"spa.data": str(tmp_path)})
    trained = lab.train(lab.start)
    got = lab.evaluate(trained.state)
    assert (trained.examples, got.samples) == (6, 2)
    (tmp_path / "device-2.jsonl").unlink()
    with pytest.raises(DataError, match="has no file of device-2, only of device-0, device-1"):
        Lab(tmp_path, {"spa.data": str(tmp_path)}).workload.prepare(2)


def test_another_base_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="has checksum .* spa.base-checksum asks for 0123"):
        Lab(tmp_path, {"spa.base-checksum": "0123"}).workload.base()
    known = Lab(tmp_path).workload.base()
    assert Lab(tmp_path, {"spa.base-checksum": known.checksum[:12]}).workload.base() is known


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"strategies": "na,eclm"}, "strategy .eclm. needs a modular model, .*: use fedadam, fedavg, fedprox, la, na"),
        ({"strategies": "fedavg-prior"}, "strategy 'fedavg-prior' needs clients that know their class shares"),
        ({"spa.reduction": 999}, "reduction = 999"),
        ({"split": "messages", "spa.gate": "mixture"}, "spa.gate = 'mixture' needs the base .*: use 'two-stage'"),
        (
            {"split": "messages", "client.update-clip": 1.0, "client.update-noise": 1.0},
            "client.update-clip looks at whole models",
        ),
    ],
)  # fmt: skip
def test_an_impossible_combination_is_one_sentence(changes: dict[str, Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=why) as error:
        play(tmp_path, {**SMALL, "strategies": "na", **changes})
    assert "\n" not in str(error.value)


def test_a_folder_that_holds_no_model_is_one_sentence(tmp_path: Path) -> None:
    for content in (None, "{}", "torn"):
        if content:
            (tmp_path / "config.json").write_text(content)
        with pytest.raises(DataError, match="holds no causal language model"):
            Lab(tmp_path, {"spa.base": str(tmp_path)}).workload.prepare(1)


def test_scores_are_those_of_the_mode(tmp_path: Path) -> None:
    for mode in ("s1", "s2", "s3", "spa"):
        lab = Lab(tmp_path, {"spa.mode": mode})
        got = lab.evaluate(lab.start, epochs=0)
        accuracy, measures = got.delivered[0], got.measures["delivered"]
        assert measures["M"] == 1.0  # a gate that was never fitted is open
        assert accuracy == pytest.approx(measures["side_accuracy"])
        if mode in ("s1", "spa"):
            assert accuracy == measures["base_accuracy"] and np.isfinite(got.delivered[2])


@pytest.mark.parametrize("life", ["lasting", "restarted", "two processes"])
@pytest.mark.parametrize(
    "options", [{}, {"spa.side": "attentive", "spa.policy": "sparse", "spa.personal": "gate"}, {"spa.mode": "s1"}]
)
def test_with_the_base_in_the_cloud_the_numbers_are_the_same(
    options: dict[str, str], life: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if a turn finds nothing in memory, or if another process has taken the turns since."""
    how = {**SMALL, "strategies": "fedavg", "client.batch-size": 8, **options}
    simulated = play(tmp_path / "simulated", how)
    turns = forget(monkeypatch, SPA, life)
    assert play(tmp_path / "split", {**how, "split": "messages"}) == simulated
    pd.testing.assert_frame_equal(read_measures(tmp_path / "split"), read_measures(tmp_path / "simulated"))
    assert turns and (life == "two processes" or not turns[0].rounds)


def test_bytes_of_training_follow_their_formula(tmp_path: Path) -> None:
    """float32: S states of d numbers once; per token and epoch o up, its gradient down; o up and losses down once."""
    lab = Lab(tmp_path, {"client.batch-size": 8})
    measures, base, people = lab.train(lab.start).measures, lab.workload.base(), lab.workload.people(1)
    learn, calibrate = (people.examples(0, 0, part) for part in ("train", "calibrate"))
    n, c = (sum(len(base.encode(example)[1]) for example in part) for part in (learn, calibrate))
    states, d = len(lab.workload.side_spec.states), base.width
    assert measures["train_down"] * len(learn) == 4 * (states * d * (n + c) + 2 * d * n + 2 * c)
    assert measures["train_up"] * len(learn) == 4 * (2 * d * n + d * c)


@pytest.mark.parametrize(
    "invented",
    [
        None,
        Frame("examples", {"examples": [{"instruction": "a", "secret": "b"}]}),
        Frame("learn", {"rows": [0, 99]}, {"o": torch.zeros(1, 4)}),
        Frame("learn", {"rows": [0]}, {"o": torch.zeros(3, 4)}),
        Frame("stop"),
    ],
    ids=["nonsense", "fields", "rows", "shape", "kind"],
)
def test_a_client_that_sends_nonsense_loses_its_round_and_the_others_continue(
    invented: Frame | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = SPA.turn

    def turn(self: SPA, context: ClientContext, task: ClientTask, *args: Any) -> Any:
        answer = original(self, context, task, *args)
        begins = invented is None or invented.kind == "examples"
        blob = b"nonsense" if invented is None else invented.blob()
        return {"frame": blob} if context.client == 1 and begins == (task.state is not None) else answer

    monkeypatch.setattr(SPA, "turn", turn)
    play(tmp_path, {**SMALL, "strategies": "fedavg", "cohort": 3, "rounds": 1, "split": "messages"})
    rounds = read_rounds(tmp_path)
    assert (rounds.failures == 1).all() and (rounds.devices == 2).all()
