"""Poisoned clients, and what they do to plain and to robust aggregation."""

from pathlib import Path

import pytest
import torch

from fl.client.poison import is_poisoned, spoiled
from fl.config.sections import Poison
from fl.results.reader import read_rounds
from fl.workloads.state_store import ClientStateStore
from fl.workloads.workload import ClientContext

CONTEXT = ClientContext(0, 1, 1, 0, ClientStateStore(Path()))


def test_a_share_of_the_clients_is_poisoned_for_good() -> None:
    section = Poison(share=0.3)
    chosen = [client for client in range(20) if is_poisoned(section, 20, 1, client)]
    assert len(chosen) == 6 and chosen != [client for client in range(20) if is_poisoned(section, 20, 2, client)]


@pytest.mark.parametrize("attack", ["flip", "noise"])
def test_what_poison_is(attack: str) -> None:
    """A change of 1 everywhere: reversed and five times as long, or noise of standard deviation 5."""
    section = Poison(share=1.0, attack=attack)
    sent, trained = (
        {"w": torch.ones(10_000), "n": torch.tensor(3)},
        {"w": torch.full((10_000,), 2.0), "n": torch.tensor(4)},
    )
    got = spoiled(section, 6, CONTEXT, sent, trained)
    assert got["n"] == 4
    if attack == "flip":
        assert (got["w"] == -4).all()
    else:
        assert abs(got["w"].mean() - 1) < 0.2 and abs(got["w"].std() - 5) < 0.2
    assert spoiled(Poison(share=0.0), 6, CONTEXT, sent, trained) is trained


def test_robust_aggregation_saves_what_poison_costs(play, tmp_path: Path) -> None:
    how = {"strategies": "fedavg", "devices.count": 10, "cohort": 10, "client.local-epochs": 5, "client.lr": 0.05}
    how |= {"rounds": 6, "rounds-per-step": 6, "eval.every": 6, "pretrain.dense-epochs": 10}
    poisoned = {"poison.share": 0.3}
    scores = {}
    for name, own in {
        "clean": {},
        "poisoned": poisoned,
        "median": {**poisoned, "server.robust": "median"},
        "norm-bound": {**poisoned, "server.robust": "norm-bound"},
        "trimmed-mean": {**poisoned, "server.robust": "trimmed-mean", "server.trim": 0.3},
    }.items():
        play(tmp_path / name, {**how, **own})
        scores[name] = read_rounds(tmp_path / name).query("method == 'fedavg'").accuracy_mean.iloc[-1]
    assert scores.pop("poisoned") < 0.5 and min(scores.values()) > scores["clean"] - 0.1 > 0.7
