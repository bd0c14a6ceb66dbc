"""A model for each cluster of clients, which the clustered methods share."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from models.submodel import State
from strategies.core.client import ClientTrainer
from strategies.core.strategy import Aggregator, TrainTask, Update
from strategies.fedavg import FedAvg

CLUSTER = "cluster"  # option of a task: the cluster that the server chose for the client


def mean_losses(trainer: ClientTrainer, models: Sequence[State], x: Tensor, y: Tensor) -> list[float]:
    """Return the mean loss of each model on samples (n, ...) of classes (n,)."""
    client = trainer.client
    scores = [client.score(trainer, client.load(trainer.task, model), x, y) for model in models]
    return [score.loss_sum / max(1, len(y)) for score in scores]


def cluster_of(task: TrainTask, update: Update) -> int:
    """Return the cluster whose model a client trained: the server chose it, or the client did (`TrainTask.start`)."""
    return int(task.options.get(CLUSTER, update.report.get("start", 0)))


class Clusters(Aggregator):
    """An aggregator for each cluster.

    Args:
        parts: by cluster.
        merged: clusters that are no more -> the cluster that they are part of now.
    """

    def __init__(self, parts: Mapping[int, Aggregator], merged: Mapping[int, int]):
        self.parts, self.merged = parts, merged
        self.in_workers = all(part.in_workers for part in parts.values())

    def _part(self, task: TrainTask, update: Update) -> Aggregator:
        cluster = cluster_of(task, update)
        return self.parts[self.merged.get(cluster, cluster)]

    def check(self, task: TrainTask, update: Update) -> None:
        self._part(task, update).check(task, update)

    def add(self, task: TrainTask, update: Update) -> None:
        self._part(task, update).add(task, update)

    def merge(self, other: "Clusters") -> None:
        for cluster, part in self.parts.items():
            part.merge(other.parts[cluster])


class Clustered(FedAvg):
    """FedAvg within each cluster.

    Attributes:
        clusters: the models by cluster; ``model`` is that of cluster 0.
        merged: as in `Clusters`.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.clusters: dict[int, State] = {0: self.model}
        self.merged: dict[int, int] = {}

    def aggregator(self) -> Clusters:
        return Clusters({cluster: super(Clustered, self).aggregator() for cluster in self.clusters}, self.merged)

    def server_update(self, server_round: int, aggregate: Clusters) -> None:
        for cluster, part in aggregate.parts.items():
            self.model = self.clusters[cluster]
            super().server_update(server_round, part)
            self.clusters[cluster] = self.model
        self.model = self.clusters[0]

    def present(self, task: TrainTask, update: Update) -> State:
        cluster = cluster_of(task, update)
        return self.clusters[self.merged.get(cluster, cluster)]

    @property
    def has_global_model(self) -> bool:
        return len(self.clusters) == 1

    def final_models(self) -> dict[str, State]:
        one = self.has_global_model
        return {"" if one else f"cluster{number}": model for number, model in self.clusters.items()}

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"clusters": self.clusters, "merged": self.merged}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.clusters, self.merged = state["clusters"], state["merged"]
