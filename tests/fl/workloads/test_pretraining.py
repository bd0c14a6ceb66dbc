"""The cloud's artefacts: made only when asked for, kept apart, each under what decides it."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fl.config.settings import Settings
from fl.workloads.pretraining import KEYS, address, prepare
from tests.fl.conftest import SMALL


def settings(**changes: object) -> Settings:
    return Settings.parse({**SMALL, **changes})


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "driftfed" / "offline"


def made(cache: Path) -> list[str]:
    return sorted(path.name.partition("-")[0] for path in cache.glob("*"))


def test_nothing_is_trained_until_a_method_asks_for_it(cache: Path) -> None:
    cloud = prepare(settings(), 3)
    assert made(cache) == []
    cloud.dense_state  # noqa: B018
    assert made(cache) == ["dense", "early"]
    cloud.modular_model  # noqa: B018
    assert made(cache) == ["dense", "early", "modular"]


def test_an_artefact_does_not_depend_on_which_others_were_made_before(cache: Path, tmp_path, monkeypatch) -> None:
    first = prepare(settings(), 3)
    dense, body = first.dense_state, first.modular_model.body.state()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    second = prepare(settings(), 3)
    assert all(torch.equal(body[name], value) for name, value in second.modular_model.body.state().items())
    assert all(torch.equal(dense[name], value) for name, value in second.dense_state.items())


def test_progress_names_the_stage(cache: Path) -> None:
    told: list[tuple[str, int, int]] = []
    prepare(settings(), 3, lambda *what: told.append(what)).dense_state  # noqa: B018
    assert told == [("dense model", e, 2) for e in (0, 1)] + [("dense model, continued", e, 2) for e in (0, 1)]


@pytest.mark.parametrize(
    ("changes", "touched"),
    [
        ({"rounds": 9, "drift": "subject", "lr": 0.2, "cohort": 2}, set()),
        ({"kappa1": 2.0, "top-k": 3}, {"modular", "tailored"}),
        ({"residual": True}, {"modular", "tailored"}),
        ({"subtasks": "domain"}, {"modular", "tailored"}),
        ({"partition": "iid", "devices": 7}, set()),
        ({"ability-epochs": 7}, set(KEYS) - {"early", "split"}),
        ({"offline-lr": 0.1}, set(KEYS) - {"split"}),
        ({"dense-epochs": 3}, set(KEYS)),
    ],
)
def test_a_setting_moves_only_what_it_decides(changes: dict, touched: set[str]) -> None:
    moved = {name for name in KEYS if address(settings(), 1, name) != address(settings(**changes), 1, name)}
    assert moved == touched


def test_sub_tasks_of_classes_that_occur_together_depend_on_who_holds_which(cache: Path) -> None:
    """Five classes, two on a device: of two or three of them is a sub-task, and each has its row of targets."""
    grouped = settings(
        **{"subtasks": "groups", "partition": "m-classes", "classes-per-device": 2, "drift": "class-swap", "devices": 8}
    )
    prepare(grouped, 1).modular_model  # noqa: B018
    assert load_file(address(grouped, 1, "modular"))["mapping.wanted.0"].shape[0] == 2
    assert address(grouped, 1, "modular") != address(settings(**{**grouped.flat(), "devices": 9}), 1, "modular")
    assert address(grouped, 1, "dense") == address(settings(**{**grouped.flat(), "devices": 9}), 1, "dense")
