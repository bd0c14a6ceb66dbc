"""SCAFFOLD: control variates correct the drift of clients that train on different data.

Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", ICML 2020, arXiv:1910.06378,
Algorithm 1 with option II.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import nn

from models.submodel import State
from strategies.core.averaging import Mean
from strategies.core.client import ClientTrainer, add_to_gradient
from strategies.core.strategy import Budget, Profile, TrainTask
from strategies.fedavg import FedAvg, Prior

VARIATE = "variate"


class Scaffold(FedAvg):
    """A client adds ``c - c_k`` to each gradient; ``c_k`` estimates its own gradient, ``c`` the mean of all clients.

    Models are averaged by examples, as in FedAvg; the original counts every client alike. With momentum m a step moves
    lr / (1 - m) times the gradient in the long run, so option II divides by that.
    """

    reports = {"scaffold": "delivered", "scaffold+ft": "adapted"}
    section = "scaffold"

    class Options(Prior):
        server_lr: float = Field(1.0, gt=0, description="step of the server towards the mean (eta_g)")

    @classmethod
    def check(cls, options: Any, budget: Budget) -> None:
        if budget.robust != "none":
            raise ValueError(f"server.robust = '{budget.robust}': scaffold has no robust aggregation; use 'none'")

    class Client(ClientTrainer):
        requires = frozenset({"sgd"})

        def begin(self) -> None:
            self.server = self.task.tensors.get(VARIATE, {})  # local adaptation gets none: it is not corrected
            zero, store = {n: torch.zeros_like(c) for n, c in self.server.items()}, self.client.store
            self.own = store.load(VARIATE) if store.holds(VARIATE) else zero
            self.terms = {name: c - self.own[name] for name, c in self.server.items()}

        def correct_gradients(self, parameters: Mapping[str, nn.Parameter], epoch: int) -> None:
            for name, parameter in parameters.items() if self.terms else ():
                add_to_gradient(parameter, self.terms[name])

        def upload(self, before: State, after: State) -> State:
            recipe, steps = self.client.recipe, math.ceil(self.client.examples / self.client.recipe.batch_size)
            length = self.task.epochs * steps * recipe.lr / (1 - recipe.momentum)
            new = {n: self.own[n] - c + (before[n] - after[n]) / length for n, c in self.server.items()}  # option II
            self.change = {name: value - self.own[name] for name, value in new.items()}
            self.client.store.save(VARIATE, new)
            return after

        def upload_tensors(self) -> Mapping[str, State]:
            return {VARIATE: self.change}

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        names = [name for name, _ in self.models.architectures["dense"].part({}).named_parameters()]
        self.variate: State = {name: torch.zeros_like(self.model[name]) for name in names}

    def configure_train(self, server_round: int, profiles: Sequence[Profile]) -> dict[int, TrainTask]:
        clients = [p.client for p in profiles]
        return self.full_model(clients, self.budget.local_epochs, tensors={VARIATE: self.variate})

    def aggregator(self) -> Mean:
        return Mean(self.axes, self.model, tensors=(VARIATE,))

    def server_update(self, server_round: int, aggregate: Mean) -> None:
        before, rate, changes = self.model, self.options.server_lr, aggregate.tensors[VARIATE].total
        super().server_update(server_round, aggregate)
        if rate != 1:
            self.model |= {n: before[n] + rate * (self.model[n] - before[n]) for n in self.variate}
        self.variate = {n: c + (changes[n] / self.budget.clients).to(c.dtype) for n, c in self.variate.items()}

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {VARIATE: self.variate}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.variate = state[VARIATE]
