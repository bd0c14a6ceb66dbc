"""IFCA: one model per cluster of clients; each client takes the one with the lowest loss on its data.

Ghosh et al., "An Efficient Framework for Clustered Federated Learning", NeurIPS 2020, arXiv:2006.04088, Algorithm 1
with model averaging (option II).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from models.costs import BACKWARD
from models.submodel import State
from partitions import Purpose, rng
from strategies.core.client import ClientTrainer, LocalModel
from strategies.core.clusters import Clustered, mean_losses
from strategies.core.strategy import Profile, TrainTask
from strategies.fedavg import Prior


class BestModel(ClientTrainer):
    """Works with the model that has the lowest loss on the client's training samples (Algorithm 1, line 6)."""

    chosen = 0  # cluster

    def select(self, state: State | None) -> LocalModel:
        if not self.task.tensors:
            return super().select(state)
        assert state is not None
        models = [state, *(self.task.tensors[str(k + 1)] for k in range(len(self.task.tensors)))]
        x, y = self.client.samples("train")
        losses = mean_losses(self, models, x, y)
        self.chosen = losses.index(min(losses))
        model = super().select(models[self.chosen])
        model.trial_macs = len(models) * len(y) * self.client.costs("dense").whole.macs
        return model

    def report(self, model: LocalModel, classes: Sequence[int]) -> dict[str, Any]:
        return super().report(model, classes) | ({"start": self.chosen} if self.task.tensors else {})


class IFCA(Clustered):
    """Every client is sent all models, in rounds and for use, and returns one. With one cluster it is FedAvg.

    The original starts from random models and is run several times. Here each model starts from the pretrained one plus
    noise of its own, and is weighted by examples, as in FedAvg.
    """

    reports = {"ifca": "delivered", "ifca+ft": "adapted"}
    section = "ifca"
    Client = BestModel

    class Options(Prior):
        clusters: int = Field(2, ge=1, le=64, description="number of models (k); 1: FedAvg")
        spread: float = Field(
            0.5, gt=0, description="noise in the first models, as a share of each parameter's root mean square"
        )

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.options.clusters > 1:
            self.clusters = {k: self._first(k) for k in range(self.options.clusters)}
            self.model = self.clusters[0]

    def _first(self, cluster: int) -> State:
        """Return the pretrained model plus the noise of a cluster; batch-norm statistics have none.

        The order of the draws is that of the network: the order of a state depends on whether the cache had it.
        """
        generator, state = rng(self.seed, Purpose.INIT, 3, cluster), dict(self.model)
        noise: dict[nn.Parameter, Tensor] = {}  # one for all names of a tied parameter
        for name, parameter in self.models.architectures["dense"].part({}).named_parameters(remove_duplicate=False):
            if parameter not in noise:
                drawn = generator.standard_normal(parameter.shape)
                noise[parameter] = torch.as_tensor(drawn, dtype=parameter.dtype)
            state[name] = state[name] + self.options.spread * state[name].square().mean().sqrt() * noise[parameter]
        return state

    def _all_models(self, profiles: Sequence[Profile], epochs: int, trial: float = 0.0) -> dict[int, TrainTask]:
        """Return tasks that carry every model, whose MACs per sample and epoch are ``trial`` passes more."""
        others = {str(k): state for k, state in self.clusters.items() if k}
        cost = self.models.costs["dense"].whole
        cost = replace(cost, macs=cost.macs * (1 + trial))
        return self.full_model([p.client for p in profiles], epochs, tensors=others, tensors_up=False, cost=cost)

    def configure_train(self, server_round: int, profiles: Sequence[Profile]) -> dict[int, TrainTask]:
        epochs, k = self.budget.local_epochs, len(self.clusters)
        return self._all_models(profiles, epochs, k / (BACKWARD * epochs) if k > 1 else 0.0)

    def configure_evaluate(self, profiles: Sequence[Profile]) -> dict[int, TrainTask]:
        return self._all_models(profiles, self.budget.adapt_epochs)

    def trial_macs(self, task: TrainTask | None) -> float:
        return len(self.clusters) * self.models.costs["dense"].whole.macs if task and task.tensors else 0.0
