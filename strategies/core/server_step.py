"""What the server does with the mean of the updates: take it over, or make a step of its own towards it."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from partitions.components import Section

Moments = Mapping[str, Tensor]
Step = Callable[[Any, Tensor, Moments], tuple[Tensor, Moments]]
"""``step(options, change, moments)`` of a parameter returns how it moves and its new moments, all (n,) and in double
precision. ``change`` is that of the mean; before the first step there are no moments."""


class Adaptive(Section):
    """Options of an adaptive step."""

    server_lr: float = Field(0.01, gt=0, description="adaptive server: length of a step (eta)")
    beta1: float = Field(0.9, ge=0, lt=1, description="adaptive server: decay of the mean change")
    beta2: float = Field(0.99, ge=0, lt=1, description="adaptive server: decay of its square")
    tau: float = Field(0.001, gt=0, description="adaptive server: smallest divisor of a step")


class ServerStep(Adaptive):
    """Options of methods whose server may make a step of its own."""

    step: Literal["mean", "adam"] = Field(
        "mean", description="server: take over the mean of the updates, or make a step of Adam towards it (FedAdam)"
    )


def first_moments(o: Adaptive, change: Tensor, old: Moments) -> tuple[Tensor, Tensor, Tensor]:
    """Return m_t, v_t and v_{t-1}, with m_0 = 0 and v_0 = tau^2:

    m_t = beta1 m_{t-1} + (1 - beta1) D
    v_t = beta2 v_{t-1} + (1 - beta2) D^2
    """
    v_old = old.get("v", torch.full_like(change, o.tau**2))
    m = o.beta1 * old.get("m", torch.zeros_like(change)) + (1 - o.beta1) * change
    return m, o.beta2 * v_old + (1 - o.beta2) * change.square(), v_old


def adam(o: ServerStep, change: Tensor, old: Moments) -> tuple[Tensor, Moments]:
    """FedAdam (Reddi et al., "Adaptive Federated Optimization", ICLR 2021, arXiv:2003.00295, Algorithm 2).

    With D (n,) the mean change of a parameter, and m and v as in `first_moments`:

        w = w + server-lr m_t / (sqrt(v_t) + tau)

    What no client trained does not change, nor do its moments. Modules that are trained in some rounds do not move on
    in the others.
    """
    m, v, v_old = first_moments(o, change, old)
    trained = change != 0
    step = torch.where(trained, o.server_lr * m / (v.sqrt() + o.tau), 0)
    return step, {"m": torch.where(trained, m, old.get("m", 0.0)), "v": torch.where(trained, v, v_old)}
