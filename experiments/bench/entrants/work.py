"""The work that all entrants do, read from the folder that `experiments.bench.exam` wrote.

It needs only numpy and torch, because it is copied to programs without this project.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn


class Stop(Exception):
    """No more rounds are asked for."""


class Work:
    """The devices' data, the cohorts, the order of the samples in training, and the initial weights.

    Attributes:
        x: (devices, n, ...) inputs, mapped from disk; y: (devices, n) classes.
        cohorts: (rounds, cohort) numbers of devices; orders: (rounds, cohort, epochs, n) order of the samples.
        lr, batch_size, epochs: of plain SGD.
        start: the initial weights, in the order of ``network().parameters()``.
    """

    def __init__(self, folder: str | Path):
        folder = Path(folder)
        self.x, self.y = np.load(folder / "x.npy", mmap_mode="r"), np.load(folder / "y.npy")
        self.cohorts, self.orders = np.load(folder / "cohorts.npy"), np.load(folder / "orders.npy")
        about = json.loads((folder / "about.json").read_text())
        self.kind, self.classes = about["kind"], about["classes"]
        self.lr, self.batch_size, self.epochs = about["lr"], about["batch_size"], about["epochs"]
        with np.load(folder / "start.npz") as start:
            self.start = [torch.from_numpy(start[f"{i:03d}"]) for i in range(len(start))]

    def network(self) -> nn.Module:
        """Build the network from torch's layers, with the initial weights."""
        shapes = [value.shape for value in self.start]
        layers: list[nn.Module] = [nn.Flatten()] if self.kind == "mlp" else []
        for at, shape in enumerate(shapes[::2]):
            linear = len(shape) == 2
            if linear and at and len(shapes[2 * at - 2]) == 4:
                layers += [nn.MaxPool2d(2), nn.Flatten()]
            layers.append(nn.Linear(shape[1], shape[0]) if linear else nn.Conv2d(shape[1], shape[0], 3))
            layers.append(nn.ReLU())
        network = nn.Sequential(*layers[:-1])
        with torch.no_grad():
            for parameter, value in zip(network.parameters(), self.start, strict=True):
                parameter.copy_(value)
        return network

    def samples(self, device: int) -> tuple[Tensor, Tensor]:
        """Return all samples of one device."""
        return torch.from_numpy(np.array(self.x[device])), torch.from_numpy(self.y[device])

    def batches(self, round_: int, slot: int) -> list[list[Tensor]]:
        """Return the rows of each batch of each epoch of the ``slot``-th device of a round."""
        return [
            list(torch.from_numpy(order.astype(np.int64)).split(self.batch_size)) for order in self.orders[round_, slot]
        ]


class Turns:
    """The entrant's side of the protocol: wait for the request of a round, and report the time of the last one.

    From now on, stdout of the entrant goes to stderr.
    """

    def __init__(self) -> None:
        self.channel = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self.began: float | None = None

    def next(self) -> None:
        """Return when the next round is asked for.

        Raises:
            Stop: no more rounds are asked for.
        """
        took = None if self.began is None else time.perf_counter() - self.began
        self.channel.write(json.dumps(took) + "\n")
        self.channel.flush()
        if sys.stdin.readline().strip() != "round":
            raise Stop
        self.began = time.perf_counter()

    def finish(self, weights: Sequence[Tensor], to: str) -> None:
        """Write the final weights, in the order of ``Work.start``."""
        np.savez(to, **{f"{i:03d}": value.detach().numpy() for i, value in enumerate(weights)})  # type: ignore[arg-type]
