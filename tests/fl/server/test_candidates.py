"""Candidate modules: a client holds them, selects among them again, and gets others from the server only if needed."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from fl.config import SettingsError
from fl.results.reader import read_devices, read_rounds
from fl.workloads.classify import Classify, LocalClient, change
from fl.workloads.state_store import ClientStateStore
from fl.workloads.workload import ClientContext, Scored
from models.submodel import State, extract
from strategies.core.client import ClientTask
from strategies.eclm import ECLM
from tests.fl.conftest import resolved

HELD = {"block.modules": np.array([1, 4, 9, 12, 15])}
SHIFTING = {"strategies": "eclm", "eclm.candidates": 2.0, "eclm.shift-threshold": 0.05, "eclm.required-accuracy": 0.9}


def ends(out: Path, method: str = "eclm") -> pd.DataFrame:
    rounds = read_rounds(out)
    return rounds[(rounds.method == method) & (rounds.evaluated > 0)].set_index("step")


def test_the_choice_among_new_candidates_is_derivation(play: Callable, tmp_path: Path) -> None:
    """One module layer: the best that fit, of the best that the link brings, are the best that fit.

    At the first step no client holds candidates, so every client asks; only more bytes are sent.
    """
    play(tmp_path / "off", {"strategies": "eclm"})
    play(tmp_path / "on", {"strategies": "eclm", "eclm.candidates": 4.0})
    off, on = ends(tmp_path / "off"), ends(tmp_path / "on")
    asked = read_devices(tmp_path / "on").query("method == 'eclm'").deliver_bytes > 0
    assert on.accuracy_mean[0] == off.accuracy_mean[0] and on.loss[0] == off.loss[0]
    assert on.deliver_bytes[0] > off.deliver_bytes[0] and asked[:6].all()


def test_a_shift_below_the_threshold_needs_no_server(play: Callable, tmp_path: Path) -> None:
    """Nothing shifts by more than 1: after the first step, no model is sent."""
    play(tmp_path, {"strategies": "eclm", "eclm.candidates": 2.0, "eclm.shift-threshold": 1.0, "rounds": 6})
    on = ends(tmp_path)
    assert on.deliver_bytes[0] > 0 and (on.deliver_bytes[[1, 2]] == 0).all()


def test_a_client_that_is_accurate_enough_needs_no_server(play: Callable, tmp_path: Path) -> None:
    how = {"eclm.candidates": 2.0, "eclm.shift-threshold": 0.0, "eclm.required-accuracy": 0.0}
    play(tmp_path, {"strategies": "eclm", **how})
    assert ends(tmp_path).deliver_bytes[1] == 0


def test_scores_in_between_change_nothing(play: Callable, tmp_path: Path) -> None:
    play(tmp_path / "often", {**SHIFTING, "eval.every": 1})
    play(tmp_path / "seldom", {**SHIFTING, "eval.every": 2})
    often, seldom = read_rounds(tmp_path / "often"), read_rounds(tmp_path / "seldom")
    for column in ("accuracy_mean", "loss", "deliver_bytes"):
        np.testing.assert_array_equal(often[often["round"] % 2 == 0][column], seldom[seldom["round"] % 2 == 0][column])


def test_candidates_on_one_and_two_workers(play: Callable, tmp_path: Path) -> None:
    how = {**SHIFTING, "strategies": "eclm,eclm-local"}
    assert play(tmp_path / "one", how) == play(tmp_path / "two", how, workers=2)


@dataclass(frozen=True)
class Simulated:
    """Client 3 in round 2, which has the selector and is sent five candidate modules."""

    workload: Classify
    options: Any
    context: ClientContext
    task: ClientTask

    def within(self, changes: dict[str, Any]) -> "Simulated":
        """The same client in a run with other values for some keys."""
        run = resolved({**RUN, **changes})
        assert isinstance(run.workload, Classify)
        return replace(self, workload=run.workload, options=run.options["eclm"])

    @property
    def store(self) -> ClientStateStore:
        return self.context.store

    @property
    def sent(self) -> State:
        assert self.task.state is not None
        return self.task.state

    def evaluate(self, task: ClientTask | None = None) -> Scored:
        task = task or self.task
        return self.workload.evaluate(self.context, task, partial(ECLM.Client, self.options, task))

    def profile(self, options: Any = None) -> dict[str, Any]:
        half = partial(ECLM.Client, options or self.options, ClientTask())
        return self.workload.profile(self.context, half)


RUN = {"strategies": "eclm", "eclm.candidates": 2.0, "devices.limit-low": 0.3, "devices.limit-high": 0.3}


@pytest.fixture
def client(tmp_path: Path) -> Simulated:
    run = resolved(RUN)
    assert isinstance(run.workload, Classify)
    modular, store = run.workload.prepare(1).modular(), ClientStateStore.of(tmp_path, "1", "eclm", 1, 3, 4)
    store.save("selector", modular.selector.state_dict())
    coverage = {layer: torch.from_numpy(kept) for layer, kept in HELD.items()}
    state = extract(modular.body.state(), modular.body.axes(), coverage)
    sizes = {layer: len(kept) for layer, kept in HELD.items()}
    options = {"masked": "none", "reselect": True}
    task = ClientTask("modular", sizes, HELD, epochs=1, keep=True, options=options, state=state)
    return Simulated(run.workload, run.options["eclm"], ClientContext(3, 1, 2, 0, store), task)


@pytest.fixture
def shifted(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let the importance of modules be another: all of it is that of module 0."""
    return lambda: monkeypatch.setattr("strategies.eclm.importance", lambda logits: [torch.eye(16)[0]])


def test_modules_that_are_not_active_are_kept_unchanged(client: Simulated) -> None:
    active = client.evaluate().report["active.block.modules"]
    kept = client.store.load("model")["block.first"]
    still = [torch.equal(kept[m], client.sent["block.first"][m]) for m in range(5)]
    assert 1 <= active < 5 and still.count(True) == 5 - active


def test_a_client_reports_what_it_holds_until_it_asks(client: Simulated, shifted: Callable[[], None]) -> None:
    assert not any(name.startswith("held.") for name in client.profile())
    client.evaluate()
    report = client.profile()
    assert report["held.block.modules"] == HELD["block.modules"].tolist() and report["macs"] == 0  # nothing shifted
    shifted()
    report = client.profile(client.options.model_copy(update={"required_accuracy": 0.0}))
    assert report["held.block.modules"] == HELD["block.modules"].tolist() and report["macs"] > 0
    impossible = client.profile(client.options.model_copy(update={"required_accuracy": 1.1}))
    assert "held.block.modules" not in impossible and impossible["macs"] > 0


def test_a_client_of_one_sample_asks_the_server(
    client: Simulated, shifted: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no sample to train on beside the one to score on."""
    client.evaluate()
    shifted()
    honest = LocalClient.samples
    monkeypatch.setattr(LocalClient, "samples", lambda *of: tuple(part[:1] for part in honest(*of)))
    report = client.profile()
    assert "held.block.modules" not in report and report["macs"] == 0


@pytest.mark.parametrize("claimed", [{"active.block.modules": 99}, {"active.block.modules": 0}, {}])
def test_a_client_that_claims_to_activate_what_it_does_not_hold_is_left_out(
    play: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, claimed: dict
) -> None:
    honest = Classify.evaluate

    def evaluate(self, context, task, half):
        got = honest(self, context, task, half)
        return replace(got, report=claimed) if context.client == 2 else got

    monkeypatch.setattr(Classify, "evaluate", evaluate)
    play(tmp_path, {"strategies": "eclm", "eclm.candidates": 2.0, "rounds": 2})
    assert ends(tmp_path).evaluated.tolist() == [5]


def test_a_client_remembers_how_its_candidates_are_used(
    client: Simulated, shifted: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Corrected by its class shares when they were sent, so also when it tries whether they still fit."""
    shares = list(client.workload.prepare(1).class_shares)
    client.evaluate(replace(client.task, options={"masked": "prior", "reselect": True, "shares": shares}))
    shifted()
    tried, honest = [], LocalClient.fit

    def fit(self, trainer, *of):
        tried.append((trainer.correction, trainer.task.options["shares"]))
        return honest(self, trainer, *of)

    monkeypatch.setattr(LocalClient, "fit", fit)
    client.profile()
    assert tried == [("prior", pytest.approx(shares))]


def test_candidates_below_what_is_activated_are_refused() -> None:
    said = r"eclm\.candidates = 0\.5 is less than what a client activates"
    with pytest.raises(SettingsError, match=said):
        resolved({"strategies": "eclm", "eclm.candidates": 0.5})


def test_the_change_of_a_state_by_hand() -> None:
    before = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([4.0])}
    assert change(before, {"a": torch.tensor([3.0, 1.5]), "b": torch.tensor([6.0])}) == pytest.approx(0.5)


def test_updates_that_hardly_changed_are_not_uploaded(play: Callable, tmp_path: Path) -> None:
    """No client reaches a change of 1e9: the cloud model stays as it was, and no client failed."""
    play(tmp_path / "none", {"strategies": "na,fedavg", "client.upload-change": 1e9})
    rounds = read_rounds(tmp_path / "none")
    na, fed = (rounds[rounds.method == name] for name in ("na", "fedavg"))
    assert fed.accuracy_mean.dropna().tolist() == na.accuracy_mean.dropna().tolist()
    assert (fed.devices == 3).all() and (fed.failures == 0).all() and (fed.bytes_up < 1000).all()
    always = play(tmp_path / "always", {"strategies": "fedavg"})
    assert play(tmp_path / "tiny", {"strategies": "fedavg", "client.upload-change": 1e-12}) == always


def test_a_client_activates_less_when_it_can_spare_less(client: Simulated) -> None:
    """The task is the same; background programs take half of compute and memory."""
    idle = {"devices.background-load": 0.0}
    roomy = client.within({**idle, "devices.limit-low": 3.0, "devices.limit-high": 3.0})
    assert roomy.evaluate().report == {"active.block.modules": 5}
    tight = client.within(idle)
    before = client.store.load("model")
    fewer = tight.evaluate(replace(client.task, state=None)).report["active.block.modules"]
    assert 1 <= fewer < 5
    after = client.store.load("model")
    changed = [not torch.equal(after["block.first"][m], before["block.first"][m]) for m in range(5)]
    assert changed.count(True) == fewer
