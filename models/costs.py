"""Count what a (sub-)model costs: parameters, bytes, multiply-accumulates, training memory.

All counts use torch's meta device (shapes without numbers), so a ResNet18 takes milliseconds. The cost of a sub-model
is a base cost plus the sum of its modules' costs (ECLM 5.1). Sub-model derivation therefore only adds numbers.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor

from models.nn.blocks import set_execution
from models.nn.body import Architecture, Body, bypass_axis, gate_columns
from models.submodel import Sizes

BACKWARD = 3  # a training step costs about three forward passes: one forward, two for the gradients


@dataclass(frozen=True)
class Cost:
    """The cost of storing and training a model.

    Args:
        params: number of entries in the state, buffers included.
        bytes: size of the state in a message, 4 bytes per entry, without the message's framing.
        macs: multiply-accumulates of one forward pass of one sample.
        memory: bytes during training: parameters, gradients, optimizer state and saved activations of one batch.
    """

    params: float
    bytes: float
    macs: float
    memory: float

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(a + b for a, b in zip(self.vector, other.vector, strict=True)))

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(*(a - b for a, b in zip(self.vector, other.vector, strict=True)))

    def __mul__(self, k: float) -> "Cost":
        return Cost(*(a * k for a in self.vector))

    @property
    def vector(self) -> tuple[float, float, float, float]:
        return self.params, self.bytes, self.macs, self.memory


def macs(module: torch.nn.Module, x: Tensor, *args: object) -> float:
    """Count the multiply-accumulates of one forward pass with torch's FLOP counter (2 FLOP each)."""
    from torch.utils.flop_counter import FlopCounterMode  # slow import; most client processes never count

    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        module(x, *args)
    return counter.get_total_flops() / 2


def saved_bytes(loss: Callable[[], Tensor], weights: Iterable[Tensor]) -> int:
    """Measure the bytes that autograd saves for the backward pass of a loss.

    Each storage counts once. The storages of ``weights`` do not count.
    """
    excluded = {weight.untyped_storage()._cdata for weight in weights}
    saved: dict[int, Tensor] = {}

    def pack(t: Tensor) -> None:
        storage = t.untyped_storage()._cdata
        if storage not in excluded:
            # keep a reference: a freed address could be reused; detach: the graph would stay alive
            saved[storage] = t.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda nothing: nothing):  # no backward pass follows
        loss()
    return sum(t.untyped_storage().nbytes() for t in saved.values())


def loss_bytes(body: torch.nn.Module, x: Tensor, y: Tensor, *args: object) -> int:
    """Measure `saved_bytes` for one batch of a classifier, without its parameters and buffers."""
    return saved_bytes(lambda: F.cross_entropy(body(x, *args), y), chain(body.parameters(), body.buffers()))


def full_gates(architecture: Architecture, body: Body, n: int) -> list[Tensor] | None:
    """Return gates of n samples that activate every module of the (sub-)model.

    Returns:
        Ones (n, M) per module layer, or None for a dense model.
    """
    if all(len(gate_columns(architecture.sizes, layer)) == 1 for layer in body.layers):
        return None
    return [torch.ones(n, len(gate_columns(body.sizes, layer))) for layer in body.layers]


def cost(architecture: Architecture, sizes: Sizes, batch_size: int, optimizer_slots: int = 1) -> Cost:
    """Count the cost of the model with the given axis sizes.

    Args:
        sizes: axis sizes of the (sub-)model.
        batch_size: samples in a training batch; saved activations grow with it.
        optimizer_slots: numbers that the optimizer stores per parameter: 0 plain SGD, 1 momentum, 2 Adam.
    """
    with torch.device("meta"):
        body = architecture.build(sizes, None)
    x = torch.empty(batch_size, *architecture.input_shape, device="meta")
    y = torch.zeros(batch_size, dtype=torch.long, device="meta")
    with torch.device("meta"):
        gates = full_gates(architecture, body, batch_size)
    set_execution(body, "fused")  # all modules run: derivation works with this additive upper bound
    entries = sum(v.numel() for v in body.state_dict().values())
    weights = sum(p.numel() for p in body.parameters())
    memory = 4 * (weights * (1 + optimizer_slots) + entries) + loss_bytes(body, x, y, gates)
    body.eval()  # torch's batch norm refuses one sample in training
    return Cost(entries, 4 * entries, macs(body, x[:1], gates and [g[:1] for g in gates]), memory)


@dataclass(frozen=True)
class CostModel:
    """Costs of every sub-model of a modular architecture, by addition."""

    architecture: Architecture
    batch_size: int
    optimizer_slots: int = 1

    @cached_property
    def layers(self) -> tuple[str, ...]:
        return self.architecture.part({}).layers

    @cached_property
    def _minimal_sizes(self) -> dict[str, int]:
        """Sizes of the sub-model with one shrunk module per layer and no residual module."""
        sizes = self.architecture.sizes
        no_bypass = {bypass_axis(layer): 0 for layer in self.layers if bypass_axis(layer) in sizes}
        return {**sizes, **dict.fromkeys(self.layers, 1), **no_bypass}

    @cached_property
    def module(self) -> dict[str, Cost]:
        """Cost of one module of each layer. All modules of a layer are shrunk copies of one block and cost the same."""
        minimal = self._cost(self._minimal_sizes)
        return {layer: self._cost({**self._minimal_sizes, layer: 2}) - minimal for layer in self.layers}

    @cached_property
    def bypass(self) -> dict[str, Cost]:
        """Cost of the residual module, by its axis, for the layers that have one."""
        minimal = self._cost(self._minimal_sizes)
        axes = [a for a in map(bypass_axis, self.layers) if a in self._minimal_sizes]
        return {axis: self._cost({**self._minimal_sizes, axis: 1}) - minimal for axis in axes}

    def columns(self, layer: str) -> list[Cost]:
        """Return the cost of the module behind each of a layer's `gate_columns`."""
        axis = bypass_axis(layer)
        residual = [self.bypass[axis]] if axis in self.bypass else []
        return [self.module[layer]] * self.architecture.sizes[layer] + residual

    @cached_property
    def base(self) -> Cost:
        """Cost of the parts that every sub-model contains: stem, norms, skip connections, head."""
        base = self._cost(self._minimal_sizes)
        for layer in self.layers:
            base = base - self.module[layer]
        return base

    @cached_property
    def whole(self) -> Cost:
        """Cost of the whole model."""
        return self._cost(self.architecture.sizes)

    def of(self, counts: Sizes) -> Cost:
        """Return the cost of a sub-model.

        Args:
            counts: modules per layer, and 1 or 0 on the axis of each residual module (0 if absent).
        """
        total = self.base
        for layer in self.layers:
            total = total + self.module[layer] * counts[layer]
        for axis, each in self.bypass.items():
            total = total + each * counts.get(axis, 0)
        return total

    def _cost(self, sizes: Sizes) -> Cost:
        return cost(self.architecture, sizes, self.batch_size, self.optimizer_slots)
