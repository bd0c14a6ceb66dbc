"""FjORD: a device trains all widths up to the one it can bear, by ordered dropout.

Horvath et al., "FjORD: Fair and Accurate Federated Learning under heterogeneous targets with Ordered Dropout",
NeurIPS 2021, arXiv:2102.13451.
"""

from dataclasses import replace

import numpy as np

from strategies.base import Task
from strategies.heterofl import HeteroFL


class FjORD(HeteroFL):
    """HeteroFL's widths; the device draws one of those up to its own for every batch, uniformly (3.1).

    Entries are averaged by examples over the devices that cover them (eq. 3). No masked loss. HeteroFL's scaler stays,
    which the original lacks: it acts where a network has no norms. Self-distillation (3.3) is used in the cloud, whose
    model the rounds start from, and not on devices, whose budget it would double.
    """

    reports = {"fjord": "delivered", "fjord+ft": "adapted"}

    def lesson(self, level: int) -> Task:
        task = self.part(level, self.plan.local_epochs)
        mean_macs = float(np.mean([price.macs for price in self.prices[level:]]))
        return replace(task, rates=self.rates[level:], cost=replace(task.cost, macs=mean_macs))


class FjORDPrior(FjORD):
    """FjORD whose devices correct for their class shares, as in `strategies.eclm_plus`."""

    reports = {"fjord-prior": "delivered", "fjord-prior+ft": "adapted"}
    masked = "prior"
