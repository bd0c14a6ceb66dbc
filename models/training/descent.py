"""SGD updates inside the backward pass, for large linear maps.

The gradient of a weight is a product, ``grad_out^T @ x``. The backward pass adds it to the weight while computing it
and never stores it. This saves one pass over the weight's memory for each of storing, reading and freeing the gradient.
It is exact for plain SGD, whose updates do not depend on other gradients, if each map is used once per pass.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.training.product import product


@dataclass(frozen=True)
class Descent:
    """An SGD update: ``W <- (1 - lr * decay) W - lr * gradient``."""

    lr: float
    decay: float = 0.0

    def linear(self, x_BI: Tensor, weight_OI: Tensor, bias_O: Tensor) -> Tensor:
        """Compute ``x @ W^T + b``; the backward pass updates W in place and leaves no gradient in ``W.grad``.

        Raises:
            RuntimeError: in the backward pass, if W was used more than once.
        """
        return _Linear.apply(x_BI, weight_OI, bias_O, self)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, step: Descent) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.step = step
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, None, Tensor, None]:
        x, weight = ctx.saved_tensors
        grad_x = product(grad_out, weight.T) if ctx.needs_input_grad[0] else None
        weight.detach().addmm_(grad_out.T, x, beta=1 - ctx.step.lr * ctx.step.decay, alpha=-ctx.step.lr)
        return grad_x, None, grad_out.sum(0), None
