"""Devices that lie, for experiments on robust merging: a share of the devices, for good, chosen by the seed.

flip   the change that local training made, reversed and five times as long
noise  the model sent, with Gaussian noise five times as long as the change
"""

from typing import TYPE_CHECKING, Literal, get_args

import torch

from models.submodel import State
from partitions import Purpose, rng

if TYPE_CHECKING:
    from fl.config.settings import Settings
    from fl.workloads.workload import Order

Attack = Literal["flip", "noise"]
ATTACKS: tuple[Attack, ...] = get_args(Attack)
TIMES = 5.0


def lies(settings: "Settings", seed: int, device: int) -> bool:
    """Whether a device is one of the poisoned."""
    count = round(settings.poisoned * settings.devices)
    return device in rng(seed, Purpose.POISON).permutation(settings.devices)[:count]


def spoiled(settings: "Settings", order: "Order", sent: State, trained: State) -> State:
    """What a device uploads: what it trained if it is honest, poison if it is not."""
    if not lies(settings, order.seed, order.device):
        return trained
    generator = torch.Generator().manual_seed(
        int(rng(order.seed, Purpose.POISON, order.round, order.device).integers(2**62))
    )

    def poison(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        if not after.is_floating_point():
            return after
        change = after - before
        if settings.poison == "flip":
            return before - TIMES * change
        return before + TIMES * change.square().mean().sqrt() * torch.randn(after.shape, generator=generator)

    return {name: poison(sent[name], value) for name, value in trained.items()}
