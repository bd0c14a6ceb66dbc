"""The network of a sub-model, as an instance of the user's class, from what a message says about it."""

import random
from collections.abc import Callable
from functools import partial
from typing import Self, TypeVar

import torch
from flwr.app import ConfigRecord, RecordDict
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from models.elastic.nested import RandomSubmodel
from models.modular.selector import Routing, Selector
from models.nn.any_body import AnyBody, Found, reshape, resize
from models.submodel import Coverage, Dimension, Sizes, State
from partitions.errors import one_line

Net = TypeVar("Net", bound=nn.Module)
PLAN = "submodel"  # record of a message


class Routes(BaseModel):
    """How ECLM's selector is made, and which modules its gates are for.

    Args:
        input_shape, layers, embed: as in `models.modular.selector.Selector`.
        top_k, scale: as in `models.modular.selector.Routing`.
        readers: as in `models.nn.any_body.Found`.
        modules: numbers of the modules that the sub-model has, by layer.
    """

    model_config = ConfigDict(frozen=True)
    input_shape: tuple[int, ...]
    layers: dict[str, int]
    embed: int
    top_k: int
    scale: float
    readers: dict[str, str] = {}
    modules: dict[str, list[int]] = {}

    def selector(self, state: State) -> Selector:
        """Return the selector with these parameters."""
        selector = Selector(self.input_shape, self.layers, self.embed)
        selector.load_state_dict(state)
        return selector


class Plan(BaseModel):
    """What a message says about a sub-model, beside its parameters, whose shapes say how large its layers are.

    Args:
        rate: share of the width; head: the layer that returns the logits. A network without norms divides what that
            layer reads by the rate (`models.nn.any_body.Scaler`).
        axes, sizes: of the sub-model, where its parts are named: FjORD, ECLM.
        widths: rates to draw in training, and the axis sizes of their sub-models: FjORD.
        seed: of those draws, together with the client's node id.
        routes: of ECLM.
    """

    model_config = ConfigDict(frozen=True)
    rate: float = 1.0
    head: str = ""
    axes: dict[str, tuple[Dimension, ...]] = {}
    sizes: dict[str, int] = {}
    widths: list[tuple[float, dict[str, int]]] = []
    seed: int = 0
    routes: Routes | None = None

    @classmethod
    def of(cls, content: RecordDict) -> Self:
        """Read the plan of a message; a message without one has the whole network."""
        record = content.get(PLAN)
        return cls.model_validate_json(str(record["plan"])) if isinstance(record, ConfigRecord) else cls()

    def record(self) -> ConfigRecord:
        """Return the plan as a record."""
        return ConfigRecord({"rate": self.rate, "plan": self.model_dump_json(exclude_defaults=True)})


def made(net: Net | Callable[[], Net]) -> Net:
    """Return a network, given itself, its class, or a function that makes it.

    Raises:
        ValueError: there is none.
    """
    if isinstance(net, nn.Module):
        return net  # type: ignore[return-value]
    try:
        network = net()
    except TypeError as error:
        raise ValueError(
            f"the network cannot be made ({one_line(error)}): give a module, or a class or function without arguments"
        ) from error
    if not isinstance(network, nn.Module):
        raise ValueError(
            f"the network is {type(network).__name__}: it must be a torch.nn.Module, its class or function"
        )
    return network


def build(net: Net | Callable[[], Net], state: State, plan: Plan, selector: State | None = None, node: int = 0) -> Net:
    """Return a copy of a network whose layers have the sizes of ``state``.

    Args:
        net: as in `made`.
        state: parameters and buffers of the sub-model.
        plan: of the sub-model; selector: ECLM's, for its plans.
        node: id of the client.

    Raises:
        ValueError: the parameters are not those of this network.
    """
    template = made(net)
    expected = template.state_dict()
    if odd := sorted(expected.keys() ^ state.keys()):
        who = "the network lacks" if odd[0] in state else "the message lacks"
        raise ValueError(f"{who} {odd[0]}: client, server and initial arrays must have the same network")
    if any(is_lazy(value) for value in expected.values()):
        if template is net:
            raise ValueError("the network has lazy layers: give its class, or run one batch through it first")
        template.load_state_dict(state)
    shapes = {name: value.shape for name, value in state.items()}
    try:
        network = reshape(template, shapes)
        network.load_state_dict(state)
    except (RuntimeError, ValueError, IndexError) as error:
        raise ValueError(f"the parameters do not fit the network ({one_line(error)})") from error
    readers = plan.routes.readers if plan.routes else {}
    if plan.head or plan.widths or readers:
        body = AnyBody(network, Found(plan.axes, plan.sizes, readers, plan.head), plan.sizes)
        body.rate = plan.rate
        if plan.widths:
            network.forward = RandomWidth(reshape(template, shapes), body, plan, node)
        elif plan.routes and selector is not None:
            network.forward = Gated(body, plan.routes, selector)
    return network  # type: ignore[return-value]


class RandomWidth:
    """The forward pass of a network that trains a width drawn for every batch (FjORD).

    Args:
        template: a copy of the network, of which narrower networks are made.
        body: the network.
        plan: its plan.
        node: id of the client.
    """

    def __init__(self, template: nn.Module, body: AnyBody, plan: Plan, node: int):
        self.random = random.Random(f"{plan.seed} {node}")
        self.net, self.whole, self.plan = body.net, body.net.forward, plan
        self.part = RandomSubmodel(body, partial(_narrower, template, body.found), self.draw, statistics=True)

    def __call__(self, x: Tensor) -> Tensor:
        return self.part(x) if self.net.training else self.whole(x)

    def draw(self) -> tuple[Coverage, float]:
        """Draw a width: its coverage of the network, and its rate."""
        rate, sizes = self.random.choice(self.plan.widths)
        return {axis: torch.arange(n) for axis, n in sizes.items() if n < self.plan.sizes[axis]}, rate


def _narrower(template: nn.Module, found: Found, sizes: Sizes, generator: torch.Generator | None) -> AnyBody:
    return AnyBody(resize(template, found, sizes), found, sizes)


class Gated:
    """The forward pass of a network whose modules are gated by a selector (ECLM)."""

    def __init__(self, body: AnyBody, routes: Routes, selector: State):
        self.whole, self.body, self.routes = body.net.forward, body, routes
        self.selector, self.routing = routes.selector(selector), Routing(routes.top_k, routes.scale)

    def __call__(self, x: Tensor) -> Tensor:
        logits = self.selector.to(x.device).logits(x.detach())
        columns = (self.routes.modules[layer] for layer in self.body.layers)
        gates = [self.routing.gates(layer[:, kept]).to(x.device) for layer, kept in zip(logits, columns, strict=True)]
        with self.body.gating(gates):
            return self.whole(x)
