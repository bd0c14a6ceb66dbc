"""Poisoned devices, and what they do to plain and to robust merging."""

from pathlib import Path

import pytest
import torch

from fl.client.poison import lies, spoiled
from fl.config.settings import Settings
from fl.results.reader import read_rounds
from fl.workloads.workload import Order
from tests.fl.conftest import SMALL


def test_a_share_of_the_devices_lies_for_good() -> None:
    settings = Settings.parse({**SMALL, "devices": 20, "poisoned": 0.3})
    chosen = [device for device in range(20) if lies(settings, 1, device)]
    assert len(chosen) == 6 and chosen != [device for device in range(20) if lies(settings, 2, device)]


@pytest.mark.parametrize("attack", ["flip", "noise"])
def test_what_poison_is(attack: str) -> None:
    """A change of 1 everywhere: reversed and five times as long, or noise of standard deviation 5."""
    settings = Settings.parse({**SMALL, "poisoned": 1.0, "poison": attack})
    sent, trained = (
        {"w": torch.ones(10_000), "n": torch.tensor(3)},
        {"w": torch.full((10_000,), 2.0), "n": torch.tensor(4)},
    )
    got = spoiled(settings, Order(0, 1, 1, 0), sent, trained)
    assert got["n"] == 4
    if attack == "flip":
        assert (got["w"] == -4).all()
    else:
        assert abs(got["w"].mean() - 1) < 0.2 and abs(got["w"].std() - 5) < 0.2
    honest = Settings.parse({**SMALL, "poisoned": 0.0})
    assert spoiled(honest, Order(0, 1, 1, 0), sent, trained) is trained


def test_robust_merging_saves_what_poison_costs(play, tmp_path: Path) -> None:
    how = {"strategies": "fedavg", "devices": 10, "cohort": 10, "local-epochs": 5, "dense-epochs": 10}
    how |= {"rounds": 6, "rounds-per-step": 6, "eval-every": 6, "lr": 0.05}
    scores = {}
    for name, own in {
        "clean": {},
        "poisoned": {"poisoned": 0.3},
        "median": {"poisoned": 0.3, "robust": "median"},
        "norm-bound": {"poisoned": 0.3, "robust": "norm-bound"},
        "trimmed-mean": {"poisoned": 0.3, "robust": "trimmed-mean", "trim": 0.3},
    }.items():
        play(tmp_path / name, **how, **own)
        scores[name] = read_rounds(tmp_path / name).query("method == 'fedavg'").accuracy_mean.iloc[-1]
    assert scores.pop("poisoned") < 0.5 and min(scores.values()) > scores["clean"] - 0.1 > 0.7
