"""Adaptive-FedAvg: clients learn faster while the aggregated model varies more, as it does after a drift.

Canonaco et al., "Adaptive Federated Learning in Presence of Concept Drift", IJCNN 2021, Algorithm 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from models.training.loop import Recipe
from strategies.core.averaging import Mean
from strategies.core.client import ClientTrainer
from strategies.core.strategy import Profile, TrainTask
from strategies.fedavg import FedAvg, Prior

LR = "lr-share"  # option of a task: the learning rate over that of the run-config


class ScaledRate(ClientTrainer):
    """Trains with the learning rate that the server chose; local adaptation has that of the run-config."""

    def recipe(self, recipe: Recipe) -> Recipe:
        return replace(recipe, lr=recipe.lr * self.task.options.get(LR, 1.0))


class AdaptiveFedAvg(FedAvg):
    """After aggregation t, with w_t (n,) all parameters of the model, hats without the bias of the first values, as in
    Adam, and the mean over all n parameters:

        mu_t    = beta1 mu_{t-1} + (1 - beta1) w_t
        sigma_t = beta2 sigma_{t-1} + (1 - beta2) mean((w_t - mu^_{t-1})^2)
        gamma_t = beta3 gamma_{t-1} + (1 - beta3) sigma^_t / sigma^_{t-1}
        lr      = min(lr_0, lr_0 gamma^_t / t)

    mu^_0 is the pretrained model, where the original has 0. Without ``adapt`` it is FedAvg.
    """

    reports = {"adaptive-fedavg": "delivered", "adaptive-fedavg+ft": "adapted"}
    section = "adaptive-fedavg"
    Client = ScaledRate

    class Options(Prior):
        adapt: bool = Field(True, description="adapt the clients' learning rate; without: FedAvg")
        beta1: float = Field(0.5, ge=0, lt=1, description="decay of the mean of the model")
        beta2: float = Field(0.5, ge=0, lt=1, description="decay of the variance of the model")
        beta3: float = Field(0.5, ge=0, lt=1, description="decay of the ratio of variances")

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.names = [name for name, _ in self.models.architectures["dense"].part({}).named_parameters()]
        self.t, self.lr_share = 0, 1.0
        self.mean, self.variance, self.ratio = self._parameters() * 0, 0.0, 0.0

    def _parameters(self) -> Tensor:
        """Return (n,) all parameters of the model."""
        return torch.cat([self.model[name].double().reshape(-1) for name in self.names])

    def configure_train(self, server_round: int, profiles: Sequence[Profile]) -> dict[int, TrainTask]:
        options = self.client_options(**{LR: self.lr_share})
        return self.full_model([p.client for p in profiles], self.budget.local_epochs, options=options)

    def server_update(self, server_round: int, aggregate: Mean) -> None:
        o, t = self.options, self.t
        expected = self.mean / (1 - o.beta1**t) if t else self._parameters()
        before = self.variance / (1 - o.beta2**t) if t else 0.0
        super().server_update(server_round, aggregate)
        if not o.adapt:
            return
        model, self.t = self._parameters(), t + 1
        self.mean = o.beta1 * self.mean + (1 - o.beta1) * model
        self.variance = o.beta2 * self.variance + (1 - o.beta2) * float((model - expected).square().mean())
        now = self.variance / (1 - o.beta2**self.t)
        self.ratio = o.beta3 * self.ratio + (1 - o.beta3) * (now / before if before else 1.0)
        self.lr_share = min(1.0, self.ratio / (1 - o.beta3**self.t) / self.t)

    def state_dict(self) -> dict[str, Any]:
        moments = {"mean": self.mean, "variance": self.variance, "ratio": self.ratio}
        return super().state_dict() | {"t": self.t, LR: self.lr_share} | moments

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.t, self.lr_share, self.mean = state["t"], state[LR], state["mean"]
        self.variance, self.ratio = state["variance"], state["ratio"]
