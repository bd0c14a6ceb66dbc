"""Linear maps of many devices side by side: forwards, backwards, and steps that store no gradient.

The gradient of a weight is a product of what went in and what came back, ``back^T @ in``, so it is added into the
weight (or its momentum) as it is computed, and its norm, which clipping needs first, follows from two products of the
size of a batch (Goodfellow 2015, arXiv:1510.01799):

    |back^T @ in|^2 = sum over pairs of samples of (in @ in^T) * (back @ back^T)

Shape suffixes: N devices, B batch, I inputs, O outputs.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from models.training.loop import Recipe


class Products:
    """A parameter of each of N devices (N, O, I) whose gradients are products, with what its optimizer keeps."""

    def __init__(self, value: Tensor, recipe: Recipe):
        self.value, self.recipe, self.steps = value, recipe, 0
        self.kept = [torch.zeros_like(value) for _ in range(recipe.slots)]

    def step(self, left: Tensor, right: Tensor) -> None:
        """One step of the first n devices by the gradients ``left @ right``, (n, O, B) and (n, B, I)."""
        how, n = self.recipe, left.shape[0]  # `len` of a tensor takes ten times as long
        value, kept = self.value[:n], [slot[:n] for slot in self.kept]
        if how.optimizer == "adam":
            self._adam(torch.bmm(left, right), value, *kept)
        elif how.momentum:
            (velocity,) = kept
            velocity.baddbmm_(left, right, beta=how.momentum)
            if how.weight_decay:
                velocity.add_(value, alpha=how.weight_decay)
            value.add_(velocity, alpha=-how.lr)
        else:
            value.baddbmm_(left, right, beta=1 - how.lr * how.weight_decay, alpha=-how.lr)

    def _adam(self, gradient: Tensor, value: Tensor, first: Tensor, second: Tensor) -> None:
        """Kingma, Ba 2015 (arXiv:1412.6980), with torch's defaults."""
        self.steps += 1
        beta1, beta2, how = 0.9, 0.999, self.recipe
        if how.weight_decay:
            gradient.add_(value, alpha=how.weight_decay)
        first.lerp_(gradient, 1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        deviation = second.sqrt().div_(math.sqrt(1 - beta2**self.steps)).add_(1e-8)
        value.addcdiv_(first, deviation, value=-how.lr / (1 - beta1**self.steps))


def side_by_side(parts: Sequence[Tensor], longest: int) -> Tensor:
    """(N, longest, ...): the samples of every device, filled up with zeros."""
    if all(len(part) == longest for part in parts):
        return torch.stack(list(parts))
    out = parts[0].new_zeros(len(parts), longest, *parts[0].shape[1:])
    for row, part in zip(out, parts, strict=True):
        row[: len(part)] = part
    return out


def gathered(rows: Tensor, at_NB: Tensor) -> Tensor:
    """(N, B, ...) ``rows[at_NB]``, in a third of the time."""
    return rows.index_select(0, at_NB.flatten()).view(*at_NB.shape, *rows.shape[1:])


class Map(ABC):
    """``x @ W^T + b`` for N devices at once. ``returned`` (n, B, O) is the gradient at what came out of it last."""

    returned: Tensor

    def __init__(self, bias_NO: Tensor | None, recipe: Recipe):
        self.bias = None if bias_NO is None else Products(bias_NO.unsqueeze(1), recipe)

    def squared_norm(self) -> Tensor:
        """(N,) of the gradient of weight and bias."""
        back = self.returned
        norm = (self.alike() * (back @ back.mT)).sum((1, 2))
        return norm if self.bias is None else norm + back.sum(1).square().sum(1)

    def step(self, scale: Tensor | None) -> None:
        """One step along the gradient, times ``scale`` (N, 1, 1)."""
        back = self.returned if scale is None else self.returned * scale
        self.descend(back)
        if self.bias is not None:
            self.bias.step(back.new_ones(back.shape[0], 1, back.shape[1]), back)

    @abstractmethod
    def alike(self) -> Tensor:
        """(n, B, B) the products of what went in last, with each other."""

    @abstractmethod
    def descend(self, back_NBO: Tensor) -> None:
        """The step of the weight."""

    def finish(self) -> None:
        """After the last step: bring the weights up to date."""


class Linear(Map):
    """A map of whatever comes in."""

    def __init__(self, weight_NOI: Tensor, bias_NO: Tensor | None, recipe: Recipe):
        super().__init__(bias_NO, recipe)
        self.weight = Products(weight_NOI, recipe)

    def __call__(self, x_NBI: Tensor) -> Tensor:
        self.into, n = x_NBI, x_NBI.shape[0]
        weight = self.weight.value[:n].mT
        return x_NBI @ weight if self.bias is None else torch.baddbmm(self.bias.value[:n], x_NBI, weight)

    def back(self, returned_NBO: Tensor) -> Tensor:
        """The gradient at the input, (N, B, I)."""
        self.returned = returned_NBO
        return returned_NBO @ self.weight.value[: returned_NBO.shape[0]]

    def alike(self) -> Tensor:
        return self.into @ self.into.mT

    def descend(self, back_NBO: Tensor) -> None:
        self.weight.step(back_NBO.mT, self.into)
