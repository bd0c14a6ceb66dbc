"""Ditto: beside the global model, every client trains a personal one that is held near it.

Li et al., "Ditto: Fair and Robust Federated Learning Through Personalization", ICML 2021, arXiv:2012.04221,
Algorithm 1.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from models.submodel import State
from strategies.core.averaging import Mean
from strategies.core.client import ClientTrainer, LocalModel
from strategies.core.strategy import Profile, TrainTask
from strategies.fedavg import FedAvg, Prior
from strategies.fedprox import Proximal


class Personal(Proximal):
    """Trains the personal model."""

    @property
    def weight(self) -> float:
        return self.options.lambda_


class Ditto(FedAvg):
    """The global model is FedAvg's; a client uses its personal one. With lambda = 0 that is local adaptation."""

    reports = {"ditto": "delivered"}
    section = "ditto"

    class Options(Prior):
        lambda_: float = Field(
            0.1, ge=0, alias="lambda", description="weight that holds the personal model near the global one"
        )

    class Client(ClientTrainer):
        @classmethod
        def hooks(cls) -> set[str]:
            return super().hooks() | Personal.hooks()

        @property
        def batchable(self) -> bool:
            return True  # the global model; the personal one is trained by `Personal`

        def keep(self, model: LocalModel, state: State) -> None:
            """Train the personal model for as many epochs as the global one, and keep it."""
            half, store = Personal(self.options, self.task, self.client, training=True), self.client.store
            personal = half.select(store.load("model") if store.holds("model") else self.task.state)
            self.client.fit(half, personal)
            store.save("model", personal.state)

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.personal: set[int] = set()  # clients that have a personal model

    def configure_train(self, server_round: int, profiles: Sequence[Profile]) -> dict[int, TrainTask]:
        return self.full_model([p.client for p in profiles], self.budget.local_epochs, keep=True)

    def server_update(self, server_round: int, aggregate: Mean) -> None:
        super().server_update(server_round, aggregate)
        self.personal |= aggregate.clients

    def configure_evaluate(self, profiles: Sequence[Profile]) -> dict[int, TrainTask]:
        tasks = self.full_model([p.client for p in profiles], 0)
        return {client: task.without_state() if client in self.personal else task for client, task in tasks.items()}

    def on_state_lost(self, client: int) -> None:
        self.personal.discard(client)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"personal": self.personal}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.personal = state["personal"]
