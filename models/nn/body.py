"""What a network is to the rest of the project: sizes that build it, named axes, and gates for its modules."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from models.submodel import FULL, Axes, Coverage, Sizes, State, covered_sizes

Shape = tuple[int, ...]


class Body(nn.Module, ABC):
    """A network without its selector, fully determined by its axis sizes.

    Attributes:
        sizes: length of every named axis, e.g. ``{"stage1.out": 16, "stage1.modules": 1, ...}``.
        layers: the module axis of each module layer, in order of execution; gates have the same order.
        rate: HeteroFL's scaler: a network without norms divides its last hidden activations by it. HeteroFL scales all
            layers; then narrow widths hardly learn inside a wider network: a quarter of one reaches 74 % instead of
            over 95 % in `tests/models/elastic/test_nested.py`.
    """

    layers: tuple[str, ...]

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.sizes = dict(sizes)
        self.rate = 1.0

    @abstractmethod
    def forward(self, x: Tensor, gates: Sequence[Tensor] | None = None) -> Tensor:
        """Compute logits (B, classes) of inputs (B, ...).

        Args:
            x: inputs.
            gates: weights of the modules of each layer, (B, M + R), see `gate_columns`.
        """

    @abstractmethod
    def axes(self) -> Axes:
        """Name the axes of every entry of ``state_dict()``."""

    def state(self) -> State:
        """Copy parameters and buffers to CPU memory, without gradients."""
        return cpu_state(self)


def device_of(network: nn.Module) -> torch.device:
    """Return the hardware device of a network's parameters, or the CPU if it has none. Callers move inputs there."""
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))


def cpu_state(network: nn.Module) -> State:
    """Copy parameters and buffers of any network to CPU memory, without gradients."""
    return {name: value.detach().to("cpu", copy=True) for name, value in network.state_dict().items()}


@dataclass(frozen=True)
class Architecture:
    """How to build one model, whole or in part.

    Args:
        build: ``build(sizes, generator) -> Body``.
        sizes: axis sizes of the whole model.
        input_shape: shape of one sample.
    """

    build: Callable[[Sizes, torch.Generator | None], Body]
    sizes: Mapping[str, int]
    input_shape: Shape

    def whole(self, seed: int = 0) -> Body:
        """Build the whole model with initial weights from ``seed``."""
        return self.build(self.sizes, torch.Generator().manual_seed(seed))

    def part(self, coverage: Coverage) -> Body:
        """Build an uninitialised body for the sub-model that ``coverage`` cuts out."""
        return self.build(covered_sizes(self.sizes, coverage), None)

    def modular(self, modules: int, shrink: int, residual: bool = False) -> "Architecture":
        """Return the same architecture with every block cut into modules.

        Args:
            modules: modules per module layer.
            shrink: the inner width of a module is 1/``shrink`` of the block's.
            residual: add a residual module to every module layer (ECLM 4.1), on a separate axis.

        Raises:
            ValueError: the architecture is modular already, or ``shrink`` does not divide an inner width.
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
    """Return the numbers, counted from 1, of the last ``layers`` of a model's stages.

    Raises:
        ValueError: the model has fewer stages, or ``layers`` is less than 1.
    """
    if not 1 <= layers <= stages:
        raise ValueError(f"a model of {stages} stages cannot have {layers} module layers; give 1 to {stages}")
    return range(stages - layers + 1, stages + 1)


def hidden_axis(layer: str) -> str:
    """Return the inner-width axis that belongs to a module axis: 'stage1.modules' -> 'stage1.hidden'."""
    return layer.removesuffix(".modules") + ".hidden"


def bypass_axis(layer: str) -> str:
    """Return the axis (length 1) of a layer's residual module: 'stage1.modules' -> 'stage1.bypass'."""
    return layer.removesuffix(".modules") + ".bypass"


def gate_columns(sizes: Sizes, layer: str, coverage: Coverage = FULL) -> Tensor:
    """Return the gate columns of a layer in a sub-model, numbered as in the whole model.

    A layer of N = ``sizes[layer]`` modules has the columns 0 .. N - 1. Column N is its residual module, if there is
    one. Selector outputs, importance and gates use this order, and so do lists of derived or active modules.
    `columns_coverage` is the inverse.
    """
    bypass = bypass_axis(layer)
    modules = coverage.get(layer, torch.arange(sizes[layer]))
    return torch.cat([modules, sizes[layer] + coverage.get(bypass, torch.arange(sizes.get(bypass, 0)))])


def columns_coverage(sizes: Sizes, columns: Mapping[str, np.ndarray]) -> Coverage:
    """Return the coverage of the sub-model with the given gate columns of each layer."""
    coverage = {}
    for layer, columns_of_layer in columns.items():
        indices, modules, bypass = torch.from_numpy(columns_of_layer), sizes[layer], bypass_axis(layer)
        coverage[layer] = indices[indices < modules]
        if bypass in sizes:
            coverage[bypass] = indices[indices >= modules] - modules
    return coverage


def by_axis(sizes: Sizes, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Split per-gate values of each layer, such as importance, by the axis of the module behind each gate."""
    values = {}
    for layer, value in columns.items():
        modules, bypass = sizes[layer], bypass_axis(layer)
        values[layer] = value[:modules]
        if bypass in sizes:
            values[bypass] = value[modules:]
    return values


Family = Callable[..., Architecture]
"""``family(input_shape, classes, **options) -> Architecture`` of the dense model."""
