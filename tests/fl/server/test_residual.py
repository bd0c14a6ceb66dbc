"""Residual modules from the selector to the scores: a module more, numbered last, on an axis of its own."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import MetricRecord

from fl.config.settings import Settings
from fl.results.reader import read_devices, read_rounds
from fl.server.adapter import FlowerStrategy
from fl.server.fleet import Fleet
from fl.workloads import classify as workload
from fl.workloads.pretraining import Stage, _keep, address
from fl.workloads.state_store import Store
from fl.workloads.world import architectures
from models.nn.body import columns_coverage
from models.submodel import extract
from strategies.base import Plan, Task
from strategies.eclm import ECLM
from tests.fl.conftest import SMALL

NEVER = -1e9  # a logit whose softmax is 0


def settings(**changes: object) -> Settings:
    return Settings.parse({**SMALL, "strategies": "eclm", **changes})


def shun_residual_modules() -> None:
    """Leave in the cache the cloud model without residual modules, and with ones that the selector never chooses."""
    kept = Stage(settings(), 1).artefact("modular")
    for name in ("heads", "noise"):
        kept[f"selector.{name}.0.weight"] = torch.nn.functional.pad(kept[f"selector.{name}.0.weight"], (0, 0, 0, 1))
        kept[f"selector.{name}.0.bias"] = torch.nn.functional.pad(kept[f"selector.{name}.0.bias"], (0, 1), value=NEVER)
    residual = settings(residual=True)
    new = {f"body.{name}": value for name, value in architectures(residual)["modular"].whole().state().items()}
    _keep(address(residual, 1, "modular"), new | kept)


@pytest.mark.parametrize("candidates", [0.0, 2.0])
def test_residual_modules_that_are_never_chosen_change_nothing(
    play: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, candidates: float
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shun_residual_modules()
    rounds = {}
    for residual in (False, True):
        play(tmp_path / str(residual), strategies="eclm", candidates=candidates, residual=residual)
        rounds[residual] = read_rounds(tmp_path / str(residual))
    for column in ("accuracy_mean", "accuracy_p10", "loss", "divergence", "train_macs", "devices"):
        np.testing.assert_allclose(rounds[True][column], rounds[False][column], rtol=1e-5, err_msg=column)


def test_who_can_bear_everything_is_delivered_residual_modules_too(play: Callable, tmp_path: Path) -> None:
    roomy = {"residual": True, "limit-low": 3.0, "limit-high": 3.0, "background-load": 0.0}
    play(tmp_path, strategies="eclm,eclm-tailored", **roomy)
    delivered = read_devices(tmp_path)
    assert set(delivered.method) == {"eclm-derive", "eclm", "eclm-tailored-derive", "eclm-tailored"}
    assert (delivered.share == 1).all()


@pytest.mark.parametrize(
    ("chosen", "active"), [([4, 16], (1, 1)), ([16], (0, 1)), ([1, 12], (2, 0)), ([1, 4, 9, 12, 16], (4, 1))]
)
def test_a_device_takes_a_residual_module_out_of_what_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: list[int], active: tuple[int, int]
) -> None:
    whole = architectures(settings(residual=True))["modular"]
    body, held = whole.whole(5), {"block.modules": np.array([1, 4, 9, 12, 16])}
    coverage = columns_coverage(whole.sizes, held)
    sizes = {axis: len(kept) for axis, kept in coverage.items()}
    order = workload.Order(3, 1, 2, 0, "modular", sizes, held, epochs=1, reselect=True)
    monkeypatch.setattr(workload, "_select", lambda *_: {"block.modules": np.array(chosen)})
    store, sent = Store.of(tmp_path, "1", "eclm", 1, 3, 4), extract(body.state(), body.axes(), coverage)
    part = workload._load(settings(residual=True), order, store, sent)
    expected = columns_coverage(whole.sizes, {"block.modules": np.array(chosen)})
    for name, value in extract(body.state(), body.axes(), expected).items():
        assert torch.equal(part.state[name], value), name
    assert part.active == dict(zip(("block.modules", "block.bypass"), active, strict=True))
    assert all(torch.equal(part.updated()[name], value) for name, value in sent.items())


@pytest.fixture
def cloud_side(cloud_maker, plan: Plan) -> FlowerStrategy:
    return FlowerStrategy(ECLM(cloud_maker(residual=True), plan, 3), "eclm", settings(), Fleet([0]), run="1")


def test_the_residual_module_is_the_ninth(cloud_side: FlowerStrategy) -> None:
    told = {"link": 1.0, "compute": 1.0, "memory": 1.0, "importance.block.modules": [1 / 9] * 9}
    profile = cloud_side._profile(0, MetricRecord(told | {"held.block.modules": [2, 8]}))
    assert profile.held is not None and profile.held["block.modules"].tolist() == [2, 8]
    with pytest.raises(ValueError, match="below 9"):
        cloud_side._profile(0, MetricRecord(told | {"held.block.modules": [2, 9]}))
    with pytest.raises(ValueError, match="distribution over 9 modules"):
        cloud_side._profile(0, MetricRecord(told | {"importance.block.modules": [1 / 8] * 8}))


@pytest.mark.parametrize(
    ("held", "claimed", "refused"),
    [
        ([2, 3, 8], (2, 1), None),
        ([2, 3, 8], (0, 1), None),
        ([2, 3, 8], (0, 0), "activates no module of block.modules"),
        ([2, 3], (1, 1), "activates 1 modules of block.bypass, holds 0"),
    ],
)
def test_a_device_activates_what_it_holds(
    cloud_side: FlowerStrategy, held: list[int], claimed: tuple[int, int], refused: str | None
) -> None:
    costs = cloud_side.method.cloud.modular_costs
    coverage = columns_coverage(costs.architecture.sizes, {"block.modules": np.array(held)})
    task = Task("modular", coverage, None, 1, costs.whole, reselect=True)
    counts = dict(zip(("block.modules", "block.bypass"), claimed, strict=True))
    told = MetricRecord({f"active.{axis}": n for axis, n in counts.items()})
    if refused is None:
        assert cloud_side._cost(task, told) == costs.of(counts)
    else:
        with pytest.raises(ValueError, match=refused):
            cloud_side._cost(task, told)
