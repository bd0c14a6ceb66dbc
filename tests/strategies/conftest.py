"""Rounds in memory: clients with a few samples each, without messages, files or engines."""

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.costs import CostModel
from models.nn.mlp import mlp
from models.submodel import State
from models.training.loop import Recipe, Score, fit, score
from strategies.core.client import ClientTask, ClientTrainer, Limits, LocalModel
from strategies.core.strategy import Budget, Profile, Strategy, TrainTask, Update


@dataclass
class Store:
    """Keeps a client's states in memory."""

    states: dict[str, State] = field(default_factory=dict)

    def save(self, name: str, state: State) -> None:
        self.states[name] = {key: value.clone() for key, value in state.items()}

    def load(self, name: str) -> State:
        return self.states[name]

    def holds(self, name: str) -> bool:
        return name in self.states


@dataclass
class Client:
    """A client with a few samples, which trains by the plain loop.

    Args:
        before: samples of the step before.
        prices: costs of its models, if it counts what a trial takes.
    """

    network: nn.Module
    x: Tensor
    y: Tensor
    recipe: Recipe
    number: int = 0
    seed: int = 0
    store: Store = field(default_factory=Store)
    step: int = 0
    before: tuple[Tensor, Tensor] | None = None
    prices: CostModel | None = None

    @property
    def examples(self) -> int:
        return len(self.y)

    def samples(self, split: str, step: int | None = None) -> tuple[Tensor, Tensor]:
        if step is None or step == self.step:
            return self.x, self.y
        assert step == self.step - 1 and self.before is not None
        return self.before

    def moves_on(self, x: Tensor, y: Tensor) -> None:
        """Has other samples from now on."""
        self.before, self.step, self.x, self.y = (self.x, self.y), self.step + 1, x, y

    def costs(self, name: str) -> CostModel:
        assert self.prices is not None
        return self.prices

    def load(self, task: ClientTask, state: State) -> LocalModel:
        return LocalModel(state, state, self.network)

    def score(self, trainer: ClientTrainer, model: LocalModel, x: Tensor, y: Tensor) -> Score:
        return score(model.loaded(), x, y, 3)

    def fit(self, trainer: ClientTrainer, model: LocalModel) -> float:
        network = trainer.training_network(model.loaded(), np.random.default_rng(0))
        trainer.begin()
        loss = fit(
            network, self.x, self.y, trainer.recipe(self.recipe), trainer.task.epochs, np.random.default_rng(7),
            correct_gradients=trainer.correct_gradients, stops=trainer.stops,
        )  # fmt: skip
        model.state = model.network.state()
        return loss


def received(task: TrainTask) -> ClientTask:
    """Return a task as the client gets it."""
    return ClientTask(
        epochs=task.epochs, upload=task.upload, keep=task.keep, options=task.options, state=task.model.state,
        tensors=task.tensors,
    )  # fmt: skip


def asked(method: Strategy, clients: Mapping[int, Client]) -> list[Profile]:
    """Return the clients' answers to a query."""
    if method.asks == "nothing":
        return [Profile(client) for client in clients]
    profiles = []
    for number, client in clients.items():
        for name, state in method.shared_state().items():
            client.store.save(name, state)
        report = type(method).Client(method.options, ClientTask(), client).profile()
        profiles.append(method.read_profile(number, Limits(1e9, 1e9, 1e9), report))
    return profiles


def round_of(method: Strategy, clients: Mapping[int, Client], server_round: int = 1) -> dict[int, LocalModel]:
    """Play a round in memory, as workload and server do; return each client's trained model.

    Updates are aggregated in two parts, as two worker processes would.
    """
    tasks = method.configure_train(server_round, asked(method, clients))
    parts: list[Any] = [pickle.loads(pickle.dumps(method.aggregator())) for _ in range(2)]
    models = {}
    for number, client in clients.items():
        task = tasks[number]
        trainer = type(method).Client(method.options, received(task), client, training=True)
        models[number] = model = trainer.select(task.model.state)
        before = model.state
        client.fit(trainer, model)
        if task.keep:
            trainer.keep(model, model.updated())
        state, report = trainer.upload(before, model.state) if task.upload else {}, trainer.report(model, ())
        update = Update(number, state, client.examples, report, trainer.upload_tensors())
        parts[number % 2].check(task.without_state(), update)
        parts[number % 2].add(task.without_state(), update)
    parts[0].merge(parts[1])
    method.server_update(server_round, parts[0])
    return models


SGD = Recipe(lr=0.1, batch_size=4, momentum=0.0)


@pytest.fixture
def make(models_maker: Callable, budget: Budget) -> Callable[..., tuple[Any, dict[int, Client]]]:
    """Makes a method on a network, and two clients with different samples."""

    def _make(kind: type[Strategy], dense: Any = None, recipe: Recipe = SGD, samples: int = 8, **options: Any) -> Any:
        dense = dense or mlp((6,), 3, width=16)
        models = models_maker(dense=dense)
        method = kind(models, budget, 3, kind.Options(**{**kind.preset, **options}))
        generator = torch.Generator().manual_seed(5)
        clients = {}
        for number in (0, 1):
            x = torch.randn(samples, *dense.input_shape, generator=generator)
            y = torch.randint(3, (samples,), generator=generator)
            clients[number] = Client(dense.part({}), x, y, recipe, number, prices=models.costs["dense"])
        return method, clients

    return _make


def same(one: State, other: State, exact: bool = True) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(
            one[name], other[name], rtol=0 if exact else 1e-5, atol=0 if exact else 1e-6, msg=name
        )
