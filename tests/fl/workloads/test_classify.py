"""The device's own data, as its sensor sees them, and what it serves after it has learned from them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fl.config.settings import Settings
from fl.results.reader import read_rounds
from fl.workloads.classify import blend, samples
from fl.workloads.workload import Order
from fl.workloads.world import tensors, world
from partitions.datasets.images.arrays import save
from strategies import STRATEGIES
from strategies.base import Profile, Task
from strategies.fedavg import FedAvg


def test_a_device_trains_and_is_tested_on_what_its_sensor_sees(tmp_path) -> None:
    """Brightness adds twice the severity of the step at which a sample entered."""
    x, y = np.random.default_rng(0).integers(0, 256, (600, 1, 28, 28), np.uint8), np.arange(600) % 10
    arrays = {"x_train": x[:400], "y_train": y[:400], "x_test": x[400:], "y_test": y[400:]}
    save(tmp_path, "fashion-mnist", arrays, [str(k) for k in range(10)])
    settings = Settings.parse(
        {"dataset": "fashion-mnist", "data-root": str(tmp_path), "partition": "iid", "drift": "feature"}
        | {"corruption": "brightness", "severity-step": 1.0, "samples-max": 60, "model": "resnet18"}
    )
    here, order = world(settings, 3), Order(device=2, seed=3, round=9, step=3)
    _, (severity,) = here.history([2], 4)
    for split in ("train", "test"):
        seen, labels = samples(settings, order, split)
        clean, expected = tensors(here.data, split, getattr(here.draw(2, 3), split))
        added = (seen - clean)[:, 0, 5, 5].double().numpy() / 2
        assert torch.equal(labels, expected)
        near = np.abs(added[:, None] - severity).min(axis=1)
        assert near.max() < 1e-5 and len(np.unique(added.round(4))) == (4 if split == "train" else 1)
    assert np.abs(added - severity[3]).max() < 1e-5


def test_a_blend_lies_between_what_was_delivered_and_what_was_learned() -> None:
    before = {"w": torch.tensor([0.0, 2.0]), "count": torch.tensor(3)}
    after = {"w": torch.tensor([1.0, 4.0]), "count": torch.tensor(5)}
    mixed = blend(before, after, 0.25)
    assert mixed["w"].tolist() == [0.25, 2.5] and mixed["count"] == 5


def test_a_device_that_blends_serves_the_blend(play: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With weight 0 local adaptation is thrown away: the adapted score is the delivered one."""

    class Forgets(FedAvg):
        def deliver(self, profiles: Sequence[Profile]) -> dict[int, Task]:
            return {device: replace(task, blend=0.0) for device, task in super().deliver(profiles).items()}

    monkeypatch.setitem(STRATEGIES, "fedavg", Forgets)
    play(tmp_path, strategies="fedavg")
    rounds = read_rounds(tmp_path).query("evaluated > 0").set_index(["round", "method"])
    for at in rounds.index.unique("round"):
        plain, tuned = rounds.loc[(at, "fedavg")], rounds.loc[(at, "fedavg+ft")]
        assert (plain.accuracy_mean, plain.loss) == (tuned.accuracy_mean, tuned.loss)
