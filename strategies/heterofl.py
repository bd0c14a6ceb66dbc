"""HeteroFL: nested width-scaled sub-models, merged entry by entry over the devices that trained the entry.

Diao, Ding, Tarokh, "HeteroFL: Computation and Communication Efficient Federated Learning for Heterogeneous Clients",
ICLR 2021, arXiv:2010.01264.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

from models.aggregation.robust import Robust
from models.aggregation.weighted_sum import WeightedSum
from models.costs import Cost, cost
from models.elastic.nested import RATES, width
from models.submodel import FULL, Coverage, State, covered_sizes, extract
from strategies.base import Averaging, Limits, Profile, Task


@dataclass
class HeteroFL(Averaging):
    """Each device trains the widest of the nested models that its limits allow.

    As in the original: masked loss (logits of classes that a device lacks are zeroed), scaler (activations divided by
    the rate), static batch norm (statistics are estimated after a merge), mean by count over the devices that cover an
    entry, where a device covers only the rows of the classifier whose classes it holds; entries that nobody covers keep
    their value. Unlike there, where only the whole model is scored: a sub-model is served with its scaler and with
    statistics of its own, estimated on the cloud's proxy data; fine-tuning is not masked; and the rounds start from a
    model whose slices were trained. A device that not even the narrowest width fits sits out in training and is served
    the narrowest.
    """

    reports = {"heterofl": "delivered", "heterofl+ft": "adapted"}
    asks = "limits"
    rates: ClassVar = RATES  # the widest first

    def initial(self) -> State:
        return self.cloud.nested_state

    def coverage(self, rate: float) -> Coverage:
        """What the sub-model of a rate keeps."""
        return width(self.cloud.dense, rate)

    @cached_property
    def prices(self) -> list[Cost]:
        """The cost of each rate."""
        dense, costs = self.cloud.dense, self.cloud.dense_costs
        sizes = [covered_sizes(dense.sizes, width(dense, rate)) for rate in self.rates]
        return [cost(dense, each, costs.batch_size, costs.optimizer_slots) for each in sizes]

    def level(self, limits: Limits | None) -> int | None:
        """The index of the widest rate that fits, None if none does."""
        assert limits is not None
        fits = (i for i, price in enumerate(self.prices) if (price.vector[1:] <= limits.vector).all())
        return next(fits, None)

    def part(self, level: int, epochs: int) -> Task:
        """The current sub-model of a level."""
        coverage = self.coverage(self.rates[level])
        state = extract(self.model, self.axes, coverage)
        return Task("dense", coverage, state, epochs, self.prices[level], rate=self.rates[level], masked=self.masked)

    def served(self, level: int) -> Task:
        """What a device of a level is given for use."""
        task = self.part(level, self.plan.adapt_epochs)
        assert task.state is not None
        return replace(task, state=self.cloud.settled(task.coverage, task.state))

    def lesson(self, level: int) -> Task:
        """What a device of a level is asked to train in a round."""
        return replace(self.part(level, self.plan.local_epochs), masked="zero", weight="device")

    def tasks(self, round_: int, profiles: Sequence[Profile]) -> dict[int, Task]:
        levels = {p.device: level for p in profiles if (level := self.level(p.limits)) is not None}
        made = {level: self.lesson(level) for level in set(levels.values())}
        return {device: made[level] for device, level in levels.items()}

    def adopt(self, total: WeightedSum | Robust) -> None:
        self.model = self.cloud.settled(FULL, total.finish(self.model))

    def deliver(self, profiles: Sequence[Profile]) -> dict[int, Task]:
        narrowest = len(self.rates) - 1
        fitting = {p.device: self.level(p.limits) for p in profiles}
        levels = {device: narrowest if level is None else level for device, level in fitting.items()}
        made = {level: self.served(level) for level in set(levels.values())}
        return {device: made[level] for device, level in levels.items()}
