"""Train the first linear map of a network by coefficients in the samples instead of by its weight.

By the representer theorem, updates of a map of the raw inputs are sums of inputs, whatever layers follow. Each step of
SGD, with or without momentum, adds multiples of the batch's inputs to every row of the weight. After any number of
steps, ``W = c W_0 + A^T X`` with coefficients A of the client's L samples X. Its output is

    X W^T = c (X W_0^T) + (X X^T) A

Both products in brackets are computed once, at the start. A step then costs as much as the batch, and the weight is not
touched. The weight is assembled at the end. An epoch takes ``2 L L O`` operations instead of ``4 L I O``. It needs the
memory of A and of the kernel ``X X^T``. The weight, which exceeds the CPU cache, is not accessed.

Shape suffixes: N clients, n clients that still train, L samples of each, B batch, I inputs, O outputs.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.training.loop import Recipe
from models.training.product import product
from models.training.stacked import StackedMap, gather_rows, pad_stack

# Samples per client; clients with fewer get rows of zeros. For smaller products the library uses other code, with which
# the last bits of a client's result would depend on the other clients.
MIN_SAMPLES = 16


def dual_is_cheaper(samples: int, inputs: int, outputs: int, recipe: Recipe, epochs: int) -> bool:
    """Decide whether coefficients need fewer multiplications than the weight. Adam's steps are no sums of inputs."""
    setup = 2 * inputs * outputs + samples * inputs
    return recipe.optimizer == "sgd" and setup + epochs * samples * outputs < 2 * epochs * inputs * outputs


class Kernel:
    """The samples of N clients and their Gram matrices.

    Args:
        x_NLI: samples, padded with zeros.
        counts: number of samples of each client.
    """

    def __init__(self, x_NLI: Tensor, counts: Sequence[int]):
        self.x, self.valid = x_NLI, [x[:n] for x, n in zip(x_NLI, counts, strict=True)]
        rows = x_NLI.new_zeros(*x_NLI.shape[:2], x_NLI.shape[1])
        for row, x in zip(rows, self.valid, strict=True):
            row[: len(x), : len(x)] = product(x, x)
        self.rows = rows.flatten(0, 1)  # (N * L, L)

    def select(self, index_NB: Tensor) -> Tensor:
        """Return the kernel rows (n, B, L) of the next batch of the first n clients.

        Args:
            index_NB: (n, B) sample numbers, counted through all clients.
        """
        self.index, self.selected = index_NB, gather_rows(self.rows, index_NB)
        return self.selected

    def batch_gram(self) -> Tensor:
        """Return the Gram matrices (n, B, B) of the samples in the batch."""
        n, size = self.index.shape
        index_in_client = self.index - self.x.shape[1] * torch.arange(n)[:, None]
        return self.selected.gather(2, index_in_client[:, None].expand(n, size, size))


class DualLinear(StackedMap):
    """A stacked map of the samples of a kernel.

    Args:
        weights: weight of each client, last axis I; `finish` replaces them with the trained ones.
        bias_NO: (N, O), or None.
        recipe: hyper-parameters.
        kernel: the samples.
    """

    def __init__(self, weights: list[Tensor], bias_NO: Tensor | None, recipe: Recipe, kernel: Kernel):
        super().__init__(bias_NO, recipe)
        self.weights, self.recipe, self.kernel = weights, recipe, kernel
        outputs = [product(x, weight.flatten(0, -2)) for x, weight in zip(kernel.valid, weights, strict=True)]
        initial = pad_stack(outputs, kernel.x.shape[1])
        self.initial = initial.flatten(0, 1)  # (N * L, O), X W_0^T
        self.decay = initial.new_ones(len(outputs), 1, 1)  # c, the factor of W_0 after weight decay
        self.coefficients = torch.zeros_like(initial)  # A
        if recipe.momentum:
            self.decay_velocity, self.velocity = torch.zeros_like(self.decay), torch.zeros_like(self.coefficients)

    def __call__(self, selected_NBL: Tensor) -> Tensor:
        """Compute the outputs (n, B, O) of the batch that the kernel selected."""
        n, initial = selected_NBL.shape[0], gather_rows(self.initial, self.kernel.index)
        if self.recipe.weight_decay:
            initial *= self.decay[:n]
        if self.bias is not None:
            initial += self.bias.value[:n]
        return initial.baddbmm_(selected_NBL, self.coefficients[:n])

    def input_gram(self) -> Tensor:
        return self.kernel.batch_gram()

    def update_weight(self, grad_NBO: Tensor) -> None:
        recipe, n = self.recipe, grad_NBO.shape[0]
        index, grad = self.kernel.index.flatten(), grad_NBO.flatten(0, 1)
        decay, coefficients = self.decay[:n], self.coefficients[:n]
        if recipe.momentum:
            decay_velocity = self.decay_velocity[:n].mul_(recipe.momentum)
            velocity = self.velocity[:n].mul_(recipe.momentum)
            velocity.flatten(0, 1).index_add_(0, index, grad)
            if recipe.weight_decay:
                decay_velocity.add_(decay, alpha=recipe.weight_decay)
                velocity.add_(coefficients, alpha=recipe.weight_decay)
            decay.sub_(decay_velocity, alpha=recipe.lr)
            coefficients.sub_(velocity, alpha=recipe.lr)
        else:
            if recipe.weight_decay:
                decay.mul_(1 - recipe.lr * recipe.weight_decay)
                coefficients.mul_(1 - recipe.lr * recipe.weight_decay)
            coefficients.flatten(0, 1).index_add_(0, index, grad, alpha=-recipe.lr)

    def finish(self) -> None:
        for i, (x, weight) in enumerate(zip(self.kernel.valid, self.weights, strict=True)):
            coefficients = product(self.coefficients[i, : len(x)].T, x.T).view_as(weight)
            self.weights[i] = coefficients.add_(weight * self.decay[i] if self.recipe.weight_decay else weight)
