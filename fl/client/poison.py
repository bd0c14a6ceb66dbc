"""Clients that send poison, for experiments on robust aggregation: a share of the clients, chosen by the seed.

flip   the change that local training made, reversed and five times as long
noise  the model sent, with Gaussian noise five times as long as the change
"""

import torch

from fl.config.sections import Poison
from fl.workloads.workload import ClientContext
from models.submodel import State
from partitions import Purpose, rng

TIMES = 5.0


def is_poisoned(section: Poison, clients: int, seed: int, client: int) -> bool:
    """Return whether a client sends poison; ``clients``: how many exist."""
    count = round(section.share * clients)
    return client in rng(seed, Purpose.POISON).permutation(clients)[:count]


def spoiled(section: Poison, clients: int, context: ClientContext, sent: State, trained: State) -> State:
    """Return what a client uploads: what it trained, or poison."""
    if not is_poisoned(section, clients, context.seed, context.client):
        return trained
    generator = torch.Generator().manual_seed(
        int(rng(context.seed, Purpose.POISON, context.round, context.client).integers(2**62))
    )

    def poison(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        if not after.is_floating_point():
            return after
        change = after - before
        if section.attack == "flip":
            return before - TIMES * change
        return before + TIMES * change.square().mean().sqrt() * torch.randn(after.shape, generator=generator)

    return {name: poison(sent[name], value) for name, value in trained.items()}
