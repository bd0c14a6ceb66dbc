"""Classification by a network that may be cut into modules: the workload of ECLM and its rivals.

One process may simulate many clients, one after the other. So expensive things (data set, networks) are made once per
process and overwritten in place; what belongs to a client lies in its store.
"""

import hashlib
import json
import math
import platform
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fl.config import Settings, SettingsError
from fl.devices.hardware import Shares, Table, shares
from fl.engines.accelerator import client_place, cloud_place
from fl.engines.batching import Fit, fitted
from fl.results.files import atomic_write
from fl.workloads.client_data import ClientData
from fl.workloads.pretraining import Pretraining, code_of
from fl.workloads.workload import ClientContext, Half, Scored, Trained, Workload, scored_steps
from fl.workloads.world import Worlds, build_architectures, build_selector, local_recipe, routing, tensors
from models.costs import BACKWARD, Cost, CostModel
from models.modular.derive import choose_many
from models.modular.model import ModularModel, Progress
from models.modular.selector import Routing, Selector
from models.nn.blocks import freeze_statistics
from models.nn.body import Architecture, Body, Family, gate_columns
from models.submodel import FULL, Coverage, State, covered_sizes, extract
from models.training.batched import ClientBatch
from models.training.loop import Recipe, Score, fit, score
from partitions import LocalData, Purpose, rng
from partitions.components import Section
from partitions.root import cache_folder
from strategies.core.client import ClientTask, ClientTrainer, Limits, LocalModel
from strategies.core.pretrained import PretrainedModels
from strategies.core.strategy import Strategy
from strategies.eclm import ModularOptions

TIMED_S = 0.5  # of CPU time that the measurement of compute takes
TIMED_BATCHES = 8


class Classify(Workload):
    """Clients learn classes of their samples.

    Args:
        settings: of the run; worlds: the clients' data.
        family: builds the dense model; family_options: its options.
        modular: how the modular model is made; slices: widths of a block in AdaptiveNet's supernet.
    """

    provides = frozenset("dense nested rolling supernet modular tailored limits class-shares".split()) | {
        *ClientTrainer.HOOKS
    }

    def __init__(
        self, settings: Settings, options: Section, worlds: Worlds, family: Family, family_options: Section,
        modular: ModularOptions, slices: int,
    ):  # fmt: skip
        self.settings, self.worlds = settings, worlds
        self.family, self.family_options, self.modular, self.slices = family, family_options, modular, slices
        self.client = settings.client
        self.recipe = local_recipe(settings.client, settings.precision)
        offers = {"sgd": self.recipe.optimizer == "sgd", "batch-statistics": not self.recipe.frozen_statistics}
        self.provides = type(self).provides | {name for name, offered in offers.items() if offered}
        self.network = lru_cache(maxsize=16)(self._network)  # networks of this many sizes at once stay in memory
        self.selector = lru_cache(maxsize=4)(self._selector)

    # what server and clients build alike

    @cached_property
    def architectures(self) -> dict[str, Architecture]:
        """The dense cloud model, the modular model and the supernet."""
        data, section = self.worlds.dataset, self.settings.model
        return build_architectures(data, section, self.family, self.family_options, self.modular, self.slices)

    @cached_property
    def costs(self) -> dict[str, CostModel]:
        """Costs of their sub-models on clients."""
        built, how = self.architectures, self.recipe
        return {name: CostModel(one, how.batch_size, how.slots) for name, one in built.items()}

    @property
    def place(self) -> torch.device:
        """Where clients' networks compute."""
        return client_place(self.settings.accelerator, self.settings.devices.placement)

    def _network(self, architecture: str, sizes: tuple[tuple[str, int], ...]) -> Body:
        return self.architectures[architecture].build(dict(sizes), None).to(self.place)

    def _selector(self, core: bool) -> Selector:
        return build_selector(self.architectures["modular"], self.modular, core=core).to(self.place)

    # the server's side

    def prepare(self, seed: int, progress: Progress | None = None) -> PretrainedModels:
        return self.pretraining(seed, progress).models(self.costs)

    def pretraining(self, seed: int, progress: Progress | None = None) -> Pretraining:
        """Return the pretraining of a seed.

        Raises:
            SettingsError, partitions.DataError: as `prepare` does.
        """
        world, settings = self.worlds(seed), self.settings
        if self.modular.subtasks == "domain" and world.data.domain_train is None:
            raise SettingsError(f"eclm.subtasks = 'domain' needs samples with domains, {world.data.name} has none")
        if self.modular.subtasks == "groups" and isinstance(world, LocalData):
            raise SettingsError("eclm.subtasks = 'groups' needs to know all clients' classes: only in simulation")
        if self.recipe.frozen_statistics and not freeze_statistics(self.architectures["dense"].part(FULL)):
            raise SettingsError("client.frozen-statistics = true needs a model with batch norm: model.norm = 'batch'")
        model = settings.model.model_dump() | self.family_options.model_dump() | {"code": code_of(self.family)}
        return Pretraining(
            world, seed, self.architectures, model, settings.pretrain, self.modular, self.slices,
            settings.devices.count, lambda: self.held, cloud_place(settings.accelerator), settings.precision, progress,
        )  # fmt: skip

    @cached_property
    def held(self) -> float:
        """Modules of a layer that a client of average limits can hold, mean over the layers."""
        costs, devices = self.costs["modular"], self.settings.devices
        share = (devices.limit_low + devices.limit_high) / 2
        free = share * (1 - devices.background_load / 2)
        limits = Limits.shares(self.costs["dense"].whole, share, free, free)
        alike = {layer: np.ones(len(gate_columns(costs.architecture.sizes, layer))) for layer in costs.layers}
        (chosen,) = choose_many(costs, [alike], [limits.vector], Limits.names)
        return float(np.mean([len(kept) for kept in chosen.values()])) if chosen else 1.0

    def global_accuracy(self, method: Strategy) -> float:
        data = self.worlds(method.seed).data
        x, y = tensors(data, "test")
        body = self.architectures[method.architecture].part(FULL).to(cloud_place(self.settings.accelerator))
        body.load_state_dict(method.model)
        if method.architecture != "modular":
            return score(body, x, y, data.num_classes).accuracy
        cloud = method.modular_model  # type: ignore[attr-defined]
        return ModularModel(body, cloud.selector, cloud.routing).score(x, y, data.num_classes).accuracy

    # a client's side

    def limits(self, context: ClientContext) -> Shares:
        devices, seed, client = self.settings.devices, context.seed, context.client
        if context.machine is not None:
            passes = BACKWARD * self.client.local_epochs * self.settings.data.samples_max
            return context.machine.spare(self.measure, passes, devices.train_budget_s, devices.link_budget_s)
        table = Table.of(devices.hardware)
        return shares(
            table, table.draw(seed, client), seed, client, context.step, devices.limit_low, devices.limit_high,
            devices.background_load,
        )  # fmt: skip

    def profile(self, context: ClientContext, half: Half) -> dict[str, Any]:
        return half(LocalClient.of(self, context)).profile()

    def train(self, context: ClientContext, task: ClientTask, half: Half) -> Trained:
        client = LocalClient.of(self, context)
        trainer = half(client)
        model = trainer.select(task.state)
        before, (x, y) = model.state, client.samples("train")
        loss = client.fit(trainer, model, x, y)
        after = model.state
        if task.keep:
            trainer.keep(model, model.updated())
        report = trainer.report(model, np.unique(y.numpy()).tolist())
        smallest = self.client.upload_change
        if smallest and change(before, after) < smallest:
            return Trained(None, len(x), loss, report)
        upload = trainer.upload(before, after)
        return Trained(upload, len(x), loss, report, trainer.upload_tensors())

    def evaluate(self, context: ClientContext, task: ClientTask, half: Half) -> Scored:
        client = LocalClient.of(self, context)
        trainer = half(client)
        model = trainer.select(task.state)
        tests = [(*client.samples("test", step), step) for step in scored_steps(context)]

        def scores() -> list[tuple[float, float, float]]:
            """For the current test draw, and the one before if that is asked."""
            found = [client.score(trainer, model, x, y, step) for x, y, step in tests]
            return [(s.accuracy, s.balanced_accuracy, s.loss_sum / max(1, s.samples.sum())) for s in found]

        delivered = adapted = scores()
        x, y = client.samples("train")
        if task.epochs:
            before = model.state
            client.fit(trainer, model, x, y)
            model.state = trainer.adapted(before, model.state)
            adapted = scores()
        if task.keep:
            trainer.keep(model, model.updated())
        former = (delivered[1][0], adapted[1][0]) if context.look_back else None
        report = trainer.report(model, ())
        return Scored(len(tests[0][0]), delivered[0], adapted[0], len(x), former, report, model.trial_macs)

    def measure(self) -> tuple[float, Cost]:
        return self._measured

    @cached_property
    def _measured(self) -> tuple[float, Cost]:
        """Time local training on one idle core; the result is kept in the cache folder.

        On a real device a process lives for one message, so the first one measures and all others read.
        """
        model, how = self.architectures["dense"], self.recipe
        what: list[object] = [self.settings.model.name, self.settings.model.norm, sorted(model.sizes.items())]
        what += [model.input_shape, how.batch_size, how.optimizer, how.slots, how.precision, torch.__version__]
        digest = hashlib.sha256(json.dumps([*what, platform.node()]).encode()).hexdigest()
        path = cache_folder() / "machine" / f"{digest[:20]}.json"
        with suppress(OSError, ValueError, LookupError, TypeError):
            kept = json.loads(path.read_text(encoding="utf-8"))
            return float(kept["mac_per_s"]), Cost(*kept["whole"])
        whole = self.costs["dense"].whole
        rate = time_training(model, how, whole)
        with suppress(OSError):  # then the next process measures again
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(path, json.dumps({"mac_per_s": rate, "whole": whole.vector}))
        return rate, whole


@dataclass(frozen=True)
class LocalClient(ClientData):
    """One client's data and models, for one message."""

    workload: Classify

    @classmethod
    def of(cls, workload: Classify, context: ClientContext) -> "LocalClient":
        return cls(context, workload.worlds, workload)

    @property
    def recipe(self) -> Recipe:
        """How clients train."""
        return self.workload.recipe

    @property
    def adapt_epochs(self) -> int:
        """Epochs of local adaptation."""
        return self.workload.client.adapt_epochs

    @property
    def place(self) -> torch.device:
        """Where networks compute."""
        return self.workload.place

    @property
    def classes(self) -> int:
        """How many classes the data set has."""
        return self.world.data.num_classes

    @property
    def examples(self) -> int:
        """How many labelled training samples the client has now."""
        return int((self.world.draw(self.number, self.step).train_labels >= 0).sum())

    @property
    def module_layers(self) -> tuple[str, ...]:
        """Names of the module layers of the modular model."""
        return self.workload.costs["modular"].layers

    def architecture(self, task: ClientTask) -> Architecture:
        """Return the whole architecture that a task is about."""
        return self.workload.architectures[task.architecture]

    def costs(self, name: str) -> CostModel:
        """Return the costs of an architecture's sub-models."""
        return self.workload.costs[name]

    def selector(self, core: bool) -> Selector:
        """Return the selector's network, whose weights are to be loaded."""
        return self.workload.selector(core)

    def routing(self, selector: Selector) -> Routing:
        """Return how gates follow from the selector."""
        return routing(self.workload.modular, selector)

    def limits(self) -> Limits:
        """Return what the client can afford now."""
        now, whole = self.workload.limits(self.context), self.costs("dense").whole
        return Limits.shares(whole, now.link, now.compute, now.memory)

    def noise(self, what: int) -> np.random.Generator:
        """Return a generator of noise."""
        return self.context.noise(what)

    def load(self, task: ClientTask, state: State, active: Coverage = FULL) -> LocalModel:
        """Return the sub-model of a task, or its part ``active``.

        Raises:
            ValueError: sizes or parameters are impossible. In a stack they would make every client fail.
        """
        whole = self.architecture(task).sizes
        sizes = {**whole, **task.sizes}
        if wrong := [axis for axis, n in sizes.items() if not 0 <= n <= whole.get(axis, -1)]:
            raise ValueError(f"a part of {sizes[wrong[0]]} {wrong[0]}: the {task.architecture} model has {whole}")
        network = self.workload.network(task.architecture, tuple(sorted(covered_sizes(sizes, active).items())))
        part = extract(state, network.axes(), active) if active else state
        if _shapes(part) != _shapes(network.state_dict()):
            raise ValueError("the model does not have the shapes that its sizes call for")
        return LocalModel(state, part, network, task.modules, active)

    def fit(self, trainer: ClientTrainer, model: LocalModel, x: Tensor | None = None, y: Tensor | None = None) -> float:
        """Train the model, by default on all training samples; return the mean loss of the last epoch."""
        if x is None or y is None:
            x, y = self.samples("train")
        gates, generator = trainer.gates(model, x), rng(self.seed, Purpose.TRAIN, self.round, self.number)
        shares, epochs = trainer.class_shares(), trainer.task.epochs
        recipe = trainer.recipe(self.recipe)
        if trainer.batchable:
            batch = ClientBatch(model.state, x, y, generator, gates, shares)
            model.state, loss = fitted(Fit(model.network, model.rate, batch, recipe, epochs, trainer.correction))
            return loss
        network = trainer.training_network(model.loaded(), generator)
        trainer.begin()
        loss = fit(
            network, x, y, recipe, epochs, generator, gates, shares, trainer.correction,
            correct_gradients=trainer.corrects, stops=trainer.stops if "stops" in trainer.hooks() else None,
        )  # fmt: skip
        model.state = model.network.state()
        return loss

    def score(self, trainer: ClientTrainer, model: LocalModel, x: Tensor, y: Tensor, step: int | None = None) -> Score:
        """Score the model on samples (n, ...) of classes (n,) of a step, by default the current one."""
        shares = trainer.class_shares(step) if trainer.correction == "prior" else None
        return score(model.loaded(), x, y, self.classes, trainer.gates(model, x), shares)


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in state.items()}


def change(before: State, after: State) -> float:
    """Return the relative change of a state: the norm of the difference over the norm before."""
    moved = sum(float((after[name] - value).double().square().sum()) for name, value in before.items())
    norm = sum(float(value.double().square().sum()) for value in before.values())
    return math.sqrt(moved / max(norm, 1e-24))


def time_training(model: Architecture, how: Recipe, whole: Cost) -> float:
    """Return MAC/s of `models.training.loop.fit` on random samples, in CPU time: other programs do not count."""
    generator, order = torch.Generator().manual_seed(0), rng(0, Purpose.PROFILE)
    body = model.build(model.sizes, generator)
    n = TIMED_BATCHES * how.batch_size
    x = torch.rand(n, *model.input_shape, generator=generator)  # valid for an embedding, too
    y = torch.randint(model.sizes["classes"], (n,), generator=generator)
    fit(body, x, y, how, 1, order)  # the first pass also allocates memory
    samples, begun = 0, time.process_time()
    while (spent := time.process_time() - begun) < TIMED_S:
        fit(body, x, y, how, 1, order)
        samples += n
    return BACKWARD * whole.macs * samples / spent
