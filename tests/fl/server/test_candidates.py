"""Candidate modules: held on the device, re-selected there, and renewed by the cloud only where that is needed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from fl.config.settings import Settings, SettingsError
from fl.results.reader import read_devices, read_rounds
from fl.workloads import classify as workload
from fl.workloads.pretraining import prepare
from fl.workloads.state_store import Store
from tests.fl.conftest import SMALL

HELD = {"block.modules": np.array([1, 4, 9, 12, 15])}


def ends(out: Path, method: str = "eclm") -> pd.DataFrame:
    rounds = read_rounds(out)
    return rounds[(rounds.method == method) & (rounds.evaluated > 0)].set_index("step")


def test_the_choice_among_fresh_candidates_is_derivation(play: Callable, tmp_path: Path) -> None:
    """One module layer: the best that fit, of the best that the link brings, are the best that fit.

    At the first step nobody holds anything, so every device asks; only more bytes are sent.
    """
    play(tmp_path / "off", strategies="eclm")
    play(tmp_path / "on", strategies="eclm", **{"candidates": 4.0})
    off, on = ends(tmp_path / "off"), ends(tmp_path / "on")
    asked = read_devices(tmp_path / "on").query("method == 'eclm'").deliver_bytes > 0
    assert on.accuracy_mean[0] == off.accuracy_mean[0] and on.loss[0] == off.loss[0]
    assert on.deliver_bytes[0] > off.deliver_bytes[0] and asked[:6].all()


def test_a_shift_below_the_threshold_needs_no_cloud(play: Callable, tmp_path: Path) -> None:
    """Nothing shifts by more than 1: after the first step, delivery brings orders only."""
    play(tmp_path, strategies="eclm", **{"candidates": 2.0, "shift-threshold": 1.0, "rounds": 6})
    on = ends(tmp_path)
    assert on.deliver_bytes[0] > 0 and (on.deliver_bytes[[1, 2]] == 0).all()


def test_a_device_that_satisfies_itself_needs_no_cloud(play: Callable, tmp_path: Path) -> None:
    play(tmp_path, strategies="eclm", **{"candidates": 2.0, "shift-threshold": 0.0, "required-accuracy": 0.0})
    assert ends(tmp_path).deliver_bytes[1] == 0


def test_a_look_in_between_changes_nothing(play: Callable, tmp_path: Path) -> None:
    how = {"strategies": "eclm", "candidates": 2.0, "shift-threshold": 0.05, "required-accuracy": 0.9}
    play(tmp_path / "often", **how, **{"eval-every": 1})
    play(tmp_path / "seldom", **how, **{"eval-every": 2})
    often, seldom = read_rounds(tmp_path / "often"), read_rounds(tmp_path / "seldom")
    for column in ("accuracy_mean", "loss", "deliver_bytes"):
        np.testing.assert_array_equal(often[often["round"] % 2 == 0][column], seldom[seldom["round"] % 2 == 0][column])


def test_candidates_on_one_and_two_workers(play: Callable, tmp_path: Path) -> None:
    how = {"strategies": "eclm,eclm-local", "candidates": 2.0, "shift-threshold": 0.05, "required-accuracy": 0.9}
    assert play(tmp_path / "one", **how) == play(tmp_path / "two", workers=2, **how)


@pytest.fixture
def device(tmp_path: Path) -> tuple[Settings, workload.Order, Store, dict[str, torch.Tensor]]:
    """A device that holds the selector, and is sent five candidate modules."""
    settings = Settings.parse({**SMALL, "candidates": 2.0, "limit-low": 0.3, "limit-high": 0.3})
    cloud, store = prepare(settings, 1), Store.of(tmp_path, "1", "eclm", 1, 3, 4)
    store.save("selector", cloud.modular_model.selector.state_dict())
    from models.submodel import extract

    coverage = {layer: torch.from_numpy(kept) for layer, kept in HELD.items()}
    state = extract(cloud.modular_model.body.state(), cloud.modular_model.body.axes(), coverage)
    sizes = {layer: len(kept) for layer, kept in HELD.items()}
    order = workload.Order(3, 1, 2, 0, "modular", sizes, HELD, epochs=1, keep=True, reselect=True)
    return settings, order, store, state


def test_what_is_not_activated_is_kept_untouched(device) -> None:
    settings, order, store, state = device
    got = workload.evaluate(settings, order, store, state)
    active = got.active["block.modules"]
    kept = store.load("model")["block.first"]
    still = [torch.equal(kept[m], state["block.first"][m]) for m in range(5)]
    assert 1 <= active < 5 and still.count(True) == 5 - active


def test_a_device_tells_what_it_holds_until_it_asks(device, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, order, store, state = device
    assert not any(name.startswith("held.") for name in workload.profile(settings, order, store, True))
    workload.evaluate(settings, order, store, state)
    told = workload.profile(settings, order, store, True)
    assert told["held.block.modules"] == HELD["block.modules"].tolist() and told["macs"] == 0  # nothing shifted
    moved = {"block.modules": np.eye(16)[0]}
    monkeypatch.setattr(workload, "_importance", lambda *_: moved)
    told = workload.profile(settings.model_copy(update={"required_accuracy": 0.0}), order, store, True)
    assert told["held.block.modules"] == HELD["block.modules"].tolist() and told["macs"] > 0
    impossible = settings.model_copy(update={"required_accuracy": 1.1})
    assert "held.block.modules" not in workload.profile(impossible, order, store, True)


def test_a_device_of_one_sample_asks_the_cloud(device, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing to be trained on beside what it is to be judged on."""
    settings, order, store, state = device
    workload.evaluate(settings, order, store, state)
    monkeypatch.setattr(workload, "_importance", lambda *_: {"block.modules": np.eye(16)[0]})
    honest = workload.samples
    monkeypatch.setattr(workload, "samples", lambda *of: tuple(part[:1] for part in honest(*of)))
    told = workload.profile(settings, order, store, True)
    assert "held.block.modules" not in told and told["macs"] == 0


@pytest.mark.parametrize("claimed", [{"block.modules": 99}, {"block.modules": 0}, {}])
def test_a_claim_to_activate_what_is_not_held_is_left_out(play, tmp_path: Path, monkeypatch, claimed: dict) -> None:
    honest = workload.evaluate

    def evaluate(settings, order, store, state):
        got = honest(settings, order, store, state)
        return replace(got, active=claimed) if order.device == 2 else got

    monkeypatch.setattr(workload, "evaluate", evaluate)
    play(tmp_path, strategies="eclm", candidates=2.0, rounds=2)
    assert ends(tmp_path).evaluated.tolist() == [5]


def test_a_device_remembers_how_its_candidates_are_used(device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Corrected for its class shares when it was sent them, so also when it tries whether they still do."""
    settings, order, store, state = device
    workload.evaluate(settings, replace(order, masked="prior"), store, state)
    monkeypatch.setattr(workload, "_importance", lambda *_: {"block.modules": np.eye(16)[0]})
    tried, honest = [], workload._fit
    monkeypatch.setattr(workload, "_fit", lambda s, o, *rest: tried.append(o.masked) or honest(s, o, *rest))
    workload.profile(settings, order, store, True)
    assert tried == ["prior"]


def test_candidates_below_what_is_activated_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"candidates = 0\.5 is less than what is activated"):
        Settings.parse({"candidates": 0.5})


def test_the_change_of_a_state_by_hand() -> None:
    before = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([4.0])}
    assert workload.change(before, {"a": torch.tensor([3.0, 1.5]), "b": torch.tensor([6.0])}) == pytest.approx(0.5)


def test_what_hardly_changed_is_not_uploaded(play: Callable, tmp_path: Path) -> None:
    """Nobody reaches a change of 1e9: the cloud model stays as it was, and nobody failed."""
    play(tmp_path / "none", strategies="na,fedavg", **{"upload-change": 1e9})
    rounds = read_rounds(tmp_path / "none")
    na, fed = (rounds[rounds.method == name] for name in ("na", "fedavg"))
    assert fed.accuracy_mean.dropna().tolist() == na.accuracy_mean.dropna().tolist()
    assert (fed.devices == 3).all() and (fed.failures == 0).all() and (fed.bytes_up < 1000).all()
    always = play(tmp_path / "always", strategies="fedavg")
    assert play(tmp_path / "tiny", strategies="fedavg", **{"upload-change": 1e-12}) == always


def test_a_device_activates_less_when_it_can_spare_less(device) -> None:
    """No message brings that about: the same order, and background programs that take half of compute and memory."""
    settings, order, store, state = device
    roomy = settings.model_copy(update={"limit_low": 3.0, "limit_high": 3.0, "background_load": 0.0})
    assert workload.evaluate(roomy, order, store, state).active == {"block.modules": 5}
    tight = settings.model_copy(update={"limit_low": 0.3, "limit_high": 0.3, "background_load": 0.0})
    before = store.load("model")
    fewer = workload.evaluate(tight, order, store, None).active["block.modules"]
    assert 1 <= fewer < 5
    changed = [not torch.equal(store.load("model")["block.first"][m], before["block.first"][m]) for m in range(5)]
    assert changed.count(True) == fewer
