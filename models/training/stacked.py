"""Linear maps of many clients as one stack: forward pass, backward pass, and updates that store no gradient.

The gradient of a weight is a product of inputs and output gradients, ``grad^T @ inputs``. An update adds it to the
weight (or its momentum) while computing it. Clipping needs its norm first, which follows from two products of batch
size (Goodfellow 2015, arXiv:1510.01799):

    |grad^T @ inputs|^2 = sum over pairs of samples of (inputs @ inputs^T) * (grad @ grad^T)

Shape suffixes: N clients, n clients that still train, B batch, I inputs, O outputs.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from models.training.loop import Recipe


class StackedParameter:
    """One parameter of N clients (N, O, I) with its optimizer state; its gradients are products."""

    def __init__(self, value: Tensor, recipe: Recipe):
        self.value, self.recipe, self.steps = value, recipe, 0
        self.slots = [torch.zeros_like(value) for _ in range(recipe.slots)]

    def step(self, left: Tensor, right: Tensor) -> None:
        """Update the first n clients with the gradients ``left @ right``, (n, O, B) and (n, B, I)."""
        recipe, n = self.recipe, left.shape[0]  # ten times faster than `len` of a tensor
        value, slots = self.value[:n], [slot[:n] for slot in self.slots]
        if recipe.optimizer == "adam":
            self._adam(torch.bmm(left, right), value, *slots)
        elif recipe.momentum:
            (velocity,) = slots
            velocity.baddbmm_(left, right, beta=recipe.momentum)
            if recipe.weight_decay:
                velocity.add_(value, alpha=recipe.weight_decay)
            value.add_(velocity, alpha=-recipe.lr)
        else:
            value.baddbmm_(left, right, beta=1 - recipe.lr * recipe.weight_decay, alpha=-recipe.lr)

    def _adam(self, gradient: Tensor, value: Tensor, first: Tensor, second: Tensor) -> None:
        """Apply Adam (Kingma, Ba 2015, arXiv:1412.6980) with torch's defaults."""
        self.steps += 1
        beta1, beta2, recipe = 0.9, 0.999, self.recipe
        if recipe.weight_decay:
            gradient.add_(value, alpha=recipe.weight_decay)
        first.lerp_(gradient, 1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        deviation = second.sqrt().div_(math.sqrt(1 - beta2**self.steps)).add_(1e-8)
        value.addcdiv_(first, deviation, value=-recipe.lr / (1 - beta1**self.steps))


def pad_stack(parts: Sequence[Tensor], longest: int) -> Tensor:
    """Stack the samples of all clients, padded with zeros: (N, longest, ...)."""
    if all(len(part) == longest for part in parts):
        return torch.stack(list(parts))
    out = parts[0].new_zeros(len(parts), longest, *parts[0].shape[1:])
    for row, part in zip(out, parts, strict=True):
        row[: len(part)] = part
    return out


def gather_rows(rows: Tensor, index_NB: Tensor) -> Tensor:
    """Return ``rows[index_NB]`` (N, B, ...) in a third of the time."""
    return rows.index_select(0, index_NB.flatten()).view(*index_NB.shape, *rows.shape[1:])


class StackedMap(ABC):
    """``x @ W^T + b`` for N clients. ``grad_out`` (n, B, O) is the gradient at the last output."""

    grad_out: Tensor

    def __init__(self, bias_NO: Tensor | None, recipe: Recipe):
        self.bias = None if bias_NO is None else StackedParameter(bias_NO.unsqueeze(1), recipe)

    def squared_norm(self) -> Tensor:
        """Return the squared gradient norm (n,) of weight and bias."""
        grad = self.grad_out
        norm = (self.input_gram() * (grad @ grad.mT)).sum((1, 2))
        return norm if self.bias is None else norm + grad.sum(1).square().sum(1)

    def step(self, scale: Tensor | None) -> None:
        """Take one step along the gradient times ``scale`` (n, 1, 1)."""
        grad = self.grad_out if scale is None else self.grad_out * scale
        self.update_weight(grad)
        if self.bias is not None:
            self.bias.step(grad.new_ones(grad.shape[0], 1, grad.shape[1]), grad)

    @abstractmethod
    def input_gram(self) -> Tensor:
        """Return the Gram matrices (n, B, B) of the last inputs."""

    @abstractmethod
    def update_weight(self, grad_NBO: Tensor) -> None:
        """Update the weight with the output gradients (n, B, O)."""

    def finish(self) -> None:
        """Complete the weights after the last step."""


class StackedLinear(StackedMap):
    """A stacked map of arbitrary inputs."""

    def __init__(self, weight_NOI: Tensor, bias_NO: Tensor | None, recipe: Recipe):
        super().__init__(bias_NO, recipe)
        self.weight = StackedParameter(weight_NOI, recipe)

    def __call__(self, x_NBI: Tensor) -> Tensor:
        self.inputs, n = x_NBI, x_NBI.shape[0]
        weight = self.weight.value[:n].mT
        return x_NBI @ weight if self.bias is None else torch.baddbmm(self.bias.value[:n], x_NBI, weight)

    def backward(self, grad_NBO: Tensor) -> Tensor:
        """Store the output gradients and return the gradient at the input, (n, B, I)."""
        self.grad_out = grad_NBO
        return grad_NBO @ self.weight.value[: grad_NBO.shape[0]]

    def input_gram(self) -> Tensor:
        return self.inputs @ self.inputs.mT

    def update_weight(self, grad_NBO: Tensor) -> None:
        self.weight.step(grad_NBO.mT, self.inputs)
