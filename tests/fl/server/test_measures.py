"""Measures of a round: by hand, and against the clients that they are taken on."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fl.devices.hardware import Table
from fl.results.reader import read_devices, read_rounds
from fl.server.measures import Divergence, forgetting, load_cv
from fl.workloads.classify import Classify
from tests.fl.conftest import resolved

AXES = {"w": ("module", None)}


def divergence(*updates: tuple[list[int], list[list[float]]]) -> float:
    """The divergence of changes to some of four modules of two parameters each."""
    found = Divergence(AXES, {"w": torch.zeros(4, 2)})
    for modules, change in updates:
        trained = torch.tensor(change)
        found.add({"w": trained + 5}, {"w": torch.full_like(trained, 5.0)}, {"module": torch.tensor(modules)})
    return found.values(["w"])[0]


def test_divergence_by_hand() -> None:
    """Clients 0 and 1 share module 1 only: changes (1, 2) and (3, 2).

    Variances (n - 1) are 2 and 0, mean squares 5 and 4: 2 / 9.
    """
    assert divergence(([0, 1], [[9.0, 9.0], [1.0, 2.0]]), ([1, 2], [[3.0, 2.0], [-7.0, 7.0]])) == pytest.approx(2 / 9)


def test_variance_by_hand_grows_with_the_updates() -> None:
    """As above: variances 2 and 0 of the two parameters that both clients have, mean 1; clients that move ten times
    as far have a hundred times the variance and the same divergence."""
    for scale in (1.0, 10.0):
        found = Divergence(AXES, {"w": torch.zeros(4, 2)})
        for modules, change in (([0, 1], [[9.0, 9.0], [1.0, 2.0]]), ([1, 2], [[3.0, 2.0], [-7.0, 7.0]])):
            of = {"module": torch.tensor(modules)}
            found.add({"w": scale * torch.tensor(change)}, {"w": torch.zeros(2, 2)}, of)
        assert found.values(["w"]) == pytest.approx((2 / 9, scale**2))


def test_divergence_of_updates_that_agree_oppose_or_have_nothing_in_common() -> None:
    one = [[1.0, 2.0]]
    assert divergence(([0], one), ([0], one), ([0], one)) == pytest.approx(0)
    assert divergence(([0], one), ([0], [[-1.0, -2.0]])) == pytest.approx(2)
    assert divergence(([0], [[1.0, 0.0]]), ([0], [[0.0, 1.0]])) == pytest.approx(1)
    assert np.isnan(divergence(([0], one), ([1], one))) and np.isnan(divergence())
    assert np.isnan(divergence(([0], [[0.0, 0.0]]), ([0], [[0.0, 0.0]])))


@given(st.integers(2, 6), st.integers(0, 1000), st.floats(0.01, 100))
def test_divergence_is_one_minus_the_mean_correlation_of_two_clients(n: int, seed: int, scale: float) -> None:
    """The oracle works on pairs; units do not matter, and unrelated updates give about 1 for any number of clients."""
    changes = np.random.default_rng(seed).normal(size=(n, 8))
    pairs = [changes[a] @ changes[b] for a in range(n) for b in range(n) if a != b]
    expected = 1 - np.mean(pairs) / np.square(changes).sum(1).mean()
    updates = [([0, 1, 2, 3], (scale * change).reshape(4, 2).tolist()) for change in changes]
    assert divergence(*updates) == pytest.approx(expected, rel=1e-3)


def test_module_load_by_hand() -> None:
    """Loads 2, 1, 1, 0 of the first layer: mean 1, variance 1/2. Every client has the second whole: no variation."""
    trained = [{"a": torch.tensor([0, 1])}, {"a": torch.tensor([0, 2])}]
    assert load_cv(trained, {"a": 4}) == pytest.approx(0.5**0.5)
    assert load_cv(trained, {"a": 4, "b": 3}) == pytest.approx(0.5**0.5 / 2)


def test_forgetting_by_hand() -> None:
    assert forgetting({1: 0.9, 2: 0.8, 3: 0.1}, {1: 0.6, 2: 0.9, 4: 0.0}) == pytest.approx(0.1)
    assert np.isnan(forgetting({}, {1: 0.5}))


def test_a_model_that_never_changes_forgets_nothing(play: Callable, tmp_path: Path) -> None:
    play(tmp_path, {"strategies": "na,na-prior,la", "rounds": 6, "eval.forgetting": True, "client.local-epochs": 3})
    rounds = read_rounds(tmp_path).query("evaluated > 0").set_index(["method", "step"])
    for method in ("na", "na-prior"):  # a prior of the present step would misjudge the samples of the step before
        assert rounds.forgetting[method].isna().tolist() == [True, False, False]
        assert (rounds.forgetting[method][1:] == 0).all()
    assert (rounds.forgetting["la"][1:] != 0).any() and rounds.forgetting["la"][1:].abs().lt(1).all()


def test_accuracy_at_a_first_encounter_is_that_of_the_devices_that_have_one(play: Callable, tmp_path: Path) -> None:
    drift = {"drift.kind": "subject", "data.partition": "subject", "drift.groups": 2, "drift.stagger": 1}
    play(tmp_path, {"strategies": "na", "rounds": 6, **drift})
    rounds, devices = (read(tmp_path).set_index("step") for read in (read_rounds, read_devices))
    rounds = rounds[(rounds["evaluated"] > 0) & (rounds["method"] == "na")]
    assert np.isnan(rounds.encounter_accuracy[0])  # the cloud knows everybody
    for step in (1, 2):
        mine = devices[devices["method"] == "na"].loc[step]
        new = mine[mine["device"] % 2 == 0] if step == 1 else mine  # groups drift at steps 1, 2, ... and 2, 3, ...
        assert rounds.encounter_accuracy[step] == pytest.approx(new["accuracy"].mean())


def test_adaptation_time_is_that_of_the_link_and_of_local_training(play: Callable, tmp_path: Path) -> None:
    """FedAvg: a model is sent, then 3 epochs. LA: training in the first round of the step; nothing is sent later."""
    play(tmp_path, {"strategies": "la,fedavg", "client.adapt-epochs": 3})
    world, devices = resolved().worlds(1), read_devices(tmp_path)
    last = devices[devices["round"] == 4].set_index(["method", "device"])
    for client in range(6):
        hardware = Table.of("phones").draw(1, client)
        examples = len(world.draw(client, 1).train)
        given, tuned, own = (last.loc[method, client] for method in ("fedavg", "fedavg+ft", "la"))
        link, work = 8e-6 / hardware.link_mbit_s, 3 * 3 * examples / hardware.mac_per_s
        assert given.adapt_s == pytest.approx(link * given.deliver_bytes)
        assert tuned.adapt_s - given.adapt_s == pytest.approx(work * given.macs, rel=1e-5)
        assert given.macs == own.macs and own.deliver_bytes == 0
        assert work * own.macs < own.adapt_s < work * own.macs + 2500 * link  # the task and its confirmation
    rounds = read_rounds(tmp_path).query("evaluated > 0").set_index(["method", "round"])
    assert rounds.adapt_s["la"][4] == pytest.approx(last.loc["la"].adapt_s.mean())
    assert rounds.asked["fedavg"].tolist() == [6, 6] and rounds.asked["la"].tolist() == [0, 0]


def test_rounds_measure_divergence_and_load_where_there_is_any(play: Callable, tmp_path: Path) -> None:
    play(tmp_path, {"strategies": "na,la,fedavg,eclm"})
    rounds = read_rounds(tmp_path).groupby("method")
    columns = ["divergence", "variance", "module_divergence", "module_variance", "load_cv"]
    empty = {m: of[columns].isna().all().tolist() for m, of in rounds}
    assert empty["na"] == empty["la"] == [True] * 5
    assert empty["fedavg"] == [False] * 4 + [True] and empty["eclm"] == [False] * 5
    for column in ("divergence", "module_divergence"):
        assert rounds[column].min().dropna().ge(0).all() and rounds[column].max().dropna().le(1.5).all()


def test_a_client_whose_model_diverged_is_not_scored(play: Callable, tmp_path: Path, monkeypatch) -> None:
    honest = Classify.evaluate

    def evaluate(self, context, task, half):
        got = honest(self, context, task, half)
        return replace(got, delivered=(0.5, 0.5, float("inf"))) if context.client == 2 else got

    monkeypatch.setattr(Classify, "evaluate", evaluate)
    play(tmp_path, {"strategies": "fedavg"})
    scored: pd.DataFrame = read_rounds(tmp_path).query("evaluated > 0")
    assert (scored.evaluated == 5).all() and np.isfinite(scored.loss).all()


def test_a_cloud_model_that_did_not_change_is_scored_once(play: Callable, tmp_path: Path, monkeypatch) -> None:
    calls = []

    honest = Classify.global_accuracy
    monkeypatch.setattr(Classify, "global_accuracy", lambda *of: calls.append(1) or honest(*of))
    play(tmp_path, {"strategies": "na", "rounds": 6})
    assert len(calls) == 1
    accuracy = read_rounds(tmp_path).query("evaluated > 0").global_accuracy
    assert len(accuracy) == 6 and accuracy.nunique() == 1
