"""The device's own data, as its sensor sees them."""

import numpy as np
import torch

from fl.config import Settings
from fl.workload import Order, _data
from fl.world import tensors, world
from partitions.sources.images import save


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
        seen, labels = _data(settings, order, split)
        clean, expected = tensors(here.data, split, getattr(here.draw(2, 3), split))
        added = (seen - clean)[:, 0, 5, 5].double().numpy() / 2
        assert torch.equal(labels, expected)
        near = np.abs(added[:, None] - severity).min(axis=1)
        assert near.max() < 1e-5 and len(np.unique(added.round(4))) == (4 if split == "train" else 1)
    assert np.abs(added - severity[3]).max() < 1e-5
