"""FedDrift: clients whose loss rises get a new model, and models that serve each other's clients are merged.

Jothimurugesan et al., "Federated Learning under Distributed Concept Drift", AISTATS 2023, arXiv:2206.00799, section 4.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from pydantic import Field
from scipy.cluster.hierarchy import fcluster, linkage

from models.aggregation.weighted_sum import WeightedSum
from models.submodel import FULL, State
from models.training.loop import MAX_LOSS
from partitions.components import Section
from strategies.core.client import ClientTrainer, Limits
from strategies.core.clusters import CLUSTER, Clustered, mean_losses
from strategies.core.strategy import Profile, TrainTask

MODELS = "clusters"  # the client's file of all models


class Losses(ClientTrainer):
    """Answers a query with the mean loss of every model on the training samples of this step and of the one before."""

    def profile(self) -> dict[str, Any]:
        client = self.client
        by: dict[int, State] = {}
        for name, value in client.store.load(MODELS).items():
            cluster, _, entry = name.partition("/")
            by.setdefault(int(cluster), {})[entry] = value
        models = [by[cluster] for cluster in sorted(by)]
        steps = {"now": client.step} | ({"before": client.step - 1} if client.step else {})
        answer: dict[str, Any] = {"macs": 0.0}
        for when, step in steps.items():
            x, y = client.samples("train", step)
            answer[when] = mean_losses(self, models, x, y)
            answer["macs"] += float(len(models) * len(y) * client.costs("dense").whole.macs)
        return answer


class FedDrift(Clustered):
    """At the first round of a client in a step the server

    1. merges clusters i and j if models serve each other's clients: max(L_ij - L_ii, L_ji - L_jj, 0) <= delta, where
       L_ij is the mean loss of model i on the clients of cluster j (complete linkage, section 4.2),
    2. gives the client a new model if the lowest loss rose by more than ``delta``, or else the best of those there are.

    A client trains on the samples of the current step only; the original also keeps those of former steps. Both losses
    that detect a drift are those of the present models, and L_ij is measured on the step before. With delta above any
    loss, 88 nats, it is FedAvg.
    """

    reports = {"feddrift": "delivered", "feddrift+ft": "adapted"}
    section = "feddrift"
    asks = "losses"
    shares_once = False
    Client = Losses

    class Options(Section):
        delta: float = Field(0.5, gt=0, description="rise of the loss that is a drift, and distance to merge, nats")
        eager: bool = Field(False, description="clients that drift at one step share a new model; none are merged")
        most_models: int = Field(16, ge=1, le=64, description="at this many models, clients that drift share the best")

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.step = 0
        self.cluster: dict[int, int] = {}  # by client
        self.since: dict[int, int] = {}  # by client, the step at which its cluster was chosen
        self.newest = -1, -1  # the step at which a model was made last, and its cluster

    def shared_state(self) -> Mapping[str, State]:
        return {MODELS: {f"{k}/{name}": v for k, model in self.clusters.items() for name, v in model.items()}}

    def read_profile(self, client: int, limits: Limits, report: Mapping[str, Any]) -> Profile:
        """Read the losses of all models.

        Raises:
            ValueError: they are no losses, or not as many as there are models.
        """
        losses = {when: np.array(report[when], float) for when in ("now", "before") if when == "now" or when in report}
        for when, values in losses.items():
            if values.shape != (len(self.clusters),) or not ((values >= 0) & (values <= MAX_LOSS * (1 + 1e-6))).all():
                raise ValueError(f"losses {when} = {values}, not {len(self.clusters)} values from 0 to {MAX_LOSS:.0f}")
        return Profile(client, limits, {"losses": losses | {"models": np.array(sorted(self.clusters))}})

    def trial_macs(self, task: TrainTask | None) -> float:
        return 2 * len(self.clusters) * self.models.costs["dense"].whole.macs if task is None else 0.0

    def configure_train(self, server_round: int, profiles: Sequence[Profile]) -> dict[int, TrainTask]:
        self.step = (server_round - 1) // self.budget.rounds_per_step
        fresh = [p for p in profiles if self.since.get(p.client) != self.step]
        self._merge(fresh)
        for profile in fresh:
            self.cluster[profile.client], self.since[profile.client] = self._choose(profile), self.step
        return self._tasks({p.client: self.cluster[p.client] for p in profiles}, self.budget.local_epochs)

    def configure_evaluate(self, profiles: Sequence[Profile]) -> dict[int, TrainTask]:
        current = {c for c, since in self.since.items() if since == self.step}
        chosen = {p.client: self.cluster[p.client] if p.client in current else self._best(p)[0] for p in profiles}
        return self._tasks(chosen, self.budget.adapt_epochs)

    def _tasks(self, cluster: Mapping[int, int], epochs: int) -> dict[int, TrainTask]:
        """Return a task for each client, with the model of its cluster."""
        tasks: dict[int, TrainTask] = {}
        for k in sorted(set(cluster.values())):
            members = [client for client, own in cluster.items() if own == k]
            tasks |= self.full_model(members, epochs, self.clusters[k], options=self.client_options(**{CLUSTER: k}))
        return tasks

    def _best(self, profile: Profile) -> tuple[int, float]:
        """Return the cluster whose model has the lowest loss, and that loss."""
        losses = profile.values["losses"]
        known = {int(k): loss for k, loss in zip(losses["models"], losses["now"], strict=True)}
        return min(((k, loss) for k, loss in known.items() if k in self.clusters), key=lambda pair: pair[1])

    def _choose(self, profile: Profile) -> int:
        """Return the cluster of a client at a new step, perhaps a new one."""
        (best, loss), before = self._best(profile), profile.values["losses"].get("before")
        if before is None or loss <= before.min() + self.options.delta:
            return best
        if self.options.eager and self.newest[0] == self.step:
            return self.newest[1]
        if len(self.clusters) >= self.options.most_models:
            return best
        new = max([*self.clusters, *self.merged]) + 1
        self.clusters[new], self.newest = self.initial_model(), (self.step, new)
        return new

    def _merge(self, profiles: Sequence[Profile]) -> None:
        """Merge clusters, given fresh answers of clients that were in them at the step before."""
        rows: dict[int, list[np.ndarray]] = {}
        models = sorted(self.clusters)
        for p in profiles if len(models) > 1 and not self.options.eager else ():
            losses = p.values["losses"]
            was_member = self.since.get(p.client) == self.step - 1
            if was_member and "before" in losses and losses["models"].tolist() == models:
                rows.setdefault(self.cluster[p.client], []).append(losses["before"])
        found = sorted(rows)
        if len(found) < 2:
            return
        loss = np.array([np.mean(rows[k], axis=0)[np.searchsorted(models, found)] for k in found]).T  # L_ij
        pairs = combinations(range(len(found)), 2)
        distances = [max(loss[i, j] - loss[i, i], loss[j, i] - loss[j, j], 0.0) for i, j in pairs]
        labels = fcluster(linkage(distances, "complete"), self.options.delta, "distance")
        for label in np.unique(labels):
            first, *others = (k for k, own in zip(found, labels, strict=True) if own == label)
            if not others:
                continue
            mean = WeightedSum(self.axes, self.clusters[first])
            for k in (first, *others):
                mean.add(self.clusters[k], FULL, len(rows[k]))
            into = dict.fromkeys(others, first)
            kept = {k: model for k, model in self.clusters.items() if k not in into}
            self.clusters = kept | {first: mean.finish(kept[first])}
            self.merged = {old: into.get(new, new) for old, new in self.merged.items()} | into
            self.cluster = {client: into.get(k, k) for client, k in self.cluster.items()}

    def state_dict(self) -> dict[str, Any]:
        own = {"step": self.step, "cluster": self.cluster, "since": self.since, "newest": self.newest}
        return super().state_dict() | own

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.step, self.cluster, self.since = state["step"], state["cluster"], state["since"]
        self.newest = state["newest"]


class FedDriftEager(FedDrift):
    """FedDrift whose drifting clients of one step share one new model, and whose models are not merged (4.1)."""

    reports = {"feddrift-eager": "delivered", "feddrift-eager+ft": "adapted"}
    preset = {"eager": True}
