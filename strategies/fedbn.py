"""FedBN: normalisation layers stay on the client, everything else is averaged.

Li et al., "FedBN: Federated Learning on Non-IID Features via Local Batch Normalization", ICLR 2021, arXiv:2102.07623.
"""

from abc import ABC, abstractmethod

from models.nn.blocks import is_norm
from models.nn.body import Body
from models.submodel import State
from strategies.core.client import ClientTrainer, LocalModel
from strategies.fedavg import FedAvg, Prior

LOCAL = "local"  # file of the entries that a client keeps


class LocalEntries(ClientTrainer, ABC):
    """A client half that keeps some entries of the model. Before its first round a client uses those of the server."""

    @abstractmethod
    def local_entries(self, network: Body) -> set[str]:
        """Name the entries of ``network.state_dict()`` that stay on the client."""

    def select(self, state: State | None) -> LocalModel:
        model = super().select(state)
        if self.client.store.holds(LOCAL):
            model.state = model.state | self.client.store.load(LOCAL)
        return model

    def upload(self, before: State, after: State) -> State:
        """Keep the local entries. In their place the server gets back what it sent, so that its mean stays."""
        assert self.task.state is not None
        local = self.local_entries(self.model.network)
        if local:
            self.client.store.save(LOCAL, {name: after[name] for name in sorted(local)})
        return {name: self.task.state[name] if name in local else value for name, value in after.items()}


class FedBN(FedAvg):
    """FedAvg whose clients keep parameters and statistics of their normalisation layers."""

    reports = {"fedbn": "delivered", "fedbn+ft": "adapted"}
    section = "fedbn"

    class Options(Prior):
        pass

    class Client(LocalEntries):
        def local_entries(self, network: Body) -> set[str]:
            norms = [(path, module) for path, module in network.named_modules() if is_norm(module)]
            return {f"{path}.{name}" for path, module in norms for name in module.state_dict()}
