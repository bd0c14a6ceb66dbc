"""Devices side by side: sub-models of the same sizes, each on its own data, trained as one stack.

What `models.train.fit` does device by device, with two savings: one batched matrix product serves all devices of a
stack, and no gradient of a weight is ever stored. That gradient is a product of what went in and what came back,
``back^T @ in``, so it is added into the weight (or its momentum) as it is computed, and its norm, which clipping needs
first, follows from two products of the size of a batch (Goodfellow 2015, arXiv:1510.01799):

    |back^T @ in|^2 = sum over pairs of samples of (in @ in^T) * (back @ back^T)

This needs passes written out by hand, so it is there for the networks in `STACKS` alone. On a CPU it pays where a model
is small: convolutions keep a core busy as they are. Devices may have different numbers of samples: a short batch is
filled up with rows that weigh nothing, and those with the fewest steps leave the stack first. A device's samples come
in the order of `fit`, and the outcome differs from its by rounding alone. It does not depend on a device's neighbours:
every product has the same shape whoever is in the stack (bit for bit where a weight takes a multiple of 64 bytes).

Shape suffixes: N devices, B batch, I inputs, O outputs, M modules held, R residual modules held (0 or 1).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.axes import State
from models.body import Body
from models.mlp import MLP
from models.train import Masking, Recipe, mask

# Measured on a CPU, of plain SGD, momentum and Adam on perceptrons of 0.01 to 0.7 MB: a stack takes the least time per
# device where its weights, and what the optimizer keeps of them, are about this large. Larger ones leave the cache.
STACK_BYTES = 6e6
STACK_MOST = 32


@dataclass(frozen=True)
class Lesson:
    """What one device starts from and learns from; see `models.train.fit` for x, y, generator, gates and shares."""

    state: Mapping[str, Tensor]
    x: Tensor
    y: Tensor
    generator: np.random.Generator
    gates: Sequence[Tensor] | None = None
    shares: Tensor | None = None


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


class Linear:
    """``x @ W^T + b`` for N devices at once; remembers what the step needs."""

    def __init__(self, weight_NOI: Tensor, bias_NO: Tensor | None, recipe: Recipe):
        self.weight = Products(weight_NOI, recipe)
        self.bias = None if bias_NO is None else Products(bias_NO.unsqueeze(1), recipe)

    def __call__(self, x_NBI: Tensor) -> Tensor:
        self.into, n = x_NBI, x_NBI.shape[0]
        weight = self.weight.value[:n].mT
        return x_NBI @ weight if self.bias is None else torch.baddbmm(self.bias.value[:n], x_NBI, weight)

    def back(self, returned_NBO: Tensor) -> Tensor:
        """The gradient at the input, (N, B, I)."""
        self.returned = returned_NBO
        return returned_NBO @ self.weight.value[: returned_NBO.shape[0]]

    def squared_norm(self) -> Tensor:
        """(N,) of the gradient of weight and bias."""
        into, back = self.into, self.returned
        norm = ((into @ into.mT) * (back @ back.mT)).sum((1, 2))
        return norm if self.bias is None else norm + back.sum(1).square().sum(1)

    def step(self, scale: Tensor | None) -> None:
        """One step along the gradient, times ``scale`` (N, 1, 1)."""
        back = self.returned if scale is None else self.returned * scale
        self.weight.step(back.mT, self.into)
        if self.bias is not None:
            self.bias.step(back.new_ones(back.shape[0], 1, back.shape[1]), back)


class Perceptrons:
    """N of `models.mlp.MLP`, forwards and backwards."""

    def __init__(self, body: Body, states: Sequence[Mapping[str, Tensor]], recipe: Recipe, gated: bool):
        assert isinstance(body, MLP)
        self.rate = body.rate
        self.state = own = {name: torch.stack([state[name] for state in states]) for name in body.state_dict()}
        _, self.modules, self.hidden, _ = own["block.first"].shape
        self.first = Linear(own["block.first"].flatten(1, 2), own["block.first_bias"].flatten(1), recipe)
        self.second = Linear(own["block.second"].flatten(2), own["block.bias"], recipe)
        self.head = Linear(own["head.weight"], own["head.bias"], recipe)
        self.linears = [self.first, self.second, self.head]
        self.bypass = gated and body.block.bypass is not None and body.block.bypass.held == 1
        self.around: Linear | None = None  # the map of the residual module
        if self.bypass and "block.bypass.map" in own:
            self.around = Linear(own["block.bypass.map"].squeeze(1), None, recipe)
            self.linears.append(self.around)

    def forward(self, x_NBI: Tensor, gates: Sequence[Tensor] | None) -> Tensor:
        """Logits (N, B, classes)."""
        self.gates = None if gates is None else gates[0][..., : self.modules]
        self.inner = self._gated(self.first(x_NBI)).relu_()
        h = self.second(self.inner)
        if gates is not None and self.bypass:
            self.residual = gates[0][..., self.modules :]
            h += (x_NBI if self.around is None else self.around(x_NBI)) * self.residual
        self.outer = h.relu_()
        return self.head(self.outer if self.rate == 1 else self.outer / self.rate)

    def backward(self, back: Tensor) -> None:
        """From the gradient at the logits (N, B, classes) to that of every parameter."""
        back = relu_backward(self.head.back(back), self.outer, 0)
        back = back if self.rate == 1 else back / self.rate
        if self.around is not None:
            self.around.returned = back * self.residual
        back = self.second.back(back)
        self.first.returned = self._gated(relu_backward(back, self.inner, 0))

    def _gated(self, h_NBH: Tensor) -> Tensor:
        """The hidden units of every module times its gate, in place."""
        if self.gates is not None:
            h_NBH.view(*h_NBH.shape[:2], self.modules, self.hidden).mul_(self.gates[..., None])
        return h_NBH


relu_backward = torch.ops.aten.threshold_backward


STACKS: dict[type[Body], type[Perceptrons]] = {MLP: Perceptrons}
"""How the networks of a class are stacked; a class derived from one of these may compute otherwise."""


def stackable(body: Body) -> bool:
    """Whether networks like ``body`` can be trained side by side."""
    return type(body) in STACKS


def fit_many(
    body: Body, lessons: Sequence[Lesson], recipe: Recipe, epochs: int, masking: Masking = "none"
) -> list[tuple[State, float]]:
    """Train networks like ``body``, one for each lesson.

    Returns:
        For each lesson, the trained state and the mean training loss of the last epoch (NaN without any epochs).
    """
    most = STACK_BYTES / ((1 + recipe.slots) * sum(value.nbytes for value in lessons[0].state.values()))
    ranked = sorted(range(len(lessons)), key=lambda i: -len(lessons[i].y))
    stacks = -(-len(lessons) // int(min(max(most, 1), STACK_MOST)))  # of nearly the same size
    out: dict[int, tuple[State, float]] = {}
    for those in np.array_split(np.array(ranked), stacks):
        trained = _fit_stack(body, [lessons[i] for i in those], recipe, epochs, masking)
        out |= dict(zip(those.tolist(), trained, strict=True))
    return [out[i] for i in range(len(lessons))]


@torch.no_grad()
def _fit_stack(
    body: Body, lessons: Sequence[Lesson], recipe: Recipe, epochs: int, masking: Masking
) -> list[tuple[State, float]]:
    """The lessons come with the most samples first."""
    stack = STACKS[type(body)](body, [one.state for one in lessons], recipe, lessons[0].gates is not None)
    longest = len(lessons[0].y)
    x, y = (
        _side_by_side([one.x.flatten(1) for one in lessons], longest),
        _side_by_side([one.y for one in lessons], longest),
    )
    gates = None
    if lessons[0].gates is not None:
        layers = zip(*[one.gates or () for one in lessons], strict=True)
        gates = [_side_by_side(layer, longest) for layer in layers]
    shares = None if lessons[0].shares is None else torch.stack([one.shares for one in lessons])[:, None]  # type: ignore[misc]
    rows, counts = _plan(lessons, recipe.batch_size, epochs, longest)
    weights = (torch.arange(recipe.batch_size) < counts[..., None]).to(x.dtype) / counts.clamp(min=1)[..., None]
    losses = x.new_zeros(counts.shape)
    steps = (counts > 0).sum(1)
    present = (counts > 0).sum(0).tolist()
    for t, n in enumerate(present):
        at, weight = rows[:n, t], weights[:n, t, :, None]
        labels = y[at].unsqueeze(2)
        logits = stack.forward(x[at], gates and [layer[at] for layer in gates])
        scores = mask(logits, None if shares is None else shares[:n], masking).log_softmax(2)
        losses[:n, t] = -scores.gather(2, labels).where(weight > 0, 0).sum((1, 2))
        back = scores.exp().scatter_add_(2, labels, scores.new_full(labels.shape, -1.0)).mul_(weight)
        if shares is not None and masking == "zero":
            back.masked_fill_(shares[:n] == 0, 0.0)
        stack.backward(back)
        scale = None
        if recipe.clip:
            norm = sum(linear.squared_norm() for linear in stack.linears).clamp(min=0).sqrt()  # type: ignore[union-attr]
            scale = (recipe.clip / (norm + 1e-6)).clamp(max=1)[:, None, None]
        for linear in stack.linears:
            linear.step(scale)
    out = []
    for i, lesson in enumerate(lessons):
        taken = int(steps[i])
        last = taken - taken // epochs if epochs else 0
        loss = float(losses[i, last:taken].sum()) / len(lesson.y) if epochs else math.nan
        out.append(({name: value[i] for name, value in stack.state.items()}, loss))
    return out


def _side_by_side(parts: Sequence[Tensor], longest: int) -> Tensor:
    """(N * longest, ...): the samples of every device, filled up with zeros."""
    out = parts[0].new_zeros(len(parts), longest, *parts[0].shape[1:])
    for row, part in zip(out, parts, strict=True):
        row[: len(part)] = part
    return out.flatten(0, 1)


def _plan(lessons: Sequence[Lesson], size: int, epochs: int, longest: int) -> tuple[Tensor, Tensor]:
    """Which rows of `_side_by_side` each step of each device uses, (N, steps, size), and how many of them, (N, steps).

    Rows beyond a short batch repeat the device's first sample, steps beyond its last are empty.
    """
    most = epochs * -(-longest // size)
    rows, counts = np.zeros((len(lessons), most, size), np.int64), np.zeros((len(lessons), most), np.int64)
    for i, lesson in enumerate(lessons):
        n = len(lesson.y)
        own = np.minimum(size, n - size * np.arange(-(-n // size)))  # of each step of an epoch
        orders = np.zeros((epochs, len(own) * size), np.int64)
        for order in orders:
            order[:n] = lesson.generator.permutation(n)
        rows[i, : epochs * len(own)] = orders.reshape(-1, size) + i * longest
        counts[i, : epochs * len(own)] = np.tile(own, epochs)
    return torch.from_numpy(rows), torch.from_numpy(counts)
