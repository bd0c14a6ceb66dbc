"""Aggregation by weighted means over coverages, which most methods share."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch

from models.aggregation.robust import Robust
from models.aggregation.weighted_sum import WeightedSum
from models.submodel import FULL, Axes, Coverage, State, extract
from strategies.core.server_step import Moments, ServerStep, Step, adam
from strategies.core.strategy import Aggregator, Strategy, TrainTask, Update


class Mean(Aggregator):
    """A weighted mean of sub-models: each entry is averaged over the clients that trained it.

    Args:
        axes, like: of the model; only the shapes of ``like`` are used.
        tensors: names of further tensors of the model's shape that clients upload; each is summed.
    """

    def __init__(self, axes: Axes, like: Mapping[str, torch.Tensor], tensors: tuple[str, ...] = ()):
        self.axes = axes
        self.like = {name: torch.empty_like(value, device="meta") for name, value in like.items()}
        self.names = tensors
        self.clients: set[int] = set()
        self.total: WeightedSum | None = None
        self.tensors: dict[str, WeightedSum] = {}

    def coverage(self, task: TrainTask, update: Update) -> Coverage:
        """Return which part of the model an update counts for."""
        return task.model.coverage

    def add(self, task: TrainTask, update: Update) -> None:
        self.total = self.total or self._empty()
        self.clients.add(update.client)
        coverage, state = self.coverage(task, update), update.state
        narrower = {axis: kept for axis, kept in coverage.items() if axis not in task.model.coverage}
        if narrower:
            state = extract(state, self.axes, narrower)
        self.total.add(state, coverage, update.examples if task.weight == "examples" else 1.0, task.index_weights)
        for name in self.names:
            own = self.tensors.setdefault(name, self._empty())
            own.add(update.tensors[name], task.model.coverage, 1.0)

    def merge(self, other: "Mean") -> None:
        self.clients |= other.clients
        self.total = _merged(self.total, other.total)
        for name, total in other.tensors.items():
            merged = _merged(self.tensors.get(name), total)
            assert merged is not None
            self.tensors[name] = merged

    def result(self, old: State) -> State:
        """Return the mean where anything was added, and ``old`` everywhere else."""
        return old if self.total is None else self.total.finish(old)

    def _empty(self) -> WeightedSum:
        return WeightedSum(self.axes, self.like)


class RobustMean(Mean):
    """The same for `models.aggregation.robust`, which keeps all updates until the end."""

    in_workers = False

    def __init__(self, axes: Axes, like: Mapping[str, torch.Tensor], rule: Any, trim: float):
        super().__init__(axes, like)
        self.total = Robust(axes, rule, trim)  # type: ignore[assignment]


def _merged(mine: WeightedSum | None, other: WeightedSum | None) -> WeightedSum | None:
    if mine is not None and other is not None:
        mine.merge(other)
    return other if mine is None else mine


class Averaging(Strategy):
    """A method whose new model is a weighted mean of what clients trained, or follows from it by a step of the server.

    Attributes:
        moments: of the server's step, by parameter.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.moments: dict[str, Moments] = {}

    @property
    def server_step(self) -> Step | None:
        """The server's step; None: it takes over the mean."""
        return adam if isinstance(self.options, ServerStep) and self.options.step == "adam" else None

    def aggregator(self) -> Aggregator:
        if self.budget.robust == "none":
            return Mean(self.axes, self.model)
        return RobustMean(self.axes, self.model, self.budget.robust, self.budget.trim)

    def server_update(self, server_round: int, aggregate: Any) -> None:
        self.model = self.models.post_aggregate(server_round, self.model, self.aggregated(aggregate))

    def aggregated(self, aggregate: Any) -> State:
        """Return the mean of the updates, or what the server's step towards it leads to."""
        mean: State = aggregate.result(self.model)
        if self.server_step is None:
            return mean
        moved, moments = dict(mean), {}
        for name in self._trained:
            w = self.model[name].double()
            by, moments[name] = self.server_step(self.options, mean[name].double() - w, self.moments.get(name, {}))
            moved[name] = (w + by).to(self.model[name].dtype)
        self.moments = moments
        return moved

    @cached_property
    def _trained(self) -> list[str]:
        """Names of the parameters, all of a tied one; statistics of norms are none."""
        network = self.models.architectures[self.architecture].part(FULL)
        return [name for name, _ in network.named_parameters(remove_duplicate=False)]

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | ({"moments": self.moments} if self.server_step else {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.moments = state.get("moments", {})
