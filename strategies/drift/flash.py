"""FLASH: an adaptive server optimiser that takes longer steps after a drift, and clients that stop early.

Panchal et al., "Flash: Concept Drift Adaptation in Federated Learning", ICML 2023, Algorithm 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from models.costs import Cost
from strategies.core.client import ClientTrainer, LocalModel
from strategies.core.server_step import Adaptive, Moments, Step, first_moments
from strategies.core.strategy import TrainTask
from strategies.fedavg import FedAvg, Prior


class EarlyStop(ClientTrainer):
    """Ends a round's training after epoch e if the loss fell by less than ``early-stop`` / e in it."""

    loss, epochs = float("inf"), 0  # of the last epoch; how many there were

    @property
    def batchable(self) -> bool:
        return not (self.training and self.options.early_stop)

    def stops(self, epoch: int, loss: float) -> bool:
        if self.batchable:
            return False
        fell, self.loss, self.epochs = self.loss - loss, loss, epoch
        return fell < self.options.early_stop / epoch

    def report(self, model: LocalModel, classes: Sequence[int]) -> dict[str, Any]:
        return super().report(model, classes) | ({"epochs": self.epochs} if self.epochs else {})


def flash(o: Adaptive, change: Tensor, old: Moments) -> tuple[Tensor, Moments]:
    """With D (n,) the mean change of a parameter, m and v as in `first_moments`, and d_0 = 0:

        b   = v_{t-1} / (|D^2 - v_t| + v_{t-1})
        d_t = b d_{t-1} + (1 - b) (D^2 - v_t)
        w   = w + server-lr m_t / (sqrt(v_t) - d_t + tau)

    The divisor is at least tau; the original's may reach 0.
    """
    m, v, v_old = first_moments(o, change, old)
    square = change.square()
    b = torch.where(v_old > 0, v_old / ((square - v).abs() + v_old), (square == v).double())
    d = b * old.get("d", torch.zeros_like(change)) + (1 - b) * (square - v)
    return o.server_lr * m / (v.sqrt() - d + o.tau).clamp(min=o.tau), {"m": m, "v": v, "d": d}


class Flash(FedAvg):
    """The server's step is `flash`; statistics of norms are averaged. Clients watch their training loss, the original's
    a validation loss. With beta2 = 0, d stays 0 and it is FedAdam; with beta1 = beta2 = early-stop = 0 and server-lr =
    tau far above any D it is FedAvg.
    """

    reports = {"flash": "delivered", "flash+ft": "adapted"}
    section = "flash"
    Client = EarlyStop

    class Options(Prior, Adaptive):
        early_stop: float = Field(
            0.01, ge=0, description="clients stop after epoch e if their loss fell by less than this / e; 0: never"
        )

    @property
    def server_step(self) -> Step:
        return flash

    def cost(self, task: TrainTask, report: Mapping[str, Any]) -> Cost:
        """Return the cost of the epochs that a client trained; of all if it reports none that are possible."""
        epochs = report.get("epochs")
        trained = epochs if isinstance(epochs, int) and 0 < epochs <= task.epochs else task.epochs
        return replace(task.cost, macs=task.cost.macs * trained / task.epochs) if task.epochs else task.cost
