"""The first map of a network, trained by its coefficients in the data instead of by its weight.

What a map of the inputs themselves learns is a sum of inputs, whatever the layers behind it do (the representer
theorem): each step of SGD, with momentum or not, adds multiples of the batch's inputs to every row of the weight. So
after any number of steps ``W = c W_0 + A^T X`` for coefficients A of the device's L samples X, and what comes out is

    X W^T = c (X W_0^T) + (X X^T) A

where both products in brackets are made once, in the beginning. In between, a step is of the size of the batch and the
weight is not touched; in the end it is put together. An epoch takes ``2 L L O`` operations instead of ``4 L I O``, and
the memory of A and of the kernel ``X X^T`` instead of that of the weight, which does not stay in the cache.

Shape suffixes: N devices, L samples of each, B batch, I inputs, O outputs.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.training.loop import Recipe
from models.training.product import product
from models.training.stacked import Map, gathered, side_by_side

# Samples of a device; it has rows of zeros if there are fewer. Smaller products take another way through the library,
# on which a device's last bits would depend on its neighbours.
LEAST = 16


def worth(samples: int, inputs: int, outputs: int, recipe: Recipe, epochs: int) -> bool:
    """Whether coefficients take fewer multiplications than the weight. Adam's steps are no sums of inputs."""
    once = 2 * inputs * outputs + samples * inputs
    return recipe.optimizer == "sgd" and once + epochs * samples * outputs < 2 * epochs * inputs * outputs


class Kernel:
    """The samples of N devices, and how alike those of a device are.

    Args:
        x_NLI: zeros after a device's own; counts: how many of its own each has.
    """

    def __init__(self, x_NLI: Tensor, counts: Sequence[int]):
        self.x, self.own = x_NLI, [x[:n] for x, n in zip(x_NLI, counts, strict=True)]
        rows = x_NLI.new_zeros(*x_NLI.shape[:2], x_NLI.shape[1])
        for row, x in zip(rows, self.own, strict=True):
            row[: len(x), : len(x)] = product(x, x)
        self.rows = rows.flatten(0, 1)  # (N * L, L)

    def take(self, at_NB: Tensor) -> Tensor:
        """(n, B, L) of the next batch of the first n devices: samples by number, counted on from device to device."""
        self.at, self.taken = at_NB, gathered(self.rows, at_NB)
        return self.taken

    def among(self) -> Tensor:
        """(n, B, B) of the samples of the batch with each other."""
        n, size = self.at.shape
        own = self.at - self.x.shape[1] * torch.arange(n)[:, None]
        return self.taken.gather(2, own[:, None].expand(n, size, size))


class Dual(Map):
    """A map of the samples of a kernel.

    Args:
        weights: of each device, whose last axis is I; `finish` replaces them by the trained ones.
    """

    def __init__(self, weights: list[Tensor], bias_NO: Tensor | None, recipe: Recipe, kernel: Kernel):
        super().__init__(bias_NO, recipe)
        self.weights, self.recipe, self.kernel = weights, recipe, kernel
        outs = [product(x, weight.flatten(0, -2)) for x, weight in zip(kernel.own, weights, strict=True)]
        began = side_by_side(outs, kernel.x.shape[1])
        self.began = began.flatten(0, 1)  # (N * L, O), X W_0^T
        self.left = began.new_ones(len(outs), 1, 1)  # c, what decay left of W_0
        self.learnt = torch.zeros_like(began)  # A
        if recipe.momentum:
            self.left_speed, self.speed = torch.zeros_like(self.left), torch.zeros_like(self.learnt)

    def __call__(self, taken_NBL: Tensor) -> Tensor:
        """For the batch that the kernel took."""
        n, began = taken_NBL.shape[0], gathered(self.began, self.kernel.at)
        if self.recipe.weight_decay:
            began *= self.left[:n]
        if self.bias is not None:
            began += self.bias.value[:n]
        return began.baddbmm_(taken_NBL, self.learnt[:n])

    def alike(self) -> Tensor:
        return self.kernel.among()

    def descend(self, back_NBO: Tensor) -> None:
        how, n = self.recipe, back_NBO.shape[0]
        at, back = self.kernel.at.flatten(), back_NBO.flatten(0, 1)
        left, learnt = self.left[:n], self.learnt[:n]
        if how.momentum:
            left_speed, speed = self.left_speed[:n].mul_(how.momentum), self.speed[:n].mul_(how.momentum)
            speed.flatten(0, 1).index_add_(0, at, back)
            if how.weight_decay:
                left_speed.add_(left, alpha=how.weight_decay)
                speed.add_(learnt, alpha=how.weight_decay)
            left.sub_(left_speed, alpha=how.lr)
            learnt.sub_(speed, alpha=how.lr)
        else:
            if how.weight_decay:
                left.mul_(1 - how.lr * how.weight_decay)
                learnt.mul_(1 - how.lr * how.weight_decay)
            learnt.flatten(0, 1).index_add_(0, at, back, alpha=-how.lr)

    def finish(self) -> None:
        for i, (x, weight) in enumerate(zip(self.kernel.own, self.weights, strict=True)):
            learnt = product(self.learnt[i, : len(x)].T, x.T).view_as(weight)
            self.weights[i] = learnt.add_(weight * self.left[i] if self.recipe.weight_decay else weight)
