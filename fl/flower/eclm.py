"""ECLM for Flower's `Strategy.start`: modules that matter to a client's data and fit its capacity."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord
from flwr.serverapp import Grid
from pydantic import ValidationError
from torch import Tensor, nn

from fl.config.sections import Pretrain
from fl.config.settings import sentence
from fl.flower.averaging import Network, Part
from fl.flower.client import CAPACITY, SELECTOR
from fl.flower.cutting import Capacities, Cutting, proxy_samples
from fl.flower.network import PLAN, Plan, Routes, build
from fl.messages import records
from fl.workloads.pretraining import UNKNOWN
from models.costs import CostModel
from models.modular.model import ModularModel, enhance, train_end_to_end
from models.modular.selector import Routing, Selector
from models.nn.body import Shape, cpu_state, gate_columns, hidden_axis
from models.submodel import FULL, Coverage, State, covered_sizes, under
from models.training.loop import Recipe
from strategies import eclm
from strategies.core.client import Limits
from strategies.core.pretrained import PretrainedModels
from strategies.core.strategy import Budget, Profile

BATCH = 16  # samples of a training batch, for the memory that a sub-model needs


class ECLM(Cutting):
    """ECLM: a node trains the modules that matter most to its data and fit its capacity (`strategies.eclm`).

    The layers of the network that can be cut into modules are cut into ``modules`` each, so that the model has the
    shapes of the network. A capacity is a share of what all modules cost, in bytes, multiply-accumulates and memory;
    every node has at least one module of each layer.

    Args:
        proxy: labelled samples on the server, x (n, ...) and y (n,). Before the first round they train the model and
            its selector, from the initial arrays on. Without them no module matters more than another, and all that a
            client has are active.
        modules: in each layer; top_k: of these, how many are active for a sample.
        pretrain: how to train on the proxy data (``modular_epochs``, ``ability_epochs``, ``lr``, ...).
        query_every: rounds after which nodes are asked anew which modules matter to their data; 0: never.
        seed: of the training on proxy data.
        net, input_shape, capacities, options: as of `Cutting`.

    Raises:
        ValueError: the network has no layer that can be cut into modules.
    """

    def __init__(
        self,
        net: Network,
        input_shape: Shape,
        capacities: Capacities | None = None,
        proxy: tuple[Tensor, Tensor] | None = None,
        modules: int = 8,
        top_k: int = 4,
        pretrain: Pretrain | None = None,
        query_every: int = 0,
        seed: int = 0,
        **options: Any,
    ):
        super().__init__(net, input_shape, capacities, **options)
        if not self.found.readers:
            raise ValueError("ECLM needs a layer of at least 32 channels that one other layer reads: use HeteroFL")
        try:
            top_k = modules if proxy is None else top_k
            self.options = eclm.ECLM.Options(modules=modules, shrink=modules, top_k=top_k)
        except ValidationError as error:
            raise ValueError(sentence(error, eclm.ECLM.Options)) from None
        eclm.ECLM.check(self.options, BUDGET)
        self.proxy = None if proxy is None else self._labelled(proxy)
        self.pretrain, self.seed, self.query_every = pretrain or Pretrain(), seed, query_every
        self.modular = self.architecture.modular(modules, modules)
        self.axes = {name.removeprefix("net."): axes for name, axes in self.modular.part(FULL).axes().items()}
        self.method: eclm.ECLM | None = None

    def _labelled(self, proxy: Any) -> tuple[Tensor, Tensor]:
        if not isinstance(proxy, tuple) or len(proxy) != 2:
            raise ValueError("ECLM's proxy data are a pair: proxy=(x, y)")
        x, y, classes = (
            proxy_samples(proxy[0], self.input_shape),
            torch.as_tensor(proxy[1]),
            self.found.sizes["classes"],
        )
        if y.shape != (len(x),) or y.is_floating_point() or not ((y >= 0) & (y < classes)).all():
            raise ValueError(f"y of the proxy data must be {len(x)} classes from 0 to {classes - 1}")
        return x, y.long()

    def prepare(self, arrays: ArrayRecord) -> ArrayRecord:
        state = records.unpack(super().prepare(arrays))
        body = self.modular.part(FULL)
        body.load_state_dict(_inside(state))
        layers = {layer: self.modular.sizes[layer] for layer in body.layers}
        generator = torch.Generator().manual_seed(self.seed)
        selector = Selector(self.input_shape, layers, self.options.selector_width, generator)
        model = ModularModel(body, selector, Routing(self.options.top_k, float(self.options.shrink)))
        if self.proxy is not None:
            self._train(model, *self.proxy)
        costs = {"modular": CostModel(self.modular, BATCH)}
        models = PretrainedModels({"modular": self.modular}, costs, {"modular": lambda: model})
        self.profiles.clear()  # importance is that of another selector
        self.method = eclm.ECLM(models, BUDGET, self.seed, self.options)
        return records.pack(under(body.state(), "net."))

    def _train(self, model: ModularModel, x: Tensor, y: Tensor) -> None:
        """Train body and selector as `fl.workloads.pretraining` does (ECLM 4.3); classes are the sub-tasks."""
        p, o, generator = self.pretrain, self.options, np.random.default_rng(self.seed)
        recipe = Recipe(p.lr, p.batch_size, p.optimizer, p.momentum, p.weight_decay, 1.0)
        train_end_to_end(model, x, y, recipe, p.modular_epochs, generator, o.balance)
        enhance(
            model, x, y, y, self.found.sizes["classes"], recipe, p.ability_epochs, generator,
            o.ability, o.kappa1, o.kappa2 or UNKNOWN,
        )  # fmt: skip

    def plan(self, coverage: Coverage) -> Plan:
        """Return the plan of a sub-model."""
        sizes, layers = covered_sizes(self.modular.sizes, coverage), self.found.readers
        kept = {layer: gate_columns(self.modular.sizes, layer, coverage).tolist() for layer in layers}
        return Plan(
            sizes={axis: sizes[axis] for layer in layers for axis in (layer, hidden_axis(layer))},
            routes=self._routes.model_copy(update={"readers": dict(layers), "modules": kept}),
        )

    @property
    def _routes(self) -> Routes:
        return Routes(
            input_shape=self.input_shape,
            layers={layer: self.modular.sizes[layer] for layer in self.found.readers},
            embed=self.options.selector_width,
            top_k=self.options.top_k,
            scale=self.options.shrink,
        )

    @property
    def _selector(self) -> State:
        return cpu_state(self._method.modular_model.selector)

    @property
    def _method(self) -> eclm.ECLM:
        if self.method is None:
            raise ValueError("ECLM has no model yet: call its start(...)")
        return self.method

    def load(self, arrays: ArrayRecord) -> nn.Module:
        return build(self.net, records.unpack(arrays), self.plan(FULL), self._selector)

    def parts(
        self, server_round: int, state: State, nodes: Sequence[int], grid: Grid, evaluate: bool = False
    ) -> dict[int, Part]:
        method, selector = self._method, {SELECTOR: records.pack(self._selector)}
        if self.query_every and not evaluate and (server_round - 1) % self.query_every == 0:
            self.profiles.clear()
        self.ask(grid, nodes, {**selector, PLAN: Plan(routes=self._routes).record()})
        method.model = _inside(state)
        profiles: list[Profile] = [self.profiles[node]["profile"] for node in nodes if node in self.profiles]
        tasks = method.configure_evaluate(profiles) if evaluate else method.configure_train(server_round, profiles)
        parts = {}
        for node, task in tasks.items():
            coverage, own = task.model.coverage, under(task.model.state or {}, "net.")
            part = self.part(own, coverage, self.plan(coverage), task.index_weights)
            parts[node] = Part(coverage, own, {**part.content, **selector}, part.index_weights)
        return parts

    def read(self, node: int, answer: dict[str, Any]) -> dict[str, Any]:
        costs, share = self._method.models.costs["modular"], answer[CAPACITY]
        one, all_ = (costs.of(dict.fromkeys(costs.layers, n)) for n in (1, self.options.modules))
        limits = np.maximum(one.vector, (costs.base + (all_ - costs.base) * share).vector)
        return {**answer, "profile": self._method.read_profile(node, Limits(*limits[1:]), answer)}


BUDGET = Budget(clients=1, cohort=1, local_epochs=1, adapt_epochs=1, rounds_per_step=1)
"""Required by the method; Flower and the user's own loop decide these."""


def _inside(state: State) -> State:
    """Return the state of a network as that of the body around it."""
    return {f"net.{name}": value for name, value in state.items()}
