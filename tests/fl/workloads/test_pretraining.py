"""Pretrained cloud models: trained only when a method asks for them, each kept under everything that decides it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fl.config import SettingsError
from fl.workloads.classify import Classify
from fl.workloads.pretraining import Pretraining, address
from strategies.core.pretrained import PretrainedModels
from tests.fl.conftest import resolved

NAMES = {name.removeprefix("train_") for name in vars(Pretraining) if name.startswith("train_")}
METHODS = {"strategies": "na,an,eclm"}


def workload(changes: dict[str, Any] | None = None) -> Classify:
    found = resolved({**METHODS, **(changes or {})}).workload
    assert isinstance(found, Classify)
    return found


def prepare(seed: int = 3, changes: dict[str, Any] | None = None) -> PretrainedModels:
    return workload(changes).prepare(seed)


def file_of(name: str, changes: dict[str, Any] | None = None, seed: int = 1) -> Path:
    return address(name, workload(changes).pretraining(seed).decides(name), seed)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "driftfed" / "offline"


def trained(cache: Path) -> list[str]:
    return sorted(path.name.partition("-")[0] for path in cache.glob("*"))


def test_the_models() -> None:
    assert sorted(NAMES) == ["dense", "early", "modular", "nested", "rolling", "supernet", "tailored"]
    assert prepare().train.keys() == NAMES - {"early"}


def test_nothing_is_trained_until_a_method_asks_for_it(cache: Path) -> None:
    models = prepare()
    assert trained(cache) == []
    dense = models.state("dense")
    assert trained(cache) == ["dense", "early"]
    models.modular()
    assert trained(cache) == ["dense", "early", "modular"]
    assert models.state("dense") is dense


def test_a_model_does_not_depend_on_which_others_were_trained_before(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare()
    dense, body = first.state("dense"), first.modular().body.state()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    second = prepare()
    assert all(torch.equal(body[name], value) for name, value in second.modular().body.state().items())
    assert all(torch.equal(dense[name], value) for name, value in second.state("dense").items())


def test_progress_names_the_model(cache: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    workload().prepare(3, lambda *what: calls.append(what)).state("dense")
    assert calls == [("dense model", e, 2) for e in (0, 1)] + [("dense model, continued", e, 2) for e in (0, 1)]


def test_a_damaged_file_is_trained_again(cache: Path) -> None:
    dense = prepare().state("dense")
    (path,) = cache.glob("dense-*")
    path.write_bytes(b"torn")
    again = prepare().state("dense")
    assert all(torch.equal(dense[name], value) for name, value in again.items())
    assert all(torch.equal(dense[name], value) for name, value in load_file(path).items())


@pytest.mark.parametrize(
    ("changes", "touched"),
    [
        ({"rounds": 9, "drift.kind": "resample", "drift.fraction": 0.1, "client.lr": 0.2, "cohort": 2}, set()),
        (
            {"client.optimizer": "adam", "client.batch-size": 4, "data.samples-max": 40, "server.robust": "median"},
            set(),
        ),
        ({"data.partition": "iid", "drift.kind": "resample", "devices.count": 7}, set()),
        ({"eclm.candidates": 2.0, "eclm.blend": 0.5, "eclm.importance-noise": 1.0}, set()),
        ({"eclm.kappa1": 2.0, "eclm.top-k": 3}, {"modular", "tailored"}),
        ({"eclm.residual": True}, {"modular", "tailored"}),
        ({"eclm.subtasks": "domain"}, {"modular", "tailored"}),
        ({"eclm.shrink": 4}, {"modular", "tailored"}),
        ({"an.shrink": 4}, {"supernet"}),
        ({"pretrain.ability-epochs": 7}, NAMES - {"early"}),
        ({"pretrain.lr": 0.1}, NAMES),
        ({"pretrain.optimizer": "adam"}, NAMES),
        ({"pretrain.dense-epochs": 3}, NAMES),
        ({"model.width": 24}, NAMES),
        ({"data.proxy-fraction": 0.2}, NAMES),
        ({"precision": "bfloat16"}, NAMES),
    ],
)
def test_a_setting_changes_only_the_files_of_the_models_that_it_decides(
    changes: dict[str, Any], touched: set[str]
) -> None:
    assert {name for name in NAMES if file_of(name) != file_of(name, changes)} == touched
    assert all(file_of(name, seed=2) != file_of(name) for name in NAMES)


def test_sub_tasks_that_the_data_do_not_have_are_refused(cache: Path) -> None:
    found = workload({"eclm.subtasks": "domain", "data.partition": "iid", "drift.kind": "resample"})
    vars(found.worlds)["dataset"] = replace(found.worlds.dataset, domain_train=None, domain_test=None, domains=())
    with pytest.raises(SettingsError, match="needs samples with domains, har-embedded has none"):
        found.pretraining(1)


@pytest.mark.parametrize(("partition", "subtasks"), [({"m-classes.m": 1}, 1), ({"m-classes.m": 2}, 2)])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_an_average_client_can_hold_the_modules_of_its_sub_tasks(
    partition: dict[str, Any], subtasks: int, share: float
) -> None:
    """Modules of a layer that fit the share of the dense model, over one or two (nearly equal) sub-tasks."""
    skewed = {"data.partition": "m-classes", "drift.kind": "class-swap", "devices.background-load": 0, **partition}
    found = workload({**skewed, "devices.limit-low": share - 0.1, "devices.limit-high": share + 0.1, "eclm.kappa2": 0})
    limit = share * np.array(found.costs["dense"].whole.vector[1:])
    costs = found.costs["modular"]
    (layer,) = costs.layers
    counts = range(1, costs.architecture.sizes[layer] + 1)
    fits = [n for n in counts if (np.array(costs.of({layer: n}).vector[1:]) <= limit).all()]
    assert found.held == max(fits)
    assert found.pretraining(1).kappa2 in {max(1, max(fits) // subtasks), max(1, int(max(fits) / (0.9 * subtasks)))}
    assert workload({**skewed, "eclm.kappa2": 3}).pretraining(1).kappa2 == 3


def test_frozen_statistics_need_a_batch_norm(cache: Path) -> None:
    with pytest.raises(SettingsError, match="client.frozen-statistics = true needs a model with batch norm"):
        prepare(1, {"client.frozen-statistics": True})
    with pytest.raises(SettingsError, match="strategy 'fjord' needs batch norm that trains on each batch"):
        resolved({"strategies": "fjord", "client.frozen-statistics": True})


def test_sub_tasks_of_classes_that_occur_together_depend_on_the_clients_classes(cache: Path) -> None:
    """Five classes, two on a client: a sub-task has two or three of them, and each sub-task has its row of targets."""
    grouped = {
        "eclm.subtasks": "groups", "data.partition": "m-classes", "m-classes.m": 2, "drift.kind": "class-swap",
        "devices.count": 8,
    }  # fmt: skip
    more, other = {**grouped, "devices.count": 9}, {**grouped, "m-classes.m": 3}
    prepare(1, grouped).modular()
    assert load_file(file_of("modular", grouped))["mapping.wanted.0"].shape[0] == 2
    assert len({file_of("modular", changes) for changes in (grouped, more, other)}) == 3
    assert len({file_of("dense", changes) for changes in (grouped, more, other)}) == 1
