"""Nested widths: narrower networks inside one network, and training that makes each of them accurate.

Ordered dropout (FjORD, Horvath et al. 2021, arXiv:2102.13451) trains a network at a random width per batch, so that its
slices also work alone. HeteroFL, FjORD and FedRolex cut such slices.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from models.nn.blocks import channel_groups, running_statistics, torch_batch_norms
from models.nn.body import Architecture, Body, device_of
from models.submodel import Axes, Coverage, Sizes, covered_sizes, entry_index, extract
from models.training.loop import Extra, to_float32

RATES = (1.0, 0.5, 0.25, 0.125, 0.0625)  # HeteroFL's five widths, a to e


def groups_of(architecture: Architecture) -> dict[str, int]:
    """Return `channel_groups` of an architecture."""
    with torch.device("meta"):
        body = architecture.part({})
    return channel_groups(architecture.sizes, body.axes(), body)


def width(architecture: Architecture, rate: float, offset: int = 0) -> Coverage:
    """Return the coverage of ``ceil(rate * n)`` channels of every width axis, rounded up to whole norm groups.

    Classes and modules stay whole. With ``offset`` 0 it is a prefix (HeteroFL eq. 1, FjORD). Otherwise it is the window
    that starts ``offset`` groups later and wraps around (FedRolex eq. 3).

    Args:
        architecture: the whole model.
        rate: share of the width, in (0, 1].
        offset: start of the window, in norm groups.
    """
    fixed = {"classes", *architecture.part({}).layers}
    coverage = {}
    for axis, group in groups_of(architecture).items():
        size = architecture.sizes[axis]
        count = min(size, group * math.ceil(rate * size / group))
        if axis not in fixed and count < size:
            coverage[axis] = (offset * group + torch.arange(count)) % size
    return coverage


class RandomSubmodel(Body):
    """A network that trains a randomly drawn sub-model in every batch; in evaluation it is whole.

    Gradients flow through the cut to the whole network's parameters.

    Args:
        whole: the network, trained in place.
        build: the ``build`` of its architecture.
        draw: returns the coverage and the rate of the next sub-model.
        statistics: sub-models update their part of the network's running statistics. Otherwise these stay as they are,
            and are to be estimated after training.
    """

    def __init__(
        self,
        whole: Body,
        build: Callable[[Sizes, torch.Generator | None], Body],
        draw: Callable[[], tuple[Coverage, float]],
        statistics: bool = False,
    ):
        super().__init__(whole.sizes)
        self.layers, self.whole, self.statistics = whole.layers, whole, statistics
        self._build, self._draw = build, draw
        self._parts: dict[tuple[tuple[str, int], ...], Body] = {}  # by sizes; their own parameters are never used

    def forward(self, x: Tensor, gates: Sequence[Tensor] | None = None) -> Tensor:
        if not self.training:
            return self.whole(x, gates)
        coverage, rate = self._draw()
        sizes = tuple(covered_sizes(self.sizes, coverage).items())
        if sizes not in self._parts:
            self._parts[sizes] = part = self._build(dict(sizes), None).to(device_of(self.whole))
            for parameter in part.parameters():
                # hundreds of sub-models would need more memory than the network
                parameter.data = parameter.data.new_empty(0)
        part = self._parts[sizes]
        part.rate = rate
        for norm in torch_batch_norms(part):
            norm.train(len(x) > 1)
        axes = self.whole.axes()
        buffers = {name: v for name, v in self.whole.named_buffers() if name in axes} if self.statistics else {}
        values = extract({**dict(self.whole.named_parameters()), **buffers}, axes, coverage)
        out = functional_call(part, values, (x,))
        for name, buffer in buffers.items():
            place = entry_index(axes[name], coverage, buffer.shape) if buffer.dim() else ...
            buffer[place] = values[name]
        return out

    def axes(self) -> Axes:
        return {f"whole.{name}": axes for name, axes in self.whole.axes().items()}


def ordered_dropout(
    architecture: Architecture,
    body: Body,
    rates: Sequence[float],
    generator: np.random.Generator,
    rolling: bool = False,
) -> RandomSubmodel:
    """Train ``body`` at a width drawn uniformly from ``rates`` for every batch (FjORD 3.1).

    Args:
        architecture: the whole model, to which the rates refer.
        body: that model, or its slice of the largest rate.
        rates: shares of the width.
        generator: draws the rates and offsets.
        rolling: draw windows with a random start instead of prefixes, for FedRolex.
    """
    groups = groups_of(architecture)
    offsets = max(size // groups[axis] for axis, size in architecture.sizes.items()) if rolling else 1
    coverages = {(rate, offset): width(architecture, rate, offset) for rate in rates for offset in range(offsets)}

    def draw() -> tuple[Coverage, float]:
        rate, offset = rates[int(generator.integers(len(rates)))], int(generator.integers(offsets))
        return coverages[rate, offset], rate

    return RandomSubmodel(body, architecture.build, draw)


def self_distillation(part: RandomSubmodel) -> Extra:
    """Return FjORD's self-distillation loss (3.3): a narrower width learns the soft predictions of the widest.

    Returns:
        A term to add to the loss of the widest network, given a batch's inputs (B, ...) and its logits (B, classes).
    """
    return lambda x, logits: F.cross_entropy(to_float32(part(x)), to_float32(logits.detach()).softmax(1))


@torch.no_grad()
def recalibrate_batch_norm(body: nn.Module, x: Tensor, batch_size: int = 500) -> None:
    """Set the running statistics to those of ``x``, averaged over its batches (static batch norm, HeteroFL 3).

    Training uses only the statistics of each batch. This function estimates the running statistics afterwards, for a
    sub-model or the whole model. Without batch norm it does nothing.

    Args:
        body: the network, changed in place.
        x: (n, ...) inputs.
        batch_size: samples per batch.
    """
    found = [running_statistics(module) for module in body.modules()]
    statistics = [(value, momentum) for values, momentum in found for value in values]
    if not statistics:
        return
    mean = [torch.zeros_like(value) for value, _ in statistics]
    body.train()
    for batch in x.tensor_split(-(-len(x) // batch_size)):
        for value, _ in statistics:
            value.zero_()
        body(batch.to(device_of(body)))  # leaves the momentum times the statistics of the batch
        for total, (value, momentum) in zip(mean, statistics, strict=True):
            total += value * (len(batch) / len(x) / momentum)
    for total, (value, _) in zip(mean, statistics, strict=True):
        value.copy_(total)
