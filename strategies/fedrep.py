"""FedRep: clients share a representation, and each has a head of its own.

Collins et al., "Exploiting Shared Representations for Personalized Federated Learning", ICML 2021, arXiv:2102.07078,
Algorithm 1.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import Field
from torch import nn

from models.nn.body import Body
from strategies.core.strategy import Budget
from strategies.fedavg import FedAvg, Prior
from strategies.fedbn import LocalEntries


class FedRep(FedAvg):
    """In each round a client first trains its head, then the representation, which is averaged.

    The head is every entry with an axis of classes.
    """

    reports = {"fedrep": "delivered", "fedrep+ft": "adapted"}
    section = "fedrep"

    class Options(Prior):
        head_epochs: int = Field(2, ge=0, description="first epochs of a round, in which only the head is trained")

    class Client(LocalEntries):
        def local_entries(self, network: Body) -> set[str]:
            return {name for name, axes in network.axes().items() if "classes" in axes}

        def correct_gradients(self, parameters: Mapping[str, nn.Parameter], epoch: int) -> None:
            head, trains_head = self.local_entries(self.model.network), epoch < self.options.head_epochs
            for name, parameter in parameters.items() if self.training else ():
                if (name in head) != trains_head:
                    parameter.grad = None

    @classmethod
    def check(cls, options: Any, budget: Budget) -> None:
        if options.head_epochs >= budget.local_epochs:
            raise ValueError(
                f"fedrep.head-epochs = {options.head_epochs} leaves none of client.local-epochs = "
                f"{budget.local_epochs} for the representation: choose fewer"
            )
