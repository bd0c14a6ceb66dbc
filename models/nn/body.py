"""What a network is to the rest of the project: sizes that build it, axes that cut it, gates that steer it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from models.submodel import FULL, Axes, Coverage, Sizes, State, covered_sizes


class Body(nn.Module, ABC):
    """A network without its selector, fully determined by its axis sizes.

    Attributes:
        sizes: length of every named axis, e.g. ``{"stage1.out": 16, "stage1.modules": 1, ...}``.
        layers: the module axis of each module layer, in order of execution; gates come in this order.
        rate: HeteroFL's scaler: a network without norms divides its last hidden activations by it. (There those of
            all layers; then narrow widths hardly learn inside a wider network, a quarter of one has 74 % instead of
            over 95 in `tests/models/test_nested.py`.)
    """

    layers: tuple[str, ...]

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.sizes = dict(sizes)
        self.rate = 1.0

    @abstractmethod
    def forward(self, x: Tensor, gates: Sequence[Tensor] | None = None) -> Tensor:
        """Logits (B, classes) for inputs (B, ...); ``gates[l]`` weighs the modules of layer l, see `gate_columns`."""

    @abstractmethod
    def axes(self) -> Axes:
        """Names of the axes of every entry of ``state_dict()``."""

    def state(self) -> State:
        """Parameters and buffers, detached and copied into the machine's own memory."""
        return fetched(self)


def home(network: nn.Module) -> torch.device:
    """Where a network computes, the CPU if it has no parameters: whoever calls it brings its inputs there."""
    return next((own.device for own in network.parameters()), torch.device("cpu"))


def fetched(network: nn.Module) -> State:
    """The parameters and buffers of any network, detached and copied into the machine's own memory."""
    return {name: value.detach().to("cpu", copy=True) for name, value in network.state_dict().items()}


@dataclass(frozen=True)
class Architecture:
    """How to build one model, whole or in part.

    Args:
        build: ``build(sizes, generator) -> Body``.
        sizes: the axis sizes of the whole model.
        input_shape: shape of one sample.
    """

    build: Callable[[Sizes, torch.Generator | None], Body]
    sizes: Mapping[str, int]
    input_shape: tuple[int, ...]

    def whole(self, seed: int = 0) -> Body:
        """The whole model with initial weights from ``seed``."""
        return self.build(self.sizes, torch.Generator().manual_seed(seed))

    def part(self, coverage: Coverage) -> Body:
        """An uninitialised body for the sub-model that ``coverage`` cuts out."""
        return self.build(covered_sizes(self.sizes, coverage), None)

    def modular(self, modules: int, shrink: int, residual: bool = False) -> "Architecture":
        """The same architecture with every block cut into ``modules`` modules of 1/``shrink`` of its inner width.

        With ``residual`` every module layer gets one residual module more (ECLM 4.1), on an axis of its own.
        """
        layers = self.build(self.sizes, None).layers
        sizes = dict(self.sizes)
        for layer in layers:
            hidden = hidden_axis(layer)
            if sizes[layer] != 1:
                raise ValueError(f"{layer} is already cut into {sizes[layer]} modules")
            if sizes[hidden] % shrink:
                raise ValueError(f"shrink = {shrink} does not divide the inner width {sizes[hidden]} of {hidden}")
            sizes[layer], sizes[hidden] = modules, sizes[hidden] // shrink
            if residual:
                sizes[bypass_axis(layer)] = 1
        return Architecture(self.build, sizes, self.input_shape)


def last_stages(stages: int, layers: int) -> range:
    """The numbers, from 1, of the last ``layers`` of a model's stages.

    Raises:
        ValueError: there are not so many.
    """
    if not 1 <= layers <= stages:
        raise ValueError(f"a model of {stages} stages cannot have {layers} module layers; give 1 to {stages}")
    return range(stages - layers + 1, stages + 1)


def hidden_axis(layer: str) -> str:
    """The inner-width axis that belongs to a module axis: 'stage1.modules' -> 'stage1.hidden'."""
    return layer.removesuffix(".modules") + ".hidden"


def bypass_axis(layer: str) -> str:
    """The axis of a layer's residual module, of length 1, where it has one: 'stage1.modules' -> 'stage1.bypass'."""
    return layer.removesuffix(".modules") + ".bypass"


def gate_columns(sizes: Sizes, layer: str, coverage: Coverage = FULL) -> Tensor:
    """Which gates of a layer the sub-model of ``coverage`` has, in the numbering of the whole model.

    A layer of N = ``sizes[layer]`` modules has the columns 0 .. N - 1 and, where it has a residual module, N. Selector
    outputs, importance and gates are in this order, and modules derived, held or activated are told by these numbers;
    `columns_coverage` is the way back.
    """
    bypass = bypass_axis(layer)
    modules = coverage.get(layer, torch.arange(sizes[layer]))
    return torch.cat([modules, sizes[layer] + coverage.get(bypass, torch.arange(sizes.get(bypass, 0)))])


def columns_coverage(sizes: Sizes, columns: Mapping[str, np.ndarray]) -> Coverage:
    """The coverage of a sub-model that has these gates of each layer."""
    coverage = {}
    for layer, own in columns.items():
        kept, modules, bypass = torch.from_numpy(own), sizes[layer], bypass_axis(layer)
        coverage[layer] = kept[kept < modules]
        if bypass in sizes:
            coverage[bypass] = kept[kept >= modules] - modules
    return coverage


def by_axis(sizes: Sizes, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Values of all gates of each layer, such as importance, by the axis on which the module behind a gate lies."""
    values = {}
    for layer, own in columns.items():
        modules, bypass = sizes[layer], bypass_axis(layer)
        values[layer] = own[:modules]
        if bypass in sizes:
            values[bypass] = own[modules:]
    return values


Family = Callable[..., Architecture]
"""``family(input_shape, classes, **hyper) -> Architecture`` of the dense model."""
