"""The two references without a network: NA, no adaptation, and LA, local adaptation (ECLM 7.1)."""

from collections.abc import Mapping, Sequence
from typing import Any

from strategies.core.strategy import Aggregator, Profile, Strategy, TrainTask, Update
from strategies.fedavg import Prior


class Answered(Aggregator):
    """The tasks of the clients that answered. Nothing is averaged."""

    def __init__(self) -> None:
        self.tasks: dict[int, TrainTask] = {}

    def add(self, task: TrainTask, update: Update) -> None:
        self.tasks[update.client] = task.without_state()

    def merge(self, other: "Answered") -> None:
        self.tasks |= other.tasks


class NoRounds(Strategy):
    """A method that trains no client."""

    def sample_clients(self, server_round: int) -> list[int]:
        return []

    def configure_train(self, server_round: int, profiles: Sequence[Profile]) -> dict[int, TrainTask]:
        return {}

    def aggregator(self) -> Aggregator:
        return Answered()

    def server_update(self, server_round: int, aggregate: Any) -> None:
        pass


class NoAdaptation(NoRounds):
    """NA: clients use the cloud model as it was trained. With fine-tuning: each step starts again from that model."""

    reports = {"na": "delivered", "na+ft": "adapted"}
    section = "na"

    class Options(Prior):
        pass

    def configure_evaluate(self, profiles: Sequence[Profile]) -> dict[int, TrainTask]:
        return self.full_model([p.client for p in profiles], self.budget.adapt_epochs)


class NoAdaptationPrior(NoAdaptation):
    """NA whose clients correct logits by their class shares: the gain of the correction alone."""

    reports = {"na-prior": "delivered", "na-prior+ft": "adapted"}
    preset = {"prior": True}


class KeptModels(Strategy):
    """A method whose clients keep a model of their own and continue from it.

    Attributes:
        kept: by client, how it continues: its last task without parameters.
    """

    offline = True

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.kept: dict[int, TrainTask] = {}

    def sample_clients(self, server_round: int) -> list[int]:
        return list(range(self.budget.clients)) if self.budget.starts_step(server_round) else []

    def aggregator(self) -> Aggregator:
        return Answered()

    def server_update(self, server_round: int, aggregate: Any) -> None:
        self.kept |= aggregate.tasks

    def on_state_lost(self, client: int) -> None:
        self.kept.pop(client, None)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"kept": self.kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.kept = state["kept"]

    @property
    def has_global_model(self) -> bool:
        return False


class LocalAdaptation(KeptModels):
    """LA: at every step each client trains its own model on its fresh data. It hears from the cloud only once."""

    reports = {"la": "delivered"}

    def configure_train(self, server_round: int, profiles: Sequence[Profile]) -> dict[int, TrainTask]:
        first = self.full_model([p.client for p in profiles], self.budget.adapt_epochs, keep=True, upload=False)
        return {client: self.kept.get(client) or task for client, task in first.items()}

    def configure_evaluate(self, profiles: Sequence[Profile]) -> dict[int, TrainTask]:
        whole = self.full_model([p.client for p in profiles], 0)
        return {client: task.without_state() if client in self.kept else task for client, task in whole.items()}
