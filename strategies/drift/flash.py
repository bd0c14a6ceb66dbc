"""FLASH: an adaptive server optimiser that takes longer steps after a drift, and clients that stop early.

Panchal et al., "Flash: Concept Drift Adaptation in Federated Learning", ICML 2023, Algorithm 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from pydantic import Field

from models.costs import Cost
from models.submodel import State
from strategies.core.averaging import Mean
from strategies.core.client import ClientTrainer, LocalModel
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


class Flash(FedAvg):
    """With D (n,) the mean change of the parameters, entry by entry:

        m_t = beta1 m_{t-1} + (1 - beta1) D
        v_t = beta2 v_{t-1} + (1 - beta2) D^2
        b   = v_{t-1} / (|D^2 - v_t| + v_{t-1})
        d_t = b d_{t-1} + (1 - b) (D^2 - v_t)
        w   = w + server-lr m_t / (sqrt(v_t) - d_t + tau)

    with m_0 = d_0 = 0 and v_0 = tau^2. Statistics of norms are averaged. The divisor is at least tau; the original's
    may reach 0. Clients watch their training loss, the original's a validation loss. With beta2 = 0, d stays 0 and it
    is FedAdam; with beta1 = beta2 = early-stop = 0 and server-lr = tau far above any D it is FedAvg.
    """

    reports = {"flash": "delivered", "flash+ft": "adapted"}
    section = "flash"
    Client = EarlyStop

    class Options(Prior):
        server_lr: float = Field(0.01, gt=0, description="step of the server (eta)")
        beta1: float = Field(0.9, ge=0, lt=1, description="decay of the mean change")
        beta2: float = Field(0.99, ge=0, lt=1, description="decay of its square")
        tau: float = Field(0.001, gt=0, description="smallest divisor of a step")
        early_stop: float = Field(
            0.01, ge=0, description="clients stop after epoch e if their loss fell by less than this / e; 0: never"
        )

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        network = self.models.architectures["dense"].part({})
        names = [name for name, _ in network.named_parameters(remove_duplicate=False)]  # all of a tied parameter
        zero: State = {name: torch.zeros_like(self.model[name], dtype=torch.float64) for name in names}
        self.moments = {"m": zero, "v": {name: z + self.options.tau**2 for name, z in zero.items()}, "d": zero}

    def server_update(self, server_round: int, aggregate: Mean) -> None:
        o, old, before = self.options, self.moments, self.model
        super().server_update(server_round, aggregate)
        moments: dict[str, State] = {"m": {}, "v": {}, "d": {}}
        moved: State = {}
        for name in old["m"]:
            w = before[name].double()
            change = self.model[name].double() - w
            square, v_old = change.square(), old["v"][name]
            m = o.beta1 * old["m"][name] + (1 - o.beta1) * change
            v = o.beta2 * v_old + (1 - o.beta2) * square
            b = torch.where(v_old > 0, v_old / ((square - v).abs() + v_old), (square == v).double())
            d = b * old["d"][name] + (1 - b) * (square - v)
            step = o.server_lr * m / (v.sqrt() - d + o.tau).clamp(min=o.tau)
            moved[name] = (w + step).to(before[name].dtype)
            moments["m"][name], moments["v"][name], moments["d"][name] = m, v, d
        self.moments, self.model = moments, self.model | moved

    def cost(self, task: TrainTask, report: Mapping[str, Any]) -> Cost:
        """Return the cost of the epochs that a client trained; of all if it reports none that are possible."""
        epochs = report.get("epochs")
        trained = epochs if isinstance(epochs, int) and 0 < epochs <= task.epochs else task.epochs
        return replace(task.cost, macs=task.cost.macs * trained / task.epochs) if task.epochs else task.cost

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"moments": self.moments}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.moments = state["moments"]
