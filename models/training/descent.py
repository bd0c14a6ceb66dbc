"""Gradient descent inside the backward pass, for large linear maps.

The gradient of a map's weight is a product, ``back^T @ x``: it is added into the weight as it is computed and never
stored, which spares a pass over as much memory as the weight takes for each of storing, reading and freeing it. Exact
for plain SGD, where no step depends on another gradient, and as long as a map is used once in a pass.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.training.product import product


@dataclass(frozen=True)
class Descent:
    """A step of SGD: ``W <- (1 - lr * decay) W - lr * gradient``."""

    lr: float
    decay: float = 0.0

    def linear(self, x_BI: Tensor, weight_OI: Tensor, bias_O: Tensor) -> Tensor:
        """``x @ W^T + b``, whose backward pass takes the step of W; nothing is left in W's ``grad``.

        Raises:
            RuntimeError: in the backward pass, where W was used more than once.
        """
        return _Linear.apply(x_BI, weight_OI, bias_O, self)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, step: Descent) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.step = step
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, back: Tensor) -> tuple[Tensor | None, None, Tensor, None]:
        x, weight = ctx.saved_tensors
        into = product(back, weight.T) if ctx.needs_input_grad[0] else None
        weight.detach().addmm_(back.T, x, beta=1 - ctx.step.lr * ctx.step.decay, alpha=-ctx.step.lr)
        return into, None, back.sum(0), None
