"""The data of one client, as a workload supplies them to the client half of a method."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from fl.workloads.state_store import ClientStateStore
from fl.workloads.workload import ClientContext
from fl.workloads.world import Worlds, tensors
from models.training.class_shares import posterior_shares
from partitions import LocalData, World, corrupt


@dataclass(frozen=True)
class ClientData:
    """The data of one client, for one message (`strategies.core.client.Client`).

    Args:
        context: which client, and when; worlds: the data of all clients.
    """

    context: ClientContext
    worlds: Worlds

    @property
    def number(self) -> int:
        return self.context.client

    @property
    def seed(self) -> int:
        return self.context.seed

    @property
    def round(self) -> int:
        return self.context.round

    @property
    def step(self) -> int:
        return self.context.step

    @property
    def store(self) -> ClientStateStore:
        return self.context.store

    @property
    def world(self) -> World | LocalData:
        """The data of all clients with this seed."""
        return self.worlds(self.seed)

    def at_round(self, server_round: int) -> Self:
        """Return the same client in another round, so that it draws other random numbers."""
        return replace(self, context=replace(self.context, round=server_round))

    def samples(self, split: str, step: int | None = None) -> tuple[Tensor, Tensor]:
        """Return inputs (n, ...) and classes (n,) of the client's labelled samples, now or at another step."""
        x, y = self._drawn(split, step)
        return (x, y) if (y >= 0).all() else (x[y >= 0], y[y >= 0])

    def unlabelled(self) -> Tensor:
        """Return the inputs (n, ...) of the client's training samples without a label; none unless data.labelled."""
        x, y = self._drawn("train")
        return x[y < 0]

    def _drawn(self, split: str, step: int | None = None) -> tuple[Tensor, Tensor]:
        world = self.world
        draw = world.draw(self.number, self.step if step is None else step)
        x, _ = tensors(world.data, split, getattr(draw, split))
        return corrupt(x, getattr(draw, f"{split}_corruptions")), torch.from_numpy(getattr(draw, f"{split}_labels"))

    def class_shares(self, reference: Sequence[float], step: int | None = None, smooth: bool = False) -> Tensor:
        """Return (classes,) shares of the classes in the training data of a step, by default the current one.

        They are relative to ``reference`` if that is given, and drawn to it with ``smooth`` (`posterior_shares`).
        """
        world = self.world
        labels = world.draw(self.number, self.step if step is None else step).train_labels
        labels = labels[labels >= 0]
        counts, cloud = np.bincount(labels, minlength=world.data.num_classes), np.maximum(reference, 1e-6)
        own = posterior_shares(counts, cloud) if smooth and len(cloud) else counts / len(labels)
        return torch.from_numpy(own / cloud if len(cloud) else own).float()
