"""The block: two linear maps around an inner width, as one module or as many.

A module layer computes ``sum_i g_i f_i(x)`` (ECLM eq. in 4.2), each module f_i being the original block with a narrower
inner width. A module ends in a linear map, so the whole layer is also ONE wide block whose hidden channels are
grouped by module and scaled by g before the last map: the *fused* execution, exact and dense. The *dispatch*
execution runs each module on the samples routed to it. One more module may be a residual one (`Bypass`), whose gate is
the last column. A dense block is a layer of one module with gate 1, so a dense model, a modular model and every
sub-model are the same class built with different sizes. Gates are not negative, so they may as well scale the input of
the ReLU: the backward pass then keeps no copy of the hidden activations for them.

Shape suffixes: B batch, M modules held, R residual modules held (0 or 1), H hidden width of a module, C input channels,
O output channels.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.submodel import Axes
from models.training.descent import Descent

Execution = Literal["auto", "fused", "dispatch"]

# Measured on a CPU (forward and backward, 16 modules, batches of 16 and 64, 16 to 512 channels): dispatch wins where at
# least twice as many modules are held as are active AND a module has enough to do to pay for being called on its own;
# with small modules fused is 1.5 to 10 times faster.
DISPATCH_RATIO = 2.0  # modules held per active module
DISPATCH_MACS = 5e7  # multiply-accumulates that one module would spend on the whole batch


def _init(generator: torch.Generator | None, *shape: int, fan_in: int, gain: float = 2.0) -> nn.Parameter:
    """He initialisation for a map with ``fan_in`` inputs (gain 2 before a ReLU, 1 before a sum); zeros, which cost
    nothing, for a part that is to be loaded."""
    if generator is None:
        return nn.Parameter(torch.zeros(shape))
    return nn.Parameter(torch.randn(*shape, generator=generator) * math.sqrt(gain / max(1, fan_in)))


def pool2(x: Tensor) -> Tensor:
    """2 x 2 max pooling that keeps an odd last row or column, so that no image is too small for it."""
    return F.max_pool2d(x, 2, ceil_mode=True)


def use_dispatch(gates_BM: Tensor, execution: Execution, macs: float) -> bool:
    """Whether to run module by module.

    Args:
        execution: 'fused', 'dispatch', or 'auto' for the measured rule.
        macs: multiply-accumulates of one module on the whole batch.
    """
    if execution != "auto":
        return execution == "dispatch"
    if macs < DISPATCH_MACS or gates_BM.device.type != "cpu":  # a GPU would be waited for
        return False
    active = float((gates_BM > 0).sum()) / max(1, len(gates_BM))
    return gates_BM.shape[1] >= DISPATCH_RATIO * active


class Norm(nn.Module):
    """Normalisation of (B, M*H, ...) activations with an affine map of shape (M, H) that is cut along with the modules.

    'group', the default: group norm with groups of ``group_size`` channels that never straddle two modules. A module
    computes the same with or without its neighbours and whatever else is in the batch, and nothing is left to go stale.

    'batch': batch norm. Its running statistics (M, H) are entries of the state, cut, sent and merged with their
    modules. A module's own are those of its hidden channels over the whole batch, so they do not depend on its
    neighbours or on the routing. The norm after the sum is another matter: its statistics are those of a sum over the
    modules that happen to be held. A sub-model starts with the whole model's and drifts to its own; merging averages
    statistics of different sums, and a mean of variances leaves out the spread between the devices' means, which is
    what label skew makes large. Hence the default. One value per channel has no variance: it is normalised by the
    running statistics.

    Raises:
        ValueError: the kind is neither.
    """

    mean: Tensor
    var: Tensor

    def __init__(self, modules: int, hidden: int, kind: str = "group", group_size: int = 8):
        super().__init__()
        if kind not in ("group", "batch"):
            raise ValueError(f"unknown norm {kind!r}; known: batch, group")
        self.kind = kind
        self.groups = modules * (hidden // group_size if hidden % group_size == 0 else 1)
        self.weight = nn.Parameter(torch.ones(modules, hidden))
        self.bias = nn.Parameter(torch.zeros(modules, hidden))
        if kind == "batch":
            self.register_buffer("mean", torch.zeros(modules, hidden))
            self.register_buffer("var", torch.ones(modules, hidden))

    def forward(self, x: Tensor, module: int | None = None) -> Tensor:
        """Normalise all modules' channels, or only those of one ``module`` (dispatch)."""
        own = slice(None) if module is None else module
        weight, bias = self.weight[own], self.bias[own]
        groups = self.groups if module is None else self.groups // len(self.weight)
        if self.kind == "group":
            # Not F.group_norm: it refuses one sample of one pixel although each group still has channels to normalise
            # over.
            return torch.group_norm(x, groups, weight.reshape(-1), bias.reshape(-1))
        mean, var = self.mean[own].view(-1), self.var[own].view(-1)
        of_batch = self.training and x[:, 0].numel() > 1
        return F.batch_norm(x, mean, var, weight.reshape(-1), bias.reshape(-1), of_batch, 0.1)

    def axes(self, modules: str | None, hidden: str) -> Axes:
        """Names of the axes of each parameter."""
        return dict.fromkeys(self.state_dict(), (modules, hidden))


def execute(network: nn.Module, execution: Execution) -> None:
    """Choose how every module layer of a network runs."""
    for layer in network.modules():
        if isinstance(layer, Block):
            layer.execution = execution


@contextmanager
def descending(network: nn.Module, descent: Descent | None) -> Iterator[None]:
    """Within it, a backward pass trains the linear maps of every module layer."""
    layers = [layer for layer in network.modules() if isinstance(layer, Block)]
    for layer in layers:
        layer.descent = descent
    try:
        yield
    finally:
        for layer in layers:
            layer.descent = None


class Bypass(nn.Module):
    """The residual module of a layer (ECLM 4.1): its input as it is, or through one linear map where the shape changes.

    The map starts as the identity on the channels that both sides have (He et al. 2016, option A).

    Args:
        held: 1, or 0 in a sub-model without it; the map's first axis.
        inputs, outputs: widths.
        stride: of the map, for images.
        pool: halve the image by pooling, as the other modules do.
        image: (B, C, h, w) rather than (B, C).
    """

    def __init__(self, held: int, inputs: int, outputs: int, stride: int = 1, pool: bool = False, image: bool = True):
        super().__init__()
        self.held, self.stride, self.pool, self.image = held, stride, pool, image
        self.map: nn.Parameter | None = None
        if inputs != outputs or stride != 1:
            eye = torch.eye(outputs, inputs).repeat(held, 1, 1)
            self.map = nn.Parameter(eye[..., None, None] if image else eye)

    def forward(self, x: Tensor, gates_BR: Tensor) -> Tensor | float:
        if not self.held:
            return 0.0
        x = pool2(x) if self.pool else x
        if self.map is not None:
            x = F.conv2d(x, self.map[0], stride=self.stride) if self.image else F.linear(x, self.map[0])
        return x * gates_BR.view(-1, *[1] * (x.dim() - 1))

    def axes(self, bypass: str, inputs: str | None, outputs: str) -> Axes:
        """Names of the axes of each parameter."""
        space = (None, None) if self.image else ()
        return {} if self.map is None else {"map": (bypass, outputs, inputs, *space)}


def _bypass_axes(
    module: Bypass | None, bypass: str, inputs: str | None, outputs: str
) -> dict[str, tuple[str | None, ...]]:
    own = {} if module is None else module.axes(bypass, inputs, outputs)
    return {f"bypass.{name}": axes for name, axes in own.items()}


class Block(nn.Module, ABC):
    """A layer of modules: shrunk ones, and perhaps a residual one.

    Attributes:
        second: the last linear map of the shrunk modules, (O, M, H, ...).
        bypass: the residual module, None in a layer that has none.
        execution: how the shrunk modules run.
        descent: how linear maps are trained in the backward pass, None where an optimizer does it.
    """

    second: nn.Parameter
    bypass: Bypass | None
    execution: Execution = "auto"
    descent: Descent | None = None

    def forward(self, x: Tensor, gates: Tensor | None = None) -> Tensor:
        """Run the block with ``gates`` (B, M + R); without, every module counts 1 and a residual module 0."""
        if gates is None or self.bypass is None:
            return self._shrunk(x, gates)
        modules = self.second.shape[1]
        return self._shrunk(x, gates[:, :modules]) + self.bypass(x, gates[:, modules:])

    @abstractmethod
    def _shrunk(self, x: Tensor, gates_BM: Tensor | None) -> Tensor:
        """The sum of the shrunk modules' outputs."""


class LinearBlock(Block):
    """``W2 relu(W1 x + b1) + b2``, its hidden units grouped into modules. (B, C) -> (B, O)."""

    def __init__(
        self,
        modules: int,
        inputs: int,
        hidden: int,
        outputs: int,
        generator: torch.Generator | None = None,
        bypass: int | None = None,
    ):
        super().__init__()
        self.first = _init(generator, modules, hidden, inputs, fan_in=inputs)
        self.first_bias = nn.Parameter(torch.zeros(modules, hidden))
        self.second = _init(generator, outputs, modules, hidden, fan_in=modules * hidden)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.bypass = None if bypass is None else Bypass(bypass, inputs, outputs, image=False)

    def _shrunk(self, x: Tensor, gates_BM: Tensor | None) -> Tensor:
        outputs, modules, hidden = self.second.shape
        macs = len(x) * hidden * (x.shape[1] + outputs)
        if gates_BM is not None and use_dispatch(gates_BM, self.execution, macs):
            out = self.bias.repeat(len(x), 1)
            for m in range(modules):
                rows = gates_BM[:, m].nonzero().squeeze(1)
                h = F.relu(F.linear(x[rows], self.first[m], self.first_bias[m]) * gates_BM[rows, m, None])
                out = out.index_add(0, rows, F.linear(h, self.second[:, m]).to(out.dtype))
            return out
        linear = self.descent.linear if self.descent else F.linear
        h = linear(x, self.first.view(-1, x.shape[1]), self.first_bias.flatten())
        if gates_BM is not None:
            h = (h.unflatten(1, (modules, hidden)) * gates_BM[:, :, None]).flatten(1)
        return linear(F.relu(h), self.second.view(outputs, -1), self.bias)

    def axes(self, modules: str, hidden: str, inputs: str | None, outputs: str, bypass: str) -> Axes:
        """Names of the axes of each parameter."""
        own: dict[str, tuple[str | None, ...]] = {
            "first": (modules, hidden, inputs),
            "first_bias": (modules, hidden),
            "second": (outputs, modules, hidden),
            "bias": (outputs,),
        }
        return own | _bypass_axes(self.bypass, bypass, inputs, outputs)


class ConvBlock(Block):
    """conv3x3 - norm - relu - conv3x3, its hidden channels grouped into modules. (B, C, h, w) -> (B, O, h/stride,
    w/stride).

    With ``pool`` a 2 x 2 max pooling stands before the second convolution and halves the image once more. The norm and
    the skip connection that follow the sum belong to the network, not to the modules. With batch norm training is
    always fused: the statistics are those of the whole batch, not of the samples routed to a module.
    """

    def __init__(
        self,
        modules: int,
        inputs: int,
        hidden: int,
        outputs: int,
        stride: int = 1,
        norm: str = "group",
        group_size: int = 8,
        generator: torch.Generator | None = None,
        pool: bool = False,
        bypass: int | None = None,
    ):
        super().__init__()
        self.first = _init(generator, modules, hidden, inputs, 3, 3, fan_in=9 * inputs)
        self.norm = Norm(modules, hidden, norm, group_size)
        self.second = _init(generator, outputs, modules, hidden, 3, 3, fan_in=9 * modules * hidden)
        self.stride = stride
        self.pool = pool
        self.bypass = None if bypass is None else Bypass(bypass, inputs, outputs, stride, pool)

    def _inner(self, x: Tensor, gates_BM: Tensor | None, module: int | None = None) -> Tensor:
        """Gated hidden activations (B, M * H, ...) of all modules, or (B, H, ...) of one."""
        first = self.first.flatten(0, 1) if module is None else self.first[module]
        h = self.norm(F.conv2d(x, first, stride=self.stride, padding=1), module)
        if gates_BM is not None:
            h = (h.unflatten(1, (gates_BM.shape[1], -1)) * gates_BM[:, :, None, None, None]).flatten(1, 2)
        h = F.relu(h)
        return pool2(h) if self.pool else h

    def _shrunk(self, x: Tensor, gates_BM: Tensor | None) -> Tensor:
        outputs, modules, hidden = self.second.shape[:3]
        macs = 9 * hidden * (x.shape[1] + outputs / (4 if self.pool else 1)) * x[:, 0].numel() / self.stride**2
        of_batch = self.training and self.norm.kind == "batch"
        if gates_BM is not None and (not modules or (not of_batch and use_dispatch(gates_BM, self.execution, macs))):
            step = self.stride * (2 if self.pool else 1)
            out = x.new_zeros(len(x), outputs, *(-(-n // step) for n in x.shape[2:]))  # as is, without any module
            for m in range(modules):
                rows = gates_BM[:, m].nonzero().squeeze(1)
                if not len(rows):
                    continue
                y = F.conv2d(self._inner(x[rows], gates_BM[rows, m : m + 1], m), self.second[:, m], padding=1)
                out = out.index_add(0, rows, y.to(out.dtype))
            return out
        return F.conv2d(self._inner(x, gates_BM), self.second.flatten(1, 2), padding=1)

    def axes(self, modules: str | None, hidden: str, inputs: str | None, outputs: str, bypass: str) -> Axes:
        """Names of the axes of each parameter."""
        own: dict[str, tuple[str | None, ...]] = {
            "first": (modules, hidden, inputs, None, None),
            "second": (outputs, modules, hidden, None, None),
        }
        own |= {f"norm.{name}": axes for name, axes in self.norm.axes(modules, hidden).items()}
        return own | _bypass_axes(self.bypass, bypass, inputs, outputs)
