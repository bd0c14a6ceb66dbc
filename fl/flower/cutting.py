"""Strategies that send each client the part of a network that it can afford: HeteroFL, FjORD, FedRolex."""

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from logging import INFO
from typing import Any

from flwr.app import Message, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid
from torch import Tensor, nn

from fl.flower.averaging import FedAvg, Network, Part, refuse
from fl.flower.client import CAPACITY, METRICS, NEEDS_SAMPLES
from fl.flower.network import PLAN, Plan, build
from fl.messages import records
from models.elastic.nested import RATES, recalibrate_batch_norm, width
from models.nn.any_body import AnyBody
from models.nn.any_module import count_classes, from_module
from models.nn.body import Shape, cpu_state
from models.submodel import FULL, Coverage, State, axis_names, covered_sizes, extract

Capacities = Mapping[int, float] | Callable[[int], float | None]
MISUSE = re.compile(f"No query function registered|{re.escape(NEEDS_SAMPLES)}")  # errors of the app, not of a client


class Cutting(FedAvg):
    """A strategy that cuts sub-models out of a network.

    Args:
        net, input_shape: as of `FedAvg`.
        capacities: share of the model that each node can afford, in (0, 1], by node id or as a function of it. Nodes
            that it does not name, or returns None for, are asked by a query (`fl.flower.client.profile`).
        options: those of `FedAvg`.

    Raises:
        ValueError: the network does not run on samples of this shape, or has no channels that can be cut.
    """

    net: nn.Module

    def __init__(
        self,
        net: Network,
        input_shape: Shape,
        capacities: Capacities | None = None,
        **options: Any,
    ):
        super().__init__(net, **options)
        self.input_shape = _shape(input_shape)
        classes = count_classes(self.net, self.input_shape)
        self.architecture = from_module(self.net, self.input_shape, classes)
        body = self.architecture.part(FULL)
        assert isinstance(body, AnyBody)
        self.found, self.axes = body.found, body.found.axes
        if not axis_names(d for dimensions in self.axes.values() for d in dimensions) - {"classes"}:
            why = "; ".join(f"{axis}: {reason}" for axis, reason in self.found.whole.items())
            raise ValueError(f"no channels of the network can be cut ({why or 'it has no hidden layer'}): use FedAvg")
        if not (capacities is None or isinstance(capacities, Mapping) or callable(capacities)):
            raise ValueError(f"capacities is {capacities!r:.80}: give a dict by node id, or a function of the node id")
        self.capacities = capacities
        self.profiles: dict[int, dict[str, Any]] = {}  # answers by node

    def summary(self) -> None:
        super().summary()
        for axis, why in self.found.whole.items():
            log(INFO, "\t%s stays whole: %s", axis, why)

    def part(
        self, state: State, coverage: Coverage, plan: Plan, index_weights: Mapping[str, Tensor] | None = None
    ) -> Part:
        """Return a part of the model, given its parameters."""
        content = {self.arrayrecord_key: records.pack(state), PLAN: plan.record()}
        return Part(coverage, state, content, index_weights or {})

    def ask(self, grid: Grid, nodes: Iterable[int], content: Mapping[str, Any] | None = None) -> None:
        """Fill ``profiles`` with the answers of the nodes that are not there; nodes that fail are asked again later.

        Raises:
            ValueError: no ClientApp answers queries, a capacity is impossible, or ``capacities`` is of other nodes.
        """
        if isinstance(self.capacities, Mapping) and self.capacities and not self.profiles:
            known = list(grid.get_node_ids())
            if not self.capacities.keys() & {*known}:
                raise ValueError(
                    f"capacities names none of this run's nodes, such as {known[:1]}: its keys are node ids, not "
                    "partition-ids; give a function, or set `capacity` in each node-config"
                )
        given = {node: self._given(node) for node in nodes if node not in self.profiles}
        if content is None:
            self.profiles |= {node: {CAPACITY: capacity} for node, capacity in given.items() if capacity is not None}
        asked = [node for node in given if node not in self.profiles]
        messages = [Message(RecordDict(dict(content or {})), node, "query") for node in asked]
        replies = list(grid.send_and_receive(messages, timeout=self.timeout)) if messages else []
        for reply in replies:
            node = reply.metadata.src_node_id
            try:
                if reply.has_error():
                    raise ValueError(records.last_words(reply.error))
                if node not in asked:
                    raise ValueError("it was not asked")
                answer = dict(reply.content.metric_records[METRICS])
                answer[CAPACITY] = _capacity(node, given[node] if given[node] is not None else answer[CAPACITY])
                self.profiles[node] = self.read(node, answer)
            except Exception as error:  # no reply may end the run
                refuse("query", node, error)
        if replies and all(reply.has_error() and MISUSE.search(reply.error.reason or "") for reply in replies):
            raise ValueError(
                "the ClientApp does not answer queries: add `@app.query()` with "
                + ("`return profile(message, context)`, or give `capacities`" if content is None else NEEDS_SAMPLES)
            )

    def read(self, node: int, answer: dict[str, Any]) -> dict[str, Any]:
        """Return what is kept of the answer of a node to a query.

        Raises:
            ValueError, KeyError, TypeError: it is impossible.
        """
        return answer

    def _given(self, node: int) -> float | None:
        """Return the capacity that the user gives a node."""
        given = self.capacities
        capacity = given.get(node) if isinstance(given, Mapping) else given(node) if given else None
        return None if capacity is None else _capacity(node, capacity)


def _shape(shape: Any) -> Shape:
    """Return the shape of one sample; ValueError if it is none."""
    try:
        return tuple(map(operator.index, shape))
    except (TypeError, ValueError):
        what = f"input_shape is of type {type(shape).__name__}"
        raise ValueError(f"{what}: give the shape of one sample as whole numbers, such as (3, 32, 32)") from None


def _capacity(node: int, capacity: Any) -> float:
    if not isinstance(capacity, int | float) or not 0 < capacity <= 1:
        raise ValueError(f"the capacity of node {node} is {capacity!r:.80}: it must be a number above 0 and at most 1")
    return float(capacity)


def proxy_samples(x: Any, input_shape: Shape) -> Tensor:
    """Return samples on the server.

    Raises:
        ValueError: they are none of the network.
    """
    got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
    if not isinstance(x, Tensor) or not len(x) or x.shape[1:] != input_shape or not x.is_floating_point():
        raise ValueError(f"proxy samples are {got}: give a tensor of floats with shape (n, {str(input_shape)[1:]}")
    return x


class HeteroFL(Cutting):
    """HeteroFL: a node trains a network of its capacity's share of the width (`strategies.heterofl`).

    Each entry is averaged by examples over the clients that have it. With capacity 1 everywhere it is FedAvg.

    Args:
        proxy: (n, ...) samples on the server. They give sub-models and the new model their own running statistics
            (static batch norm). Without them, running statistics are averaged like parameters.
        net, input_shape, capacities, options: as of `Cutting`.
    """

    def __init__(
        self,
        net: Network,
        input_shape: Shape,
        capacities: Capacities | None = None,
        proxy: Tensor | None = None,
        **options: Any,
    ):
        super().__init__(net, input_shape, capacities, **options)
        self.proxy = None if proxy is None else proxy_samples(proxy, self.input_shape)

    def coverage(self, server_round: int, rate: float) -> Coverage:
        """Return what the sub-model of a rate keeps."""
        return width(self.architecture, rate)

    def plan(self, server_round: int, rate: float, evaluate: bool) -> Plan:
        """Return the plan of the sub-model of a rate."""
        return Plan(rate=rate, head=self.found.head)

    def parts(
        self, server_round: int, state: State, nodes: Sequence[int], grid: Grid, evaluate: bool = False
    ) -> dict[int, Part]:
        self.ask(grid, nodes)
        rates: dict[int, float] = {node: self.profiles[node][CAPACITY] for node in nodes if node in self.profiles}
        made = dict[float, Part]()
        for rate in set(rates.values()):
            coverage = self.coverage(server_round, rate)
            own = extract(state, self.found.axes, coverage)
            made[rate] = self.part(
                self.finish(own) if evaluate else own, coverage, self.plan(server_round, rate, evaluate)
            )
        return {node: made[rate] for node, rate in rates.items()}

    def finish(self, state: State) -> State:
        """Return a part of the model, or all of it, with running statistics of the proxy data."""
        if self.proxy is None:
            return state
        network = build(self.net, state, Plan())
        recalibrate_batch_norm(network, self.proxy)
        return cpu_state(network)


class FjORD(HeteroFL):
    """FjORD: a node trains all widths up to its own, one drawn for every batch (`strategies.fjord`).

    The widths are HeteroFL's, 1, 1/2, 1/4, 1/8 and 1/16, as far as they are below the capacity, and the capacity.
    """

    def plan(self, server_round: int, rate: float, evaluate: bool) -> Plan:
        plan = super().plan(server_round, rate, evaluate)
        if evaluate:
            return plan
        rates = [rate, *(one for one in RATES if one < rate)]
        sizes = {one: covered_sizes(self.found.sizes, width(self.architecture, one)) for one in rates}
        axes = {name: tuple(dimensions) for name, dimensions in self.found.axes.items()}
        return plan.model_copy(
            update={"axes": axes, "sizes": sizes[rate], "widths": list(sizes.items()), "seed": server_round}
        )


class FedRolex(HeteroFL):
    """FedRolex: HeteroFL whose sub-models are windows that advance by one channel a round (`strategies.fedrolex`)."""

    def coverage(self, server_round: int, rate: float) -> Coverage:
        return width(self.architecture, rate, server_round - 1)
