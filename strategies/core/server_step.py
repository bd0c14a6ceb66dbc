"""What the server does with the mean of the updates: take it over, or make a step of its own towards it."""

from typing import Literal

import torch
from pydantic import Field

from models.submodel import State
from partitions.components import Section


class ServerStep(Section):
    """Options of methods whose server may make a step of its own."""

    step: Literal["mean", "adam"] = Field(
        "mean", description="server: take over the mean of the updates, or make a step of Adam towards it (FedAdam)"
    )
    server_lr: float = Field(0.01, gt=0, description="step adam: length of a step (eta)")
    beta1: float = Field(0.9, ge=0, lt=1, description="step adam: decay of the mean change")
    beta2: float = Field(0.99, ge=0, lt=1, description="step adam: decay of its square")
    tau: float = Field(0.001, gt=0, description="step adam: added to the divisor of a step")


class Adam:
    """FedAdam (Reddi et al., "Adaptive Federated Optimization", ICLR 2021, arXiv:2003.00295, Algorithm 2).

    With D (n,) the mean change of the parameters, entry by entry:

        m_t = beta1 m_{t-1} + (1 - beta1) D
        v_t = beta2 v_{t-1} + (1 - beta2) D^2
        w   = w + server-lr m_t / (sqrt(v_t) + tau)

    with m_0 = 0 and v_0 = tau^2. What no client trained does not change, nor do its moments. Modules
    that are trained in some rounds do not move on in the others.

    Attributes:
        moments: m and v, by parameter, in double precision.
    """

    def __init__(self, options: ServerStep):
        self.options = options
        self.moments: dict[str, State] = {"m": {}, "v": {}}

    def __call__(self, before: State, mean: State, names: list[str]) -> State:
        """Return the named parameters after a step from ``before`` towards ``mean``, and keep the new moments."""
        o, old = self.options, self.moments
        moments: dict[str, State] = {"m": {}, "v": {}}
        moved: State = {}
        for name in names:
            w = before[name].double()
            change = mean[name].double() - w
            m = old["m"].get(name, torch.zeros_like(w))
            v = old["v"].get(name, torch.full_like(w, o.tau**2))
            trained = change != 0
            m = torch.where(trained, o.beta1 * m + (1 - o.beta1) * change, m)
            v = torch.where(trained, o.beta2 * v + (1 - o.beta2) * change.square(), v)
            step = torch.where(trained, o.server_lr * m / (v.sqrt() + o.tau), 0)
            moved[name] = (w + step).to(before[name].dtype)
            moments["m"][name], moments["v"][name] = m, v
        self.moments = moments
        return moved
