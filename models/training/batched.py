"""Devices side by side: sub-models of the same sizes, each on its own data, trained as one stack.

What `models.training.loop.fit` does device by device, with two savings: one batched matrix product serves all devices of a
stack, and no gradient of a weight is ever stored (`models.training.stacked`); the first map may be trained without touching its
weight at all (`models.training.dual`).

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
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.nn.body import Body, home
from models.nn.mlp import MLP
from models.submodel import State
from models.training.dual import LEAST, Dual, Kernel, worth
from models.training.loop import LogitCorrection, Recipe, mask
from models.training.stacked import Linear, Map, gathered, side_by_side

# Measured on a CPU, of plain SGD, momentum and Adam on perceptrons of 0.01 to 0.7 MB: a stack takes the least time per
# device where its weights, and what the optimizer keeps of them, are about this large. Larger ones leave the cache.
STACK_BYTES = 6e6
STACK_MOST = 32


@dataclass(frozen=True)
class ClientBatch:
    """What one device starts from and learns from; see `models.training.loop.fit` for x, y, generator, gates and shares."""

    state: Mapping[str, Tensor]
    x: Tensor
    y: Tensor
    generator: np.random.Generator
    gates: Sequence[Tensor] | None = None
    shares: Tensor | None = None


class Perceptrons:
    """N of `models.nn.mlp.MLP`, forwards and backwards.

    Args:
        states: of each; x_NLI: what they learn from, with zeros after a device's own samples; counts: of these.
        gated: whether there will be gates; dual: the maps of the inputs are trained by coefficients.
    """

    def __init__(
        self,
        body: Body,
        states: Sequence[Mapping[str, Tensor]],
        x_NLI: Tensor,
        counts: Sequence[int],
        recipe: Recipe,
        gated: bool,
        dual: bool,
    ):
        assert isinstance(body, MLP)
        self.rate, self.x = body.rate, x_NLI.flatten(0, 1)
        self.kernel = Kernel(x_NLI, counts) if dual else None
        self.bypass = gated and body.block.bypass is not None and body.block.bypass.held == 1
        of_inputs = {"block.first", "block.bypass.map"} if self.bypass else {"block.first"}
        self.state = own = dict[str, Any]()  # by name: of each device, as a tensor or, where `Dual` makes it, a list
        for name in body.state_dict():
            those = [state[name] for state in states]
            own[name] = those if dual and name in of_inputs else torch.stack(those)
        self.modules, self.hidden, _ = states[0]["block.first"].shape
        self.first = self._of_inputs("block.first", own["block.first_bias"].flatten(1), recipe)
        self.second = Linear(own["block.second"].flatten(2), own["block.bias"], recipe)
        self.head = Linear(own["head.weight"], own["head.bias"], recipe)
        self.maps: list[Map] = [self.first, self.second, self.head]
        self.around: Linear | Dual | None = None  # the map of the residual module
        if self.bypass and "block.bypass.map" in own:
            self.around = self._of_inputs("block.bypass.map", None, recipe)
            self.maps.append(self.around)

    def _of_inputs(self, name: str, bias: Tensor | None, recipe: Recipe) -> Linear | Dual:
        weights = self.state[name]
        if self.kernel is not None:
            return Dual(weights, bias, recipe, self.kernel)
        return Linear(weights.flatten(1, -2), bias, recipe)

    @staticmethod
    def dual(body: Body, samples: int, recipe: Recipe, epochs: int) -> bool:
        """Whether a device of so many samples is trained the faster by coefficients."""
        modules, hidden, inputs = body.state_dict()["block.first"].shape
        return worth(samples, inputs, modules * hidden, recipe, epochs)

    @staticmethod
    def busy(body: Body, samples: int, recipe: Recipe, dual: bool) -> int:
        """Bytes that each step of a device goes through."""
        state = body.state_dict()
        weight, trained = state["block.first"], sum(value.nbytes for value in state.values())
        if not dual:
            return (1 + recipe.slots) * trained
        kernel, out = (samples * n * weight.element_size() for n in (samples, weight[..., 0].numel()))
        return kernel + out + (1 + recipe.slots) * (trained - weight.nbytes + out)

    def forward(self, at_NB: Tensor, gates: Sequence[Tensor] | None) -> Tensor:
        """Logits (N, B, classes) of samples by number, counted on from device to device."""
        into = gathered(self.x, at_NB) if self.kernel is None else self.kernel.take(at_NB)
        self.gates = None if gates is None else gates[0][..., : self.modules]
        self.inner = self._gated(self.first(into)).relu_()
        h = self.second(self.inner)
        if gates is not None and self.bypass:
            self.residual = gates[0][..., self.modules :]
            h += (gathered(self.x, at_NB) if self.around is None else self.around(into)) * self.residual
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


def stackable(body: Body, recipe: Recipe) -> bool:
    """Whether networks like ``body`` can be trained side by side. The passes written out are a CPU's, in float32."""
    return type(body) in STACKS and recipe.precision == "float32" and home(body).type == "cpu"


def fit_many(
    body: Body, lessons: Sequence[ClientBatch], recipe: Recipe, epochs: int, masking: LogitCorrection = "none"
) -> list[tuple[State, float]]:
    """Train networks like ``body``, one for each lesson.

    Returns:
        For each lesson, the trained state and the mean training loss of the last epoch (NaN without any epochs).
    """
    kind = STACKS[type(body)]
    ranked = sorted(range(len(lessons)), key=lambda i: -len(lessons[i].y))
    out: dict[int, tuple[State, float]] = {}
    for dual in (False, True):
        alike = [i for i in ranked if kind.dual(body, len(lessons[i].y), recipe, epochs) == dual]
        if not alike:
            continue
        most = STACK_BYTES / kind.busy(body, len(lessons[alike[0]].y), recipe, dual)
        stacks = -(-len(alike) // int(min(max(most, 1), STACK_MOST)))  # of nearly the same size
        for those in np.array_split(np.array(alike), stacks):
            trained = _fit_stack(body, [lessons[i] for i in those], recipe, epochs, masking, dual)
            out |= dict(zip(those.tolist(), trained, strict=True))
    return [out[i] for i in range(len(lessons))]


@torch.no_grad()
def _fit_stack(
    body: Body, lessons: Sequence[ClientBatch], recipe: Recipe, epochs: int, masking: LogitCorrection, dual: bool
) -> list[tuple[State, float]]:
    """The lessons come with the most samples first."""
    longest, gated = max(len(lessons[0].y), LEAST), lessons[0].gates is not None
    x = side_by_side([one.x.flatten(1) for one in lessons], longest)
    y = side_by_side([one.y for one in lessons], longest).flatten()
    stack = STACKS[type(body)](
        body, [one.state for one in lessons], x, [len(one.y) for one in lessons], recipe, gated, dual
    )
    gates = None
    if gated:
        layers = zip(*[one.gates or () for one in lessons], strict=True)
        gates = [side_by_side(layer, longest).flatten(0, 1) for layer in layers]
    shares = None if lessons[0].shares is None else torch.stack([one.shares for one in lessons])[:, None]  # type: ignore[misc]
    rows, counts = _plan(lessons, recipe.batch_size, epochs, longest)
    own = torch.arange(recipe.batch_size) < counts[..., None]
    weights = own.to(x.dtype) / counts.clamp(min=1)[..., None]
    losses, minus = x.new_zeros(counts.shape), -x.new_ones(*rows.shape[1:], 1)
    steps, present = (counts > 0).sum(0), (counts > 0).sum(1).tolist()
    begun = steps - steps // max(epochs, 1)  # the last epoch
    told = int(begun.min())  # losses before are nobody's last
    for t, (n, labels) in enumerate(zip(present, y[rows].unsqueeze(3), strict=True)):
        at, labels = rows[t, :n], labels[:n]
        logits = stack.forward(at, gates and [gathered(layer, at) for layer in gates])
        scores = mask(logits, None if shares is None else shares[:n], masking).log_softmax(2)
        if t >= told:
            losses[t, :n] = -scores.gather(2, labels).where(own[t, :n, :, None], 0).sum((1, 2))
        back = scores.exp().scatter_add_(2, labels, minus[:n]).mul_(weights[t, :n, :, None])
        if shares is not None and masking == "zero":
            back.masked_fill_(shares[:n] == 0, 0.0)
        stack.backward(back)
        scale = None
        if recipe.clip:
            norm = sum(each.squared_norm() for each in stack.maps).clamp(min=0).sqrt()  # type: ignore[union-attr]
            scale = (recipe.clip / (norm + 1e-6)).clamp(max=1)[:, None, None]
        for each in stack.maps:
            each.step(scale)
    for each in stack.maps:
        each.finish()
    out = []
    for i, lesson in enumerate(lessons):
        loss = float(losses[begun[i] : steps[i], i].sum()) / len(lesson.y) if epochs else math.nan
        out.append(({name: value[i] for name, value in stack.state.items()}, loss))
    return out


def _plan(lessons: Sequence[ClientBatch], size: int, epochs: int, longest: int) -> tuple[Tensor, Tensor]:
    """Which rows of `side_by_side` each device uses in each step, (steps, N, size), and how many of them, (steps, N).

    Rows beyond a short batch repeat the device's first sample, steps beyond its last are empty.
    """
    most = epochs * -(-longest // size)
    rows, counts = np.zeros((most, len(lessons), size), np.int64), np.zeros((most, len(lessons)), np.int64)
    for i, lesson in enumerate(lessons):
        n = len(lesson.y)
        own = np.minimum(size, n - size * np.arange(-(-n // size)))  # of each step of an epoch
        orders = np.zeros((epochs, len(own) * size), np.int64)
        for order in orders:
            order[:n] = lesson.generator.permutation(n)
        rows[: epochs * len(own), i] = orders.reshape(-1, size) + i * longest
        counts[: epochs * len(own), i] = np.tile(own, epochs)
    return torch.from_numpy(rows), torch.from_numpy(counts)
