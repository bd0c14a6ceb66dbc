"""HeteroFL: nested width-scaled sub-models, merged entry by entry over the devices that trained the entry.

Diao, Ding, Tarokh, "HeteroFL: Computation and Communication Efficient Federated Learning for Heterogeneous Clients",
ICLR 2021, arXiv:2010.01264.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from models.axes import Coverage, Sizes, covered_sizes, extract, prefix
from models.costs import Cost, cost
from strategies.base import Limits, Profile, Strategy, Task, Update, merge

FIXED = ("classes",)


def width(sizes: Sizes, rate: float, layers: Sequence[str]) -> Coverage:
    """The coverage that keeps the first ``ceil(rate * n)`` channels of every width axis (eq. 1 of the paper)."""
    kept = {a: n if a in FIXED or a in layers else max(1, -int(-rate * n // 1)) for a, n in sizes.items()}
    return prefix(sizes, kept)


@dataclass
class HeteroFL(Strategy):
    """Each device trains the widest of the nested models that its limits allow.

    As in the original: masked loss (logits of classes that a device lacks are zeroed), scaler (activations divided by
    the rate in training), mean by count over the devices that cover an entry, and entries that nobody covers keep
    their value. A device that not even the smallest width fits sits out in training and is served the smallest.
    """

    reports = {"heterofl": "delivered", "heterofl+ft": "adapted"}
    asks = "limits"
    rates: ClassVar = (1.0, 0.5, 0.25, 0.125, 0.0625)

    @cached_property
    def levels(self) -> list[tuple[float, Coverage, Cost]]:
        """(rate, coverage, cost), the widest first."""
        costs, out = self.cloud.dense_costs, []
        layers = costs.layers
        for rate in self.rates:
            coverage = width(self.cloud.dense.sizes, rate, layers)
            sizes = covered_sizes(self.cloud.dense.sizes, coverage)
            out.append((rate, coverage, cost(self.cloud.dense, sizes, costs.batch_size, costs.optimizer_slots)))
        return out

    def level(self, limits: Limits) -> int | None:
        """The widest level that fits, None if none does."""
        fits = (i for i, (_, _, c) in enumerate(self.levels) if (c.vector[1:] <= limits.vector).all())
        return next(fits, None)

    def _tasks(self, profiles: Sequence[Profile], epochs: int, smallest: bool) -> dict[int, Task]:
        made: dict[int, Task] = {}
        out = {}
        for profile in profiles:
            assert profile.limits is not None
            level = self.level(profile.limits)
            if level is None:
                if not smallest:
                    continue
                level = len(self.levels) - 1
            if level not in made:
                rate, coverage, price = self.levels[level]
                part = extract(self.model, self.axes, coverage)
                made[level] = Task("dense", coverage, part, epochs, price, masked="zero", rate=rate)
            out[profile.device] = made[level]
        return out

    def tasks(self, round_: int, profiles: Sequence[Profile]) -> dict[int, Task]:
        return self._tasks(profiles, self.plan.local_epochs, smallest=False)

    def absorb(
        self, round_: int, tasks: Mapping[int, Task], updates: Sequence[Update], profiles: Sequence[Profile]
    ) -> None:
        self.model = merge(self, tasks, updates, weight={u.device: 1.0 for u in updates})

    def deliver(self, profiles: Sequence[Profile]) -> dict[int, Task]:
        return self._tasks(profiles, self.plan.adapt_epochs, smallest=True)
