"""HeteroFL: nested width-scaled sub-models, averaged entry by entry over the clients that trained the entry.

Diao, Ding, Tarokh, "HeteroFL: Computation and Communication Efficient Federated Learning for Heterogeneous Clients",
ICLR 2021, arXiv:2010.01264.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

import torch

from models.costs import Cost, cost
from models.elastic.nested import RATES, width
from models.submodel import FULL, Coverage, covered_sizes, extract
from strategies.core.averaging import Averaging, Mean, RobustMean
from strategies.core.client import ClientTrainer, LocalModel
from strategies.core.server_step import ServerStep
from strategies.core.strategy import Limits, Profile, SubModel, TrainTask, Update


class CoveredClasses(Mean):
    """A mean in which a client covers only the rows of the classifier whose classes it has."""

    def coverage(self, task: TrainTask, update: Update) -> Coverage:
        if task.options["masked"] != "zero" or "classes" not in update.report:
            return task.model.coverage
        return {**task.model.coverage, "classes": torch.tensor([int(c) for c in update.report["classes"]])}

    def check(self, task: TrainTask, update: Update) -> None:
        if task.options["masked"] == "zero":
            own, count = [int(c) for c in update.report["classes"]], self.classes
            if not own or len(set(own)) < len(own) or not set(own) <= set(range(count)):
                raise ValueError(f"reports classes {own[:count]}, there are 0 to {count - 1}, each once")

    @property
    def classes(self) -> int:
        """How many classes the model has."""
        return next(
            value.shape[self.axes[name].index("classes")]
            for name, value in self.like.items()
            if "classes" in self.axes[name]
        )


class RobustCoveredClasses(CoveredClasses, RobustMean):
    """The same for robust aggregation."""


class HeteroFL(Averaging):
    """Each client trains the widest of the nested models that its limits allow.

    As in the original: masked loss (logits of classes that a client lacks are zeroed), scaler (activations divided by
    the rate), static batch norm (statistics are estimated after aggregation), mean by count over the clients that cover
    an entry, where a client covers only the rows of the classifier whose classes it has; entries that no client covers
    keep their value. Unlike there, where only the whole model is scored: a sub-model is served with its scaler and with
    statistics estimated on the cloud's proxy data; fine-tuning is not masked; and the rounds start from a model whose
    slices were trained. A client that not even the narrowest width fits skips training and is served the narrowest.
    """

    reports = {"heterofl": "delivered", "heterofl+ft": "adapted"}
    starts_from = "nested"
    asks = "limits"
    rates: ClassVar = RATES  # the widest first
    section = "heterofl"

    class Options(ServerStep):
        pass

    class Client(ClientTrainer):
        requires = frozenset({"class-shares"})

        def report(self, model: LocalModel, classes: Sequence[int]) -> dict[str, Any]:
            own = {"classes": list(classes)} if self.correction == "zero" else {}
            return super().report(model, classes) | own

    def coverage(self, rate: float) -> Coverage:
        """Return what the sub-model of a rate keeps."""
        return width(self.models.architectures["dense"], rate)

    @cached_property
    def prices(self) -> list[Cost]:
        """The cost of each rate."""
        dense, costs = self.models.architectures["dense"], self.models.costs["dense"]
        sizes = [covered_sizes(dense.sizes, width(dense, rate)) for rate in self.rates]
        return [cost(dense, each, costs.batch_size, costs.optimizer_slots) for each in sizes]

    def level(self, limits: Limits | None) -> int | None:
        """Return the index of the widest rate that fits; None if no rate fits."""
        assert limits is not None
        fits = (i for i, price in enumerate(self.prices) if (price.vector[1:] <= limits.vector).all())
        return next(fits, None)

    def levels(self, profiles: Sequence[Profile]) -> dict[int, int]:
        """Return the level of each client that a rate fits."""
        return {p.client: level for p in profiles if (level := self.level(p.limits)) is not None}

    def part(self, level: int, epochs: int, **options: Any) -> TrainTask:
        """Return a task over the current sub-model of a level."""
        coverage = self.coverage(self.rates[level])
        model = SubModel("dense", coverage, extract(self.model, self.axes, coverage))
        return TrainTask(
            model, epochs, self.prices[level], options=self.client_options(rate=self.rates[level], **options)
        )

    def served(self, level: int) -> TrainTask:
        """Return what a client of a level is given for use."""
        task = self.part(level, self.budget.adapt_epochs)
        assert task.model.state is not None
        state = self.models.recalibrate(task.model.coverage, task.model.state)
        return replace(task, model=replace(task.model, state=state))

    def train_task(self, level: int) -> TrainTask:
        """Return what a client of a level trains in a round."""
        return replace(self.part(level, self.budget.local_epochs, masked="zero"), weight="client")

    def configure_train(self, server_round: int, profiles: Sequence[Profile]) -> dict[int, TrainTask]:
        levels = self.levels(profiles)
        made = {level: self.train_task(level) for level in set(levels.values())}
        return {client: made[level] for client, level in levels.items()}

    def aggregator(self) -> Mean:
        if self.budget.robust == "none":
            return CoveredClasses(self.axes, self.model)
        return RobustCoveredClasses(self.axes, self.model, self.budget.robust, self.budget.trim)

    def server_update(self, server_round: int, aggregate: Mean) -> None:
        self.model = self.models.recalibrate(FULL, self.aggregated(aggregate))

    def configure_evaluate(self, profiles: Sequence[Profile]) -> dict[int, TrainTask]:
        levels = self.levels(profiles)
        made = {level: self.served(level) for level in set(levels.values())}
        return {client: made[level] for client, level in levels.items()}
