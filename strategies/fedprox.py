"""FedProx: local training is held near the model that was sent by a proximal term.

Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020, arXiv:1812.06127, eq. 2.
"""

from collections.abc import Mapping

from pydantic import Field
from torch import nn

from strategies.core.client import ClientTrainer, add_to_gradient
from strategies.fedavg import FedAvg, Prior


class Proximal(ClientTrainer):
    """Adds the gradient of ``weight / 2 * ||w - w_sent||^2`` in rounds, not in local adaptation."""

    @property
    def weight(self) -> float:
        return self.options.mu if self.training else 0.0

    @property
    def batchable(self) -> bool:
        return not self.weight

    def correct_gradients(self, parameters: Mapping[str, nn.Parameter], epoch: int) -> None:
        assert self.task.state is not None
        for name, parameter in parameters.items() if self.weight else ():
            add_to_gradient(parameter, self.weight * (parameter.detach() - self.task.state[name].to(parameter.device)))


class FedProx(FedAvg):
    """FedAvg whose clients minimise their loss plus the proximal term. With mu = 0 it is FedAvg."""

    reports = {"fedprox": "delivered", "fedprox+ft": "adapted"}
    section = "fedprox"
    Client = Proximal

    class Options(Prior):
        mu: float = Field(0.01, ge=0, description="weight of the proximal term; 0: FedAvg")
