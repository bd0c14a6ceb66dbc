"""AdaptiveNet: a client downloads a multi-branch supernet once and searches for its own path through it.

Wen et al., "AdaptiveNet: Post-deployment Neural Architecture Adaptation for Diverse Edge Environments", MobiCom 2023,
arXiv:2303.07129; AN in ECLM 7.1.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from models.costs import Cost
from models.elastic.supernet import TRIALS, best_path
from models.submodel import FULL, State
from partitions import Purpose, rng
from partitions.components import Section
from strategies.core.client import ClientTrainer, LocalModel
from strategies.core.strategy import Profile, SubModel, TrainTask
from strategies.core.subset import active_cost
from strategies.local import KeptModels


class PathSearch(ClientTrainer):
    """Before a client uses the supernet it searches for the path that suits its data under its limits.

    The statistics of batch norms stay those of the server's proxy data.
    """

    def select(self, state: State | None) -> LocalModel:
        if not self.task.options.get("search"):
            return super().select(state)
        client, supernet = self.client, state if state is not None else self.client.store.load("model")
        limits, (x, y) = client.limits(), client.samples("train")
        path, macs = best_path(
            supernet, client.costs("supernet"), self.options.shrink, limits.macs, limits.memory, x, y, client.classes,
            rng(client.seed, Purpose.SEARCH, client.step, client.number), client.place,
        )  # fmt: skip
        self.model = client.load(self.task, supernet, path)
        self.model.trial_macs = macs
        return self.model


class AdaptiveNet(KeptModels):
    """At every step a client takes the path that suits its fresh data best under its limits of MACs and memory.

    Everything happens on the client. The forward passes of the search take its time; it hears from the cloud only once.
    With fine-tuning: the path found is trained locally; each step starts again from the supernet.
    """

    reports = {"an": "delivered", "an+ft": "adapted"}
    architecture = "supernet"
    starts_from = "supernet"
    section = "an"
    Client = PathSearch

    class Options(Section):
        shrink: int = Field(
            8, ge=1, description="widths of a block among which a path chooses, 1/shrink to shrink/shrink"
        )

    def _supernet(self, epochs: int, keep: bool = False, **options: Any) -> TrainTask:
        """Return the whole supernet. A client keeps it and never trains it: it costs no MACs and no training memory."""
        params = sum(value.numel() for value in self.model.values())
        options = self.client_options(**options)
        model, cost = SubModel("supernet", FULL, self.model), Cost(params, 4 * params, 0.0, 0.0)
        return TrainTask(model, epochs, cost, upload=False, keep=keep, options=options)

    def sample_clients(self, server_round: int) -> list[int]:
        return [client for client in super().sample_clients(server_round) if client not in self.kept]

    def configure_train(self, server_round: int, profiles: Sequence[Profile]) -> dict[int, TrainTask]:
        task = self._supernet(0, keep=True)
        return {p.client: task for p in profiles}

    def configure_evaluate(self, profiles: Sequence[Profile]) -> dict[int, TrainTask]:
        whole = self._supernet(self.budget.adapt_epochs, search=True)
        kept = whole.without_state()
        return {p.client: kept if p.client in self.kept else whole for p in profiles}

    def cost(self, task: TrainTask, report: Mapping[str, Any]) -> Cost:
        return active_cost(self.models.costs["supernet"], task, report) if task.options.get("search") else task.cost

    def trial_macs(self, task: TrainTask | None) -> float:
        return TRIALS * self.models.costs["dense"].whole.macs if task and task.options.get("search") else 0.0
