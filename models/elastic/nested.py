"""Nested widths: narrower networks that live inside one network, and training that makes them good.

Ordered dropout (FjORD, Horvath et al. 2021, arXiv:2102.13451) trains a network at a random width per batch, so that
its slices work on their own. HeteroFL, FjORD and FedRolex cut such slices.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from models.nn.blocks import Norm
from models.nn.body import Architecture, Body, home
from models.submodel import Axes, Coverage, Sizes, covered_sizes, extract
from models.training.loop import Extra, precise

RATES = (1.0, 0.5, 0.25, 0.125, 0.0625)  # HeteroFL's five widths, a to e
MOMENTUM = 0.1  # of `models.nn.blocks.Norm`


def grains(architecture: Architecture) -> dict[str, int]:
    """Channels that must be cut together, per axis: a group norm computes the same in a slice only of whole groups."""
    with torch.device("meta"):
        body = architecture.part({})
    axes, grain = body.axes(), dict.fromkeys(architecture.sizes, 1)
    for name, norm in body.named_modules():
        if isinstance(norm, Norm) and norm.kind == "group":
            axis = axes[f"{name}.weight"][1]
            assert axis is not None
            grain[axis] = math.lcm(grain[axis], norm.weight.numel() // norm.groups)
    return grain


def width(architecture: Architecture, rate: float, turn: int = 0) -> Coverage:
    """The coverage that keeps ``ceil(rate * n)`` channels of every width axis, rounded up to whole norm groups.

    All classes and all modules of a layer are kept. Without ``turn`` it is a prefix (HeteroFL eq. 1, FjORD); with it,
    the window that starts ``turn`` groups later and wraps around (FedRolex eq. 3).
    """
    fixed = {"classes", *architecture.part({}).layers}
    coverage = {}
    for axis, grain in grains(architecture).items():
        size = architecture.sizes[axis]
        kept = min(size, grain * math.ceil(rate * size / grain))
        if axis not in fixed and kept < size:
            coverage[axis] = (turn * grain + torch.arange(kept)) % size
    return coverage


class Sampled(Body):
    """A network that trains as a part of itself, drawn anew for every batch; in use it is whole.

    Gradients flow through the cut to the whole network's parameters. The parts share nothing else with it: running
    statistics, where there are any, are those of the whole network.

    Args:
        whole: the network, trained in place.
        build: of its architecture.
        draw: a part to train: its coverage and its rate.
    """

    def __init__(
        self,
        whole: Body,
        build: Callable[[Sizes, torch.Generator | None], Body],
        draw: Callable[[], tuple[Coverage, float]],
    ):
        super().__init__(whole.sizes)
        self.layers, self.whole = whole.layers, whole
        self._build, self._draw = build, draw
        self._parts: dict[tuple[tuple[str, int], ...], Body] = {}  # by sizes; their own parameters are never used

    def forward(self, x: Tensor, gates: Sequence[Tensor] | None = None) -> Tensor:
        if not self.training:
            return self.whole(x, gates)
        coverage, rate = self._draw()
        sizes = tuple(covered_sizes(self.sizes, coverage).items())
        if sizes not in self._parts:
            self._parts[sizes] = part = self._build(dict(sizes), None).to(home(self.whole))
            for own in part.parameters():
                own.data = own.data.new_empty(0)  # hundreds of parts together would outgrow the network
        part = self._parts[sizes]
        part.rate = rate
        return functional_call(part, extract(dict(self.whole.named_parameters()), self.whole.axes(), coverage), (x,))

    def axes(self) -> Axes:
        return {f"whole.{name}": axes for name, axes in self.whole.axes().items()}


def ordered_dropout(
    architecture: Architecture,
    body: Body,
    rates: Sequence[float],
    generator: np.random.Generator,
    rolling: bool = False,
) -> Sampled:
    """``body`` at a width drawn uniformly from ``rates`` for every batch (FjORD 3.1).

    Args:
        architecture: of the whole model, to which the rates refer.
        body: that model, or its slice of the largest of the rates.
        rolling: a window that starts anywhere instead of a prefix, for FedRolex.
    """
    grain = grains(architecture)
    turns = max(size // grain[axis] for axis, size in architecture.sizes.items()) if rolling else 1
    levels = {(rate, turn): width(architecture, rate, turn) for rate in rates for turn in range(turns)}

    def draw() -> tuple[Coverage, float]:
        rate, turn = rates[int(generator.integers(len(rates)))], int(generator.integers(turns))
        return levels[rate, turn], rate

    return Sampled(body, architecture.build, draw)


def distilled(part: Sampled) -> Extra:
    """FjORD's self-distillation (3.3): a narrower width learns the soft answers of the widest.

    Returns:
        The term to add to the loss of the widest, given a batch's inputs (B, ...) and its logits (B, classes).
    """
    return lambda x, logits: F.cross_entropy(precise(part(x)), precise(logits.detach()).softmax(1))


@torch.no_grad()
def recalibrate_batch_norm(body: Body, x: Tensor, batch_size: int = 500) -> None:
    """Static batch norm (HeteroFL 3): running statistics become those of ``x`` (n, ...), averaged over its batches.

    In training a batch norm uses the statistics of its batch alone; what it needs in use is estimated afterwards, for
    a part as well as for the whole. Without batch norm nothing happens.
    """
    statistics = dict(body.named_buffers())
    if not statistics:
        return
    mean = {name: torch.zeros_like(value) for name, value in statistics.items()}
    body.train()
    for batch in x.tensor_split(-(-len(x) // batch_size)):
        for value in statistics.values():
            value.zero_()
        body(batch.to(home(body)))  # leaves MOMENTUM times the statistics of the batch
        for name, value in statistics.items():
            mean[name] += value * (len(batch) / len(x) / MOMENTUM)
    for name, value in statistics.items():
        value.copy_(mean[name])
