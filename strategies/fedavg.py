"""FedAvg: every device trains the whole model, the mean is weighted by examples.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017,
arXiv:1602.05629.
"""

from collections.abc import Sequence

from strategies.base import Averaging, Profile, Task


class FedAvg(Averaging):
    """w <- sum_k n_k w_k / sum_k n_k. It ignores what a device can bear, as the original does."""

    reports = {"fedavg": "delivered", "fedavg+ft": "adapted"}

    def tasks(self, round_: int, profiles: Sequence[Profile]) -> dict[int, Task]:
        return self._whole([p.device for p in profiles], self.plan.local_epochs)

    def deliver(self, profiles: Sequence[Profile]) -> dict[int, Task]:
        return self._whole([p.device for p in profiles], self.plan.adapt_epochs)


class FedAvgPrior(FedAvg):
    """FedAvg whose devices correct for their class shares, as in `strategies.eclm_plus`."""

    reports = {"fedavg-prior": "delivered", "fedavg-prior+ft": "adapted"}
    masked = "prior"
