"""Train many clients' small models as one stack: equal sub-model sizes, different weights and data.

The result is that of `models.training.loop.fit` per client, computed faster in two ways. One batched matrix product
serves all clients of a stack, and weight gradients are never stored (`models.training.stacked`). The first map may be
trained without touching its weight at all (`models.training.dual`).

This needs hand-written forward and backward passes, so it covers only the networks in `STACKS`. On a CPU it pays for
small models; convolutions already use a core fully. Clients may have different numbers of samples: short batches are
padded with rows of weight zero, and clients with fewer steps leave the stack earlier. A client's samples have the same
order as in `fit`, so results differ from `fit` only by rounding. They do not depend on the other clients: every product
has the same shape for any stack (bit for bit if a weight takes a multiple of 64 bytes).

Shape suffixes: N clients, B batch, I inputs, O outputs, M modules, R residual modules (0 or 1).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.nn.body import Body, device_of
from models.nn.mlp import MLP
from models.submodel import State
from models.training.dual import MIN_SAMPLES, DualLinear, Kernel, dual_is_cheaper
from models.training.loop import LogitCorrection, Recipe, correct_logits
from models.training.stacked import StackedLinear, StackedMap, gather_rows, pad_stack

# Measured on a CPU for plain SGD, momentum and Adam on perceptrons of 0.01 to 0.7 MB: a stack is fastest per client if
# its weights and optimizer state have about this size. Larger stacks exceed the CPU cache.
STACK_BYTES = 6e6
MAX_STACK = 32


@dataclass(frozen=True)
class ClientBatch:
    """Initial model and data of one client.

    Args:
        state: initial parameters.
        x, y, generator, gates, class_shares: as in `models.training.loop.fit`.
    """

    state: Mapping[str, Tensor]
    x: Tensor
    y: Tensor
    generator: np.random.Generator
    gates: Sequence[Tensor] | None = None
    class_shares: Tensor | None = None


class StackedMLP:
    """N of `models.nn.mlp.MLP`, with forward and backward pass.

    Args:
        body: a network of the same sizes.
        states: parameters of each client.
        x_NLI: training samples, padded with zeros.
        counts: number of samples of each client.
        recipe: hyper-parameters.
        gated: whether `forward` will get gates.
        dual: train the maps of the inputs by coefficients.
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
        self.bypass = gated and body.block.bypass is not None and body.block.bypass.count == 1
        input_maps = {"block.first", "block.bypass.map"} if self.bypass else {"block.first"}
        self.state = parameters = dict[str, Any]()  # name -> stacked tensor, or list of tensors for `DualLinear`
        for name in body.state_dict():
            weights = [state[name] for state in states]
            parameters[name] = weights if dual and name in input_maps else torch.stack(weights)
        self.modules, self.hidden, _ = states[0]["block.first"].shape
        self.first = self._input_map("block.first", parameters["block.first_bias"].flatten(1), recipe)
        self.second = StackedLinear(parameters["block.second"].flatten(2), parameters["block.bias"], recipe)
        self.head = StackedLinear(parameters["head.weight"], parameters["head.bias"], recipe)
        self.maps: list[StackedMap] = [self.first, self.second, self.head]
        self.bypass_map: StackedLinear | DualLinear | None = None  # map of the residual module
        if self.bypass and "block.bypass.map" in parameters:
            self.bypass_map = self._input_map("block.bypass.map", None, recipe)
            self.maps.append(self.bypass_map)

    def _input_map(self, name: str, bias: Tensor | None, recipe: Recipe) -> StackedLinear | DualLinear:
        weights = self.state[name]
        if self.kernel is not None:
            return DualLinear(weights, bias, recipe, self.kernel)
        return StackedLinear(weights.flatten(1, -2), bias, recipe)

    @staticmethod
    def dual(body: Body, samples: int, recipe: Recipe, epochs: int) -> bool:
        """Decide whether a client with this many samples trains faster by coefficients."""
        modules, hidden, inputs = body.state_dict()["block.first"].shape
        return dual_is_cheaper(samples, inputs, modules * hidden, recipe, epochs)

    @staticmethod
    def working_set(body: Body, samples: int, recipe: Recipe, dual: bool) -> int:
        """Return the bytes that each step of a client reads or writes."""
        state = body.state_dict()
        weight, trained = state["block.first"], sum(value.nbytes for value in state.values())
        if not dual:
            return (1 + recipe.slots) * trained
        kernel, out = (samples * n * weight.element_size() for n in (samples, weight[..., 0].numel()))
        return kernel + out + (1 + recipe.slots) * (trained - weight.nbytes + out)

    def forward(self, index_NB: Tensor, gates: Sequence[Tensor] | None) -> Tensor:
        """Compute logits (N, B, classes).

        Args:
            index_NB: sample numbers, counted through all clients.
            gates: (N, B, M + R) per module layer, or None.
        """
        inputs = gather_rows(self.x, index_NB) if self.kernel is None else self.kernel.select(index_NB)
        self.gates = None if gates is None else gates[0][..., : self.modules]
        self.inner = self._gated(self.first(inputs)).relu_()
        h = self.second(self.inner)
        if gates is not None and self.bypass:
            self.residual = gates[0][..., self.modules :]
            h += (gather_rows(self.x, index_NB) if self.bypass_map is None else self.bypass_map(inputs)) * self.residual
        self.outer = h.relu_()
        return self.head(self.outer if self.rate == 1 else self.outer / self.rate)

    def backward(self, grad: Tensor) -> None:
        """Propagate the gradient at the logits (N, B, classes) to every parameter."""
        grad = relu_backward(self.head.backward(grad), self.outer, 0)
        grad = grad if self.rate == 1 else grad / self.rate
        if self.bypass_map is not None:
            self.bypass_map.grad_out = grad * self.residual
        grad = self.second.backward(grad)
        self.first.grad_out = self._gated(relu_backward(grad, self.inner, 0))

    def _gated(self, h_NBH: Tensor) -> Tensor:
        """Multiply the hidden units of every module by its gate, in place."""
        if self.gates is not None:
            h_NBH.view(*h_NBH.shape[:2], self.modules, self.hidden).mul_(self.gates[..., None])
        return h_NBH


relu_backward = torch.ops.aten.threshold_backward


STACKS: dict[type[Body], type[StackedMLP]] = {MLP: StackedMLP}
"""The stacked version of a network class. Subclasses do not inherit it: they may compute something else."""


def stackable(body: Body, recipe: Recipe) -> bool:
    """Return whether networks like ``body`` can train as a stack: hand-written passes exist for CPUs, in float32."""
    return type(body) in STACKS and recipe.precision == "float32" and device_of(body).type == "cpu"


def fit_in_stack(body: Body, samples: int, recipe: Recipe, epochs: int) -> int:
    """Return how many clients with this many samples one stack of `stackable` networks takes, at least 1."""
    kind = STACKS[type(body)]
    limit = STACK_BYTES / kind.working_set(body, samples, recipe, kind.dual(body, samples, recipe, epochs))
    return int(min(max(limit, 1), MAX_STACK))


def fit_many(
    body: Body, clients: Sequence[ClientBatch], recipe: Recipe, epochs: int, correction: LogitCorrection = "none"
) -> list[tuple[State, float]]:
    """Train networks like ``body``, one per client.

    Args:
        body: a network of the same sizes; its weights are not used.
        clients: initial models and data.
        recipe: hyper-parameters.
        epochs: passes over the data.
        correction: see `models.training.loop.correct_logits`.

    Returns:
        For each client, the trained state and the mean training loss of the last epoch (NaN if there is none).
    """
    kind = STACKS[type(body)]
    by_size = sorted(range(len(clients)), key=lambda i: -len(clients[i].y))
    results: dict[int, tuple[State, float]] = {}
    for dual in (False, True):
        group = [i for i in by_size if kind.dual(body, len(clients[i].y), recipe, epochs) == dual]
        if not group:
            continue
        most = fit_in_stack(body, len(clients[group[0]].y), recipe, epochs)
        stacks = -(-len(group) // most)  # number of stacks, of nearly equal size
        for members in np.array_split(np.array(group), stacks):
            trained = _fit_stack(body, [clients[i] for i in members], recipe, epochs, correction, dual)
            results |= dict(zip(members.tolist(), trained, strict=True))
    return [results[i] for i in range(len(clients))]


@torch.no_grad()
def _fit_stack(
    body: Body, clients: Sequence[ClientBatch], recipe: Recipe, epochs: int, correction: LogitCorrection, dual: bool
) -> list[tuple[State, float]]:
    """Train one stack. ``clients`` must be sorted by number of samples, largest first."""
    longest, gated = max(len(clients[0].y), MIN_SAMPLES), clients[0].gates is not None
    x = pad_stack([client.x.flatten(1) for client in clients], longest)
    y = pad_stack([client.y for client in clients], longest).flatten()
    stack = STACKS[type(body)](
        body, [client.state for client in clients], x, [len(client.y) for client in clients], recipe, gated, dual
    )
    gates = None
    if gated:
        layers = zip(*[client.gates or () for client in clients], strict=True)
        gates = [pad_stack(layer, longest).flatten(0, 1) for layer in layers]
    known_shares = [client.class_shares for client in clients if client.class_shares is not None]
    shares = torch.stack(known_shares)[:, None] if known_shares else None
    rows, counts = _schedule(clients, recipe.batch_size, epochs, longest)
    valid = torch.arange(recipe.batch_size) < counts[..., None]
    weights = valid.to(x.dtype) / counts.clamp(min=1)[..., None]
    losses, minus_one = x.new_zeros(counts.shape), -x.new_ones(*rows.shape[1:], 1)
    steps, active = (counts > 0).sum(0), (counts > 0).sum(1).tolist()
    last_epoch = steps - steps // max(epochs, 1)  # first step of the last epoch
    first_recorded = int(last_epoch.min())  # no client needs the losses of earlier steps
    for t, (n, labels) in enumerate(zip(active, y[rows].unsqueeze(3), strict=True)):
        index, labels = rows[t, :n], labels[:n]
        logits = stack.forward(index, gates and [gather_rows(layer, index) for layer in gates])
        log_probs = correct_logits(logits, None if shares is None else shares[:n], correction).log_softmax(2)
        if t >= first_recorded:
            losses[t, :n] = -log_probs.gather(2, labels).where(valid[t, :n, :, None], 0).sum((1, 2))
        grad = log_probs.exp().scatter_add_(2, labels, minus_one[:n]).mul_(weights[t, :n, :, None])
        if shares is not None and correction == "zero":
            grad.masked_fill_(shares[:n] == 0, 0.0)
        stack.backward(grad)
        scale = None
        if recipe.clip:
            norm = sum(map_.squared_norm() for map_ in stack.maps).clamp(min=0).sqrt()  # type: ignore[union-attr]
            scale = (recipe.clip / (norm + 1e-6)).clamp(max=1)[:, None, None]
        for map_ in stack.maps:
            map_.step(scale)
    for map_ in stack.maps:
        map_.finish()
    results = []
    for i, client in enumerate(clients):
        loss = float(losses[last_epoch[i] : steps[i], i].sum()) / len(client.y) if epochs else math.nan
        results.append(({name: value[i] for name, value in stack.state.items()}, loss))
    return results


def _schedule(clients: Sequence[ClientBatch], size: int, epochs: int, longest: int) -> tuple[Tensor, Tensor]:
    """Plan the batches of all clients.

    Rows that pad a short batch repeat the client's first sample. Steps after a client's last one are empty.

    Returns:
        Rows of the padded samples, (steps, N, size), and batch sizes, (steps, N).
    """
    steps = epochs * -(-longest // size)
    rows, counts = np.zeros((steps, len(clients), size), np.int64), np.zeros((steps, len(clients)), np.int64)
    for i, client in enumerate(clients):
        n = len(client.y)
        batch_sizes = np.minimum(size, n - size * np.arange(-(-n // size)))  # of each step in an epoch
        orders = np.zeros((epochs, len(batch_sizes) * size), np.int64)
        for order in orders:
            order[:n] = client.generator.permutation(n)
        rows[: epochs * len(batch_sizes), i] = orders.reshape(-1, size) + i * longest
        counts[: epochs * len(batch_sizes), i] = np.tile(batch_sizes, epochs)
    return torch.from_numpy(rows), torch.from_numpy(counts)
