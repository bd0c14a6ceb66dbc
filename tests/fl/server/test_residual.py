"""Residual modules from the selector to the scores: a module more, numbered last, on an axis of its own."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fl.devices.hardware import HardwareMap, Table
from fl.results.reader import read_devices, read_rounds
from fl.server.costs import Clocks
from fl.server.profiles import Profiles
from fl.workloads import pretraining
from fl.workloads.classify import Classify, LocalClient
from fl.workloads.state_store import ClientStateStore
from fl.workloads.workload import ClientContext
from fl.workloads.world import build_selector
from models.nn.body import columns_coverage
from models.submodel import State, extract
from strategies.core.client import ClientTask
from strategies.core.strategy import Budget, SubModel, TrainTask
from strategies.eclm import ECLM
from tests.fl.conftest import resolved

NEVER = -1e9  # a logit whose softmax is 0


def classify(residual: bool) -> Classify:
    workload = resolved({"strategies": "eclm", "eclm.residual": residual}).workload
    assert isinstance(workload, Classify)
    return workload


def shun_residual_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let residual runs have the cloud model without residual modules, and with ones that are never selected."""
    kept = classify(False).prepare(1).modular()
    selector = {f"selector.{name}": value for name, value in kept.selector.state_dict().items()}
    for name in ("heads", "noise"):
        weight, bias = f"selector.{name}.0.weight", f"selector.{name}.0.bias"
        selector[weight] = torch.nn.functional.pad(selector[weight], (0, 0, 0, 1))
        selector[bias] = torch.nn.functional.pad(selector[bias], (0, 1), value=NEVER)
    body = classify(True).architectures["modular"].whole().state() | kept.body.state()
    state = selector | {f"body.{name}": value for name, value in body.items()}
    honest = pretraining.cached

    def cached(name: str, decides: Mapping[str, Any], seed: int, train: Callable[[], State]) -> State:
        is_residual = name == "modular" and decides["modular"]["residual"]
        return state if is_residual else honest(name, decides, seed, train)

    monkeypatch.setattr(pretraining, "cached", cached)


@pytest.mark.parametrize("candidates", [0.0, 2.0])
def test_residual_modules_that_are_never_chosen_change_nothing(
    play: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, candidates: float
) -> None:
    shun_residual_modules(monkeypatch)
    rounds = {}
    for residual in (False, True):
        how = {"strategies": "eclm", "eclm.candidates": candidates, "eclm.residual": residual}
        play(tmp_path / str(residual), how)
        rounds[residual] = read_rounds(tmp_path / str(residual))
    for column in ("accuracy_mean", "accuracy_p10", "loss", "divergence", "train_macs", "devices"):
        np.testing.assert_allclose(rounds[True][column], rounds[False][column], rtol=1e-5, err_msg=column)


def test_a_client_that_can_afford_everything_gets_residual_modules_too(play: Callable, tmp_path: Path) -> None:
    roomy = {"eclm.residual": True, "devices.background-load": 0.0}
    roomy |= {"devices.limit-low": 3.0, "devices.limit-high": 3.0}
    play(tmp_path, {"strategies": "eclm,eclm-tailored", **roomy})
    delivered = read_devices(tmp_path)
    assert set(delivered.method) == {"eclm-derive", "eclm", "eclm-tailored-derive", "eclm-tailored"}
    assert (delivered.share == 1).all()


@pytest.mark.parametrize(
    ("chosen", "active"), [([4, 16], (1, 1)), ([16], (0, 1)), ([1, 12], (2, 0)), ([1, 4, 9, 12, 16], (4, 1))]
)
def test_a_client_takes_a_residual_module_out_of_what_it_received(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: list[int], active: tuple[int, int]
) -> None:
    run = resolved({"strategies": "eclm", "eclm.residual": True})
    workload = run.workload
    assert isinstance(workload, Classify)
    whole, held = workload.architectures["modular"], {"block.modules": np.array([1, 4, 9, 12, 16])}
    body, coverage = whole.whole(5), columns_coverage(whole.sizes, held)
    sizes = {axis: len(kept) for axis, kept in coverage.items()}
    sent = extract(body.state(), body.axes(), coverage)
    task = ClientTask("modular", sizes, held, epochs=1, options={"reselect": True}, state=sent)
    store = ClientStateStore.of(tmp_path, "1", "eclm", 1, 3, 4)
    store.save("selector", build_selector(whole, workload.modular, seed=0).state_dict())
    monkeypatch.setattr("strategies.eclm.choose", lambda *of: {"block.modules": np.array(chosen)})
    half = partial(ECLM.Client, run.options["eclm"], task)(LocalClient.of(workload, ClientContext(3, 1, 2, 0, store)))
    model = half.select(sent)
    expected = columns_coverage(whole.sizes, {"block.modules": np.array(chosen)})
    for name, value in extract(body.state(), body.axes(), expected).items():
        assert torch.equal(model.state[name], value), name
    counts = dict(zip(("active.block.modules", "active.block.bypass"), active, strict=True))
    assert half.report(model, ()) == counts
    assert all(torch.equal(model.updated()[name], value) for name, value in sent.items())


@pytest.fixture
def method(models_maker, budget: Budget) -> ECLM:
    return ECLM(models_maker(residual=True), budget, 3)


def test_the_residual_module_is_the_ninth(method: ECLM) -> None:
    profiles = Profiles(method, 30, 60.0, Clocks(HardwareMap(Table.of("phones"), 3, {})))
    report = {"link": 1.0, "compute": 1.0, "memory": 1.0, "importance.block.modules": [1 / 9] * 9}
    profile = profiles.read(0, report | {"held.block.modules": [2, 8]})
    assert profile.values["held"]["block.modules"].tolist() == [2, 8]
    with pytest.raises(ValueError, match="below 9"):
        profiles.read(0, report | {"held.block.modules": [2, 9]})
    with pytest.raises(ValueError, match="distribution over 9 modules"):
        profiles.read(0, report | {"importance.block.modules": [1 / 8] * 8})


@pytest.mark.parametrize(
    ("held", "claimed", "refused"),
    [
        ([2, 3, 8], (2, 1), None),
        ([2, 3, 8], (0, 1), None),
        ([2, 3, 8], (0, 0), "activates no module of block.modules"),
        ([2, 3], (1, 1), "activates 1 modules of block.bypass, received 0"),
    ],
)
def test_a_client_activates_what_it_received(
    method: ECLM, held: list[int], claimed: tuple[int, int], refused: str | None
) -> None:
    costs = method.models.costs["modular"]
    coverage = columns_coverage(costs.architecture.sizes, {"block.modules": np.array(held)})
    task = TrainTask(SubModel("modular", coverage, None), 1, costs.whole, options={"reselect": True})
    counts = dict(zip(("block.modules", "block.bypass"), claimed, strict=True))
    report = {f"active.{axis}": n for axis, n in counts.items()}
    if refused is None:
        assert method.cost(task, report) == costs.of(counts)
    else:
        with pytest.raises(ValueError, match=refused):
            method.cost(task, report)
