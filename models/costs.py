"""What a (sub-)model costs: parameters, bytes, multiply-accumulates, training memory. Counted, not guessed.

Everything is counted on the meta device (shapes without numbers), so a ResNet18 takes milliseconds. The cost of a
sub-model is its base plus the sum of its modules' costs, as in ECLM 5.1, so derivation only adds numbers.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor

from models.nn.blocks import execute
from models.nn.body import Architecture, Body, bypass_axis, gate_columns
from models.submodel import Sizes


@dataclass(frozen=True)
class Cost:
    """The price of holding and training a model.

    Args:
        params: entries of the state, buffers included.
        bytes: of the state on the wire at 4 bytes an entry, without the message's framing.
        macs: multiply-accumulates of one forward pass of one sample.
        memory: bytes while training: parameters, gradients, optimizer state and saved activations of one batch.
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
    """Multiply-accumulates of one forward pass, by torch's own counter (which counts 2 FLOP for each)."""
    from torch.utils.flop_counter import FlopCounterMode  # slow to import, and a device seldom counts

    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        module(x, *args)
    return counter.get_total_flops() / 2


def saved_bytes(loss: Callable[[], Tensor], weights: Iterable[Tensor]) -> int:
    """Bytes that autograd keeps on the way to a loss, each storage counted once, those of ``weights`` not at all."""
    own = {weight.untyped_storage()._cdata for weight in weights}
    kept: dict[int, Tensor] = {}

    def pack(t: Tensor) -> None:
        storage = t.untyped_storage()._cdata
        if storage not in own:
            kept[storage] = t.detach()  # held, so that the storage's identity is not used again; its graph would stay

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda nothing: nothing):  # there is no way back
        loss()
    return sum(t.untyped_storage().nbytes() for t in kept.values())


def loss_bytes(body: torch.nn.Module, x: Tensor, y: Tensor, *args: object) -> int:
    """`saved_bytes` of one batch of a classifier, its parameters and buffers apart."""
    return saved_bytes(lambda: F.cross_entropy(body(x, *args), y), chain(body.parameters(), body.buffers()))


def full_gates(architecture: Architecture, body: Body, n: int) -> list[Tensor] | None:
    """Gates of n samples by which every module that a (sub-)model holds is active; None where the model is dense."""
    if all(len(gate_columns(architecture.sizes, layer)) == 1 for layer in body.layers):
        return None
    return [torch.ones(n, len(gate_columns(body.sizes, layer))) for layer in body.layers]


def cost(architecture: Architecture, sizes: Sizes, batch_size: int, optimizer_slots: int = 1) -> Cost:
    """The cost of the model of ``sizes``.

    Args:
        batch_size: samples in a training batch, for the activations.
        optimizer_slots: numbers that the optimizer keeps per parameter: 0 plain SGD, 1 momentum, 2 Adam.
    """
    with torch.device("meta"):
        body = architecture.build(sizes, None)
    x = torch.empty(batch_size, *architecture.input_shape, device="meta")
    y = torch.zeros(batch_size, dtype=torch.long, device="meta")
    with torch.device("meta"):
        gates = full_gates(architecture, body, batch_size)
    execute(body, "fused")  # every module held runs: the additive bound that derivation works with
    state = sum(v.numel() for v in body.state_dict().values())
    weights = sum(p.numel() for p in body.parameters())
    memory = 4 * (weights * (1 + optimizer_slots) + state) + loss_bytes(body, x, y, gates)
    return Cost(state, 4 * state, macs(body, x[:1], gates and [g[:1] for g in gates]), memory)


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
    def _one(self) -> dict[str, int]:
        """Sizes of a sub-model with one shrunk module in every layer."""
        sizes = self.architecture.sizes
        none = {bypass_axis(layer): 0 for layer in self.layers if bypass_axis(layer) in sizes}
        return {**sizes, **dict.fromkeys(self.layers, 1), **none}

    @cached_property
    def module(self) -> dict[str, Cost]:
        """What one module of each layer costs; the modules of a layer are shrunk copies and cost the same."""
        one = self._cost(self._one)
        return {layer: self._cost({**self._one, layer: 2}) - one for layer in self.layers}

    @cached_property
    def bypass(self) -> dict[str, Cost]:
        """What the residual module costs, by its axis, in the layers that have one."""
        one = self._cost(self._one)
        axes = [a for a in map(bypass_axis, self.layers) if a in self._one]
        return {axis: self._cost({**self._one, axis: 1}) - one for axis in axes}

    def columns(self, layer: str) -> list[Cost]:
        """What the module behind each of a layer's `gate_columns` costs."""
        axis = bypass_axis(layer)
        residual = [self.bypass[axis]] if axis in self.bypass else []
        return [self.module[layer]] * self.architecture.sizes[layer] + residual

    @cached_property
    def base(self) -> Cost:
        """What every sub-model pays before its first module: stem, norms, skips, head."""
        base = self._cost(self._one)
        for layer in self.layers:
            base = base - self.module[layer]
        return base

    @cached_property
    def whole(self) -> Cost:
        """The cost of the whole model."""
        return self._cost(self.architecture.sizes)

    def of(self, counts: Sizes) -> Cost:
        """The cost of a sub-model with ``counts[layer]`` modules in each layer, and by its axis a residual one."""
        total = self.base
        for layer in self.layers:
            total = total + self.module[layer] * counts[layer]
        for axis, price in self.bypass.items():
            total = total + price * counts.get(axis, 0)
        return total

    def _cost(self, sizes: Sizes) -> Cost:
        return cost(self.architecture, sizes, self.batch_size, self.optimizer_slots)
