"""A module of the user, whole or cut: a copy of it with smaller layers, and gates for its modules."""

import copy
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from models.nn.attention import count_heads
from models.nn.body import Body, hidden_axis
from models.submodel import Axes, Dimension, Joined, Sizes

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
PLAIN = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CHANNEL_NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
LAYER_NORMS = (nn.LayerNorm, nn.RMSNorm)
NORMS = (*CHANNEL_NORMS, nn.GroupNorm, *LAYER_NORMS)


@dataclass(frozen=True)
class Found:
    """What is known of a module.

    Args:
        axes: of each entry of its ``state_dict()``.
        sizes: whole length of each axis.
        readers: for each layer that ECLM can cut into modules, by its module axis and in order of execution, the layer
            of the network that reads its channels.
        head: the layer that returns the logits; empty if unknown.
        whole: what is never cut, and why.
    """

    axes: Axes
    sizes: Mapping[str, int]
    readers: Mapping[str, str] = field(default_factory=dict)
    head: str = ""
    whole: Mapping[str, str] = field(default_factory=dict)


class AnyBody(Body):
    """A module of the user, whole or cut, (B, ...) -> (B, classes).

    Args:
        net: the module, already cut to ``sizes``.
        found: what is known of the whole module.
        sizes: of the axes.
    """

    def __init__(self, net: nn.Module, found: Found, sizes: Sizes):
        super().__init__(sizes)
        self.net, self.found, self.layers = net, found, tuple(found.readers)
        self.gates: dict[str, Tensor] = {}
        for layer, reader in found.readers.items():
            net.get_submodule(reader).register_forward_pre_hook(Gate(self, layer), with_kwargs=True)
        if found.head and not any(isinstance(module, NORMS) for module in net.modules()):
            net.get_submodule(found.head).register_forward_pre_hook(Scaler(self), with_kwargs=True)

    def forward(self, x: Tensor, gates: Sequence[Tensor] | None = None) -> Tensor:
        with self.gating(gates):
            return self.net(x)

    @contextmanager
    def gating(self, gates: Sequence[Tensor] | None) -> Iterator[None]:
        """Gate the modules of the net while it runs."""
        self.gates = {} if gates is None else dict(zip(self.layers, gates, strict=True))
        try:
            yield
        finally:
            self.gates = {}

    def axes(self) -> Axes:
        return {f"net.{name}": tuple(_resized(d, self.sizes) for d in ds) for name, ds in self.found.axes.items()}


@dataclass
class Gate:
    """Multiplies the channels that a layer reads, M * H of them, by the gates (B, M) of their modules."""

    body: AnyBody
    layer: str

    def __call__(self, reader: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs | None:
        if self.layer not in self.body.gates:
            return None
        (x,) = *args, *kwargs.values()
        gates = self.body.gates[self.layer].repeat_interleave(self.body.sizes[hidden_axis(self.layer)], dim=1)
        channels = x.dim() - 1 if isinstance(reader, nn.Linear) else 1
        return (x * gates.reshape([n if d in (0, channels) else 1 for d, n in enumerate(x.shape)]),), {}


@dataclass
class Scaler:
    """Divides what the head reads by the rate of the sub-model (HeteroFL's scaler), in networks without norms."""

    body: AnyBody

    def __call__(self, head: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs:
        (x,) = *args, *kwargs.values()
        return (x / self.body.rate,), {}


def resize(template: nn.Module, found: Found, sizes: Sizes) -> nn.Module:
    """Return a copy of a module whose layers have other sizes; parameters and buffers are zeros."""
    shapes = {
        name: [_length(d, n, sizes) for d, n in zip(found.axes[name], value.shape, strict=True)]
        for name, value in template.state_dict().items()
    }
    return reshape(template, shapes)


def reshape(template: nn.Module, shapes: Mapping[str, Sequence[int]]) -> nn.Module:
    """Return a copy of a module with other shapes of the entries of its state; they are zeros."""
    place = torch.get_default_device()
    memo: dict[int, Any] = {id(buffer): buffer.detach().to(place, copy=True) for buffer in template.buffers()}
    for module in template.modules():  # a module has ten empty tables of hooks, which take half of the time to copy
        memo |= {id(own): type(own)() for own in vars(module).values() if type(own) in (dict, OrderedDict) and not own}
    for name, value in template.state_dict(keep_vars=True).items():
        zeros = torch.zeros(tuple(shapes[name]), dtype=value.dtype)
        memo[id(value)] = nn.Parameter(zeros, value.requires_grad) if isinstance(value, nn.Parameter) else zeros
    net = copy.deepcopy(template, memo)
    for module, old in zip(net.modules(), template.modules(), strict=True):
        weight = getattr(module, "weight", None)
        if not isinstance(weight, Tensor):
            continue
        if isinstance(module, PLAIN):
            assert isinstance(old, PLAIN)
            module.out_channels = len(weight)
            module.groups = old.groups if old.groups == 1 else old.groups * len(weight) // old.out_channels
            module.in_channels = weight.shape[1] * module.groups
        elif isinstance(module, TRANSPOSED):
            module.in_channels, module.out_channels = weight.shape[0], weight.shape[1] * module.groups
        elif isinstance(module, nn.Linear):
            module.out_features, module.in_features = weight.shape
        elif isinstance(module, CHANNEL_NORMS):
            module.num_features = len(weight)
        elif isinstance(module, nn.GroupNorm):
            assert isinstance(old, nn.GroupNorm)
            module.num_groups = old.num_groups * len(weight) // old.num_channels
            module.num_channels = len(weight)
        elif isinstance(module, LAYER_NORMS):
            module.normalized_shape = tuple(weight.shape)
        elif isinstance(module, nn.Embedding):
            module.embedding_dim = weight.shape[1]
        elif isinstance(module, nn.PReLU):
            module.num_parameters = len(weight)
    count_heads(net, template)
    return net


def _resized(dimension: Dimension, sizes: Sizes) -> Dimension:
    """Return a dimension of the whole module in a module of other sizes."""
    if not isinstance(dimension, Joined):
        return dimension
    return Joined(tuple(tuple((axis, sizes[axis] if axis else n) for axis, n in part) for part in dimension.parts))


def _length(dimension: Dimension, length: int, sizes: Sizes) -> int:
    """Return the length of a dimension of the whole module in a module of other sizes."""
    if isinstance(dimension, str):
        return sizes[dimension]
    resized = _resized(dimension, sizes)
    return length if resized is None else len(resized)
