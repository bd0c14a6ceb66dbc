"""AdaBN: before a client uses the global model, batch norm takes the statistics of the client's inputs.

Li et al., "Revisiting Batch Normalization For Practical Domain Adaptation", ICLR 2017 workshop, arXiv:1603.04779.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from models.elastic.nested import recalibrate_batch_norm
from models.nn.body import Body
from models.submodel import State
from strategies.core.client import ClientTrainer, LocalModel
from strategies.core.strategy import Profile, TrainTask
from strategies.fedavg import FedAvg, Prior

TEST_TIME = "test-time"  # option of a task: adapt to the client's inputs first


class AdaptedToInputs(ClientTrainer):
    """Adapts the model to the client's fresh inputs before it is used; no label is read."""

    @staticmethod
    def passes(options: Any) -> float:
        """Return how many forward passes of a sample the adaptation costs."""
        return 1.0

    def select(self, state: State | None) -> LocalModel:
        model = super().select(state)
        if self.task.options.get(TEST_TIME):
            x, _ = self.client.samples("train")
            self.adapt(model.loaded(), x)
            model.state = model.network.state()
            model.trial_macs = self.passes(self.options) * len(x) * self.client.costs("dense").whole.macs
        return model

    def adapt(self, network: Body, x: Tensor) -> None:
        """Change a network in place, given inputs (n, ...)."""
        recalibrate_batch_norm(network, x)


class AdaBN(FedAvg):
    """FedAvg in rounds. Without batch norm it is FedAvg in use, too.

    The inputs are those of the client's current training samples, which have the distribution of the test samples.
    """

    reports = {"adabn": "delivered", "adabn+ft": "adapted"}
    section = "adabn"
    Client: ClassVar[type[AdaptedToInputs]] = AdaptedToInputs

    class Options(Prior):
        pass

    def configure_evaluate(self, profiles: Sequence[Profile]) -> dict[int, TrainTask]:
        options = self.client_options(**{TEST_TIME: True})
        return self.full_model([p.client for p in profiles], self.budget.adapt_epochs, options=options)

    def trial_macs(self, task: TrainTask | None) -> float:
        return self.Client.passes(self.options) * self.models.costs["dense"].whole.macs if task else 0.0
