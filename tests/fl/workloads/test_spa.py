"""SPA as a workload: what travels, what stays, and runs end to end on a base trained for a second."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from fl.config.settings import Settings, SettingsError
from fl.results.reader import read_measures, read_rounds
from fl.workloads import spa
from fl.workloads.state_store import Store
from fl.workloads.workload import Order
from models.spa.codec import Frame
from models.submodel import State
from partitions.errors import DataError
from strategies import STRATEGIES
from strategies.base import Plan, Profile, Update
from tests.fl.conftest import forget

SMALL = {
    "workload": "spa", "strategies": "na,la,fedavg", "tiny-steps": 20, "spa-facts": 2, "spa-every": 2, "devices": 3,
    "cohort": 2, "rounds": 2, "rounds-per-step": 1, "eval-every": 1, "local-epochs": 2, "adapt-epochs": 2, "lr": 0.02,
}  # fmt: skip


def settings_of(**changes: object) -> Settings:
    return Settings.parse({**SMALL, **{key.replace("_", "-"): value for key, value in changes.items()}})


def start(settings: Settings) -> State:
    return spa.prepare(settings, 1).dense_state


def order(**changes: object) -> Order:
    return Order(**{"device": 0, "seed": 1, "round": 1, "step": 0, "epochs": 2, **changes})  # type: ignore[arg-type]


def test_runs_end_to_end_and_again_alike(play: Callable[..., list[str]], tmp_path: Path) -> None:
    lines = play(tmp_path / "a", **SMALL)
    again = play(tmp_path / "b", **{**SMALL, "strategies": "fedavg"})
    assert again[1:] == [line for line in lines if ",fedavg" in line]
    rows = list(csv.DictReader(lines))
    assert {row["method"] for row in rows} == {"na", "na+ft", "la", "fedavg", "fedavg+ft"}
    assert not any(int(row["failures"]) or int(row["refused"]) for row in rows)
    measured = read_measures(tmp_path / "a").pivot_table(index=["method", "round"], columns="measure", values="value")
    assert set(measured.columns) == set(spa.MEASURES)
    last = {row["method"]: row for row in rows if row["round"] == "2"}
    # an untrained plugin adds nothing: na is the base, whatever its gate says
    assert float(last["na"]["accuracy_mean"]) == pytest.approx(measured.loc[("na", 2), "base_accuracy"])
    assert max(float(last[name]["loss"]) for name in ("la", "fedavg", "fedavg+ft")) < float(last["na"]["loss"])
    size = sum(value.nbytes for value in start(settings_of()).values())
    per_device = int(last["fedavg"]["bytes_up"]) / int(last["fedavg"]["devices"])
    assert size < per_device < 1.2 * size + 4000  # the plugin and its report: never the base


def test_no_weight_of_the_base_is_in_a_message() -> None:
    names = set(start(settings_of()))
    assert names and all(name.startswith(("side.", "gate.")) for name in names)


@pytest.mark.parametrize("personal,stays", [("gate", ("gate.",)), ("gate+out", ("gate.", "side.out."))])
def test_what_is_personal_stays_and_is_used_again(personal: str, stays: tuple[str, ...], tmp_path: Path) -> None:
    settings, store = settings_of(spa_personal=personal), Store(tmp_path)
    sent = start(settings)
    assert not any(name.startswith(stays) for name in sent)
    first = spa.train(settings, order(), store, sent).state
    assert first is not None and first.keys() == sent.keys()
    mine = store.load("personal")
    assert mine and all(name.startswith(stays) for name in mine)
    alone = spa._load(settings, order(), store, sent).state()
    assert all(torch.equal(alone[name], mine[name]) for name in mine)
    assert all(torch.equal(alone[name], sent[name]) for name in sent)
    axes = spa.prepare(settings, 1).dense.part({}).axes()
    assert axes.keys() == sent.keys()
    # scoring after adaptation must not touch what the device keeps
    spa.evaluate(settings, order(round=2), store, first)
    assert all(torch.equal(store.load("personal")[name], mine[name]) for name in mine)


def test_fedavg_of_one_device_is_that_device(tmp_path: Path) -> None:
    settings = settings_of()
    cloud = spa.prepare(settings, 1)
    method = STRATEGIES["fedavg"](cloud, Plan(3, 1, 2, 2, 1), 1)
    tasks = method.tasks(1, [Profile(0)])
    trained = spa.train(settings, order(), Store(tmp_path), tasks[0].state)
    assert trained.state is not None and trained.examples == 18
    method.absorb(1, tasks, [Update(0, trained.state, trained.examples)], [Profile(0)])
    assert all(torch.equal(method.model[name], value) for name, value in trained.state.items())


def test_training_is_a_function_of_its_address(tmp_path: Path) -> None:
    settings = settings_of()
    once, again = (spa.train(settings, order(), Store(tmp_path / name), start(settings)).state for name in "ab")
    other = spa.train(settings, order(device=1), Store(tmp_path / "c"), start(settings)).state
    assert once is not None and again is not None and other is not None
    assert all(torch.equal(once[name], again[name]) for name in once)
    assert not all(torch.equal(once[name], other[name]) for name in once)


def test_people_drift_by_the_schedule() -> None:
    still, moving = settings_of(schedule="never"), settings_of(schedule="every:2")
    at = [spa.people(moving, 1).examples(0, step, "test") for step in range(4)]
    assert at[0] == at[1] != at[2] == at[3]
    assert all(spa.people(still, 1).examples(0, step, "test") == at[0] for step in range(4))


def test_devices_may_have_files(tmp_path: Path) -> None:
    for device in range(3):
        rows = [{"instruction": f"Say {n}", "output": f"{device} and {n}"} for n in range(10)]
        (tmp_path / f"{device}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = settings_of(spa_data=str(tmp_path))
    trained = spa.train(settings, order(), Store(tmp_path / "store"), start(settings))
    got = spa.evaluate(settings, order(), Store(tmp_path / "store"), trained.state)
    assert (trained.examples, got.samples) == (6, 2)
    (tmp_path / "2.jsonl").unlink()
    with pytest.raises(DataError, match="2.jsonl cannot be read"):
        spa.prepare(settings_of(spa_data=str(tmp_path), devices=3, seeds="2"), 2)


def test_another_base_is_refused() -> None:
    with pytest.raises(SettingsError, match="has checksum .* base-checksum asks for 0123"):
        spa.base(settings_of(base_checksum="0123"))
    known = spa.base(settings_of()).checksum
    assert spa.base(settings_of(base_checksum=known[:12])) is spa.base(settings_of())


@pytest.mark.parametrize(
    "key,value,why",
    [
        ("strategies", "na,eclm", "strategy 'eclm' cuts the model .* use fedavg, la, na"),
        ("strategies", "fedavg-prior", "strategy 'fedavg-prior' cuts the model or counts its classes"),
        ("spa-reduction", 999, "reduction = 999"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(
    key: str, value: object, why: str, play: Callable[..., list[str]], tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=why):
        play(tmp_path, **{**SMALL, "strategies": "na", key: value})


def test_a_folder_that_holds_no_model_is_one_sentence(tmp_path: Path) -> None:
    for content in (None, "{}", "torn"):
        if content:
            (tmp_path / "config.json").write_text(content)
        with pytest.raises(DataError, match="holds no causal language model"):
            spa.prepare(settings_of(base=str(tmp_path)), 1)


def test_scores_are_of_the_mode(tmp_path: Path) -> None:
    for mode in ("s1", "s2", "s3", "spa"):
        settings = settings_of(spa_mode=mode)
        got = spa.evaluate(settings, order(epochs=0), Store(tmp_path), start(settings))
        accuracy, measures = got.delivered[0], got.measures["delivered"]
        assert measures["M"] == 1.0  # a gate that was never fitted is open
        assert accuracy == pytest.approx(measures["side_accuracy"])
        if mode in ("s1", "spa"):
            assert accuracy == measures["base_accuracy"] and np.isfinite(got.delivered[2])


@pytest.mark.parametrize("life", ["lasting", "restarted", "two processes"])
@pytest.mark.parametrize(
    "own", [{}, {"spa-side": "attentive", "spa-policy": "sparse", "spa-personal": "gate"}, {"spa-mode": "s1"}]
)
def test_with_the_base_in_the_cloud_the_numbers_are_the_same(
    own: dict[str, str], life: str, play: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a turn finds nothing in memory, or what another process has gone on from since."""
    how = {**SMALL, "strategies": "fedavg", "batch-size": 8, **own}
    simulated = play(tmp_path / "simulated", **how)
    turns = forget(monkeypatch, spa, life)
    assert play(tmp_path / "split", **how, split="messages") == simulated
    pd.testing.assert_frame_equal(read_measures(tmp_path / "split"), read_measures(tmp_path / "simulated"))
    assert turns and (life == "two processes" or not spa._SIDES)


def test_bytes_of_training_follow_their_formula(tmp_path: Path) -> None:
    """float32: S states of d numbers once; per token and epoch o up, its gradient down; o up and losses down once."""
    settings = settings_of(batch_size=8)
    measures = spa.train(settings, order(), Store(tmp_path), start(settings)).measures
    base, (learn, calibrate) = spa.base(settings), spa._examples(settings, order())
    n, c = (sum(len(base.encode(example)[1]) for example in part) for part in (learn, calibrate))
    states, d = len(spa.side_spec(settings).states), base.width
    assert measures["train_down"] * len(learn) == 4 * (states * d * (n + c) + 2 * d * n + 2 * c)
    assert measures["train_up"] * len(learn) == 4 * (2 * d * n + d * c)


@pytest.mark.parametrize(
    "made",
    [
        None,
        Frame("examples", {"examples": [{"instruction": "a", "secret": "b"}]}),
        Frame("learn", {"rows": [0, 99]}, {"o": torch.zeros(1, 4)}),
        Frame("learn", {"rows": [0]}, {"o": torch.zeros(3, 4)}),
        Frame("stop"),
    ],
    ids=["nonsense", "fields", "rows", "shape", "kind"],
)
def test_what_a_device_makes_up_in_training_costs_its_round_alone(
    made: Frame | None, play: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = spa.turn

    def turn(settings: Settings, order: Order, store: Store, steps: int, down: dict, state: State | None):
        said = honest(settings, order, store, steps, down, state)
        begins = made is None or made.kind == "examples"
        blob = b"nonsense" if made is None else made.blob()
        return {"frame": blob} if order.device == 1 and begins == (state is not None) else said

    monkeypatch.setattr(spa, "turn", turn)
    play(tmp_path, **{**SMALL, "strategies": "fedavg", "cohort": 3, "rounds": 1}, split="messages")
    rounds = read_rounds(tmp_path)
    assert (rounds.failures == 1).all() and (rounds.devices == 2).all()


@pytest.mark.parametrize(
    "changes,why",
    [
        ({"spa_gate": "mixture"}, "spa-gate = 'mixture' needs the base beside it: use 'two-stage'"),
        ({"update_clip": 1.0, "update_noise": 1.0}, "update-clip looks at whole models"),
    ],
)
def test_what_cannot_be_split_is_said(changes: dict[str, object], why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        spa.prepare(settings_of(split="messages", **changes), 1)
