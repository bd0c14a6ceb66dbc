"""FedAvg: every client trains the whole model, the mean is weighted by examples.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017,
arXiv:1602.05629.
"""

from collections.abc import Sequence

from pydantic import Field

from partitions.components import Section
from strategies.core.averaging import Averaging
from strategies.core.server_step import ServerStep
from strategies.core.strategy import Profile, TrainTask


class Prior(Section):
    """The option of methods whose clients may correct logits by their class shares."""

    prior: bool = Field(
        False, description="clients correct logits by their class shares, in training and in use (arXiv:2007.07314)"
    )
    smooth: bool = Field(
        False, description="prior: estimate class shares by empirical Bayes, around those of the cloud's data (ours)"
    )


class FedAvg(Averaging):
    """w <- sum_k n_k w_k / sum_k n_k. It ignores what a client can afford, as the original does."""

    reports = {"fedavg": "delivered", "fedavg+ft": "adapted"}
    section = "fedavg"

    class Options(Prior, ServerStep):
        pass

    def configure_train(self, server_round: int, profiles: Sequence[Profile]) -> dict[int, TrainTask]:
        return self.full_model([p.client for p in profiles], self.budget.local_epochs)

    def configure_evaluate(self, profiles: Sequence[Profile]) -> dict[int, TrainTask]:
        return self.full_model([p.client for p in profiles], self.budget.adapt_epochs)


class FedAdam(FedAvg):
    """FedAvg whose server makes a step of Adam towards the mean."""

    reports = {"fedadam": "delivered", "fedadam+ft": "adapted"}
    preset = {"step": "adam"}


class FedAvgPrior(FedAvg):
    """FedAvg whose clients correct logits by their class shares."""

    reports = {"fedavg-prior": "delivered", "fedavg-prior+ft": "adapted"}
    preset = {"prior": True}
