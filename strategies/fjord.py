"""FjORD: a client trains all widths up to the one that it can afford, by ordered dropout.

Horvath et al., "FjORD: Fair and Accurate Federated Learning under heterogeneous targets with Ordered Dropout",
NeurIPS 2021, arXiv:2102.13451.
"""

from dataclasses import replace

import numpy as np

from models.elastic.nested import ordered_dropout
from models.nn.body import Body
from strategies.core.server_step import ServerStep
from strategies.core.strategy import TrainTask
from strategies.fedavg import Prior
from strategies.heterofl import HeteroFL


class FjORD(HeteroFL):
    """HeteroFL's widths; the client draws one of those up to its own for every batch, uniformly (3.1).

    Entries are averaged by examples over the clients that cover them (eq. 3). No masked loss. HeteroFL's scaler stays,
    which the original lacks: it acts where a network has no norms. Self-distillation (3.3) is used in the cloud, whose
    model the rounds start from, and not on clients, whose budget it would double.
    """

    reports = {"fjord": "delivered", "fjord+ft": "adapted"}
    section = "fjord"

    class Options(Prior, ServerStep):
        pass

    class Client(HeteroFL.Client):
        requires = HeteroFL.Client.requires | {"batch-statistics"}  # those of a narrower width are nowhere kept

        @property
        def batchable(self) -> bool:
            return "rates" not in self.task.options

        def training_network(self, network: Body, generator: np.random.Generator) -> Body:
            rates = self.task.options.get("rates")
            if not rates:
                return network
            return ordered_dropout(self.client.architecture(self.task), network, rates, generator)

    def train_task(self, level: int) -> TrainTask:
        task = self.part(level, self.budget.local_epochs, rates=list(self.rates[level:]))
        mean_macs = float(np.mean([price.macs for price in self.prices[level:]]))
        return replace(task, cost=replace(task.cost, macs=mean_macs))


class FjORDPrior(FjORD):
    """FjORD whose clients correct logits by their class shares."""

    reports = {"fjord-prior": "delivered", "fjord-prior+ft": "adapted"}
    preset = {"prior": True}
