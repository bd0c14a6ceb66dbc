"""The block: two linear maps around an inner width, executed as one module or as many.

A module layer computes ``sum_i g_i f_i(x)`` (ECLM eq. in 4.2). Each module f_i is the original block with a narrower
inner width. A module ends in a linear map. The whole layer therefore equals ONE wide block whose hidden channels are
grouped by module and scaled by g before the last map: the *fused* execution, exact and dense. The *dispatch* execution
runs each module on the samples routed to it. A layer may have one more module, a residual one (`Bypass`); its gate is
the last column. A dense block is a layer of one module with gate 1. A dense model, a modular model and every sub-model
are thus the same class with different sizes. Gates are not negative, so they may scale the input of the ReLU instead.
The backward pass then saves no extra copy of the hidden activations.

Shape suffixes: B batch, M modules in the (sub-)model, R residual modules (0 or 1), H hidden width of a module, C input
channels, O output channels.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.submodel import Axes, Dimension, Sizes, axis_names
from models.training.descent import Descent

Execution = Literal["auto", "fused", "dispatch"]

# Measured on a CPU (forward and backward, 16 modules, batches of 16 and 64, 16 to 512 channels): dispatch is faster if
# at least twice as many modules are present as are active AND each module has enough work to pay for its own call. With
# small modules, fused is 1.5 to 10 times faster.
DISPATCH_RATIO = 2.0  # modules present per active module
DISPATCH_MACS = 5e7  # multiply-accumulates of one module on the whole batch


def he_init(generator: torch.Generator | None, *shape: int, fan_in: int, gain: float = 2.0) -> nn.Parameter:
    """Draw a parameter by He initialisation for a map with ``fan_in`` inputs.

    Args:
        generator: source of the random numbers. None: zeros, for parameters that will be overwritten.
        gain: 2 before a ReLU, 1 before a sum.
    """
    if generator is None:
        return nn.Parameter(torch.zeros(shape))
    return nn.Parameter(torch.randn(*shape, generator=generator) * math.sqrt(gain / max(1, fan_in)))


def pool2(x: Tensor) -> Tensor:
    """Apply 2 x 2 max pooling that keeps an odd last row or column, so an image of any size works."""
    return F.max_pool2d(x, 2, ceil_mode=True)


def use_dispatch(gates_BM: Tensor, execution: Execution, macs: float) -> bool:
    """Decide whether to run module by module.

    Args:
        gates_BM: gates of the batch.
        execution: 'fused', 'dispatch', or 'auto' for the measured rule.
        macs: multiply-accumulates of one module on the whole batch.
    """
    if execution != "auto":
        return execution == "dispatch"
    if macs < DISPATCH_MACS or gates_BM.device.type != "cpu":  # counting the gates would synchronise with a GPU
        return False
    active = float((gates_BM > 0).sum()) / max(1, len(gates_BM))
    return gates_BM.shape[1] >= DISPATCH_RATIO * active


MOMENTUM = 0.1  # of the running statistics in `Norm`


class Norm(nn.Module):
    """Normalise (B, M*H, ...) activations, with an affine map (M, H) that is cut along with the modules.

    'group', the default: group norm with groups of ``group_size`` channels that never span two modules. The output of a
    module depends neither on the other modules nor on the rest of the batch. No running statistics can become outdated.

    'batch': batch norm. Its running statistics (M, H) are entries of the state; they are cut, sent and aggregated with
    their modules. Inside a module they describe its hidden channels over the whole batch, independent of other modules
    and of the routing. The norm after the sum differs: its statistics describe a sum over the modules that the
    sub-model contains. A sub-model starts with the whole model's statistics and drifts to its own. Aggregation then
    averages statistics of different sums, and a mean of variances omits the spread between the clients' means, which
    label skew makes large. Hence the default. A single value per channel has no variance, so the running statistics
    normalise it.

    Raises:
        ValueError: the kind is neither.
    """

    mean: Tensor
    var: Tensor
    never_negative = ("var",)

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
        """Normalise the channels of all modules, or of a single ``module`` (dispatch)."""
        selected = slice(None) if module is None else module
        weight, bias = self.weight[selected], self.bias[selected]
        groups = self.groups if module is None else self.groups // len(self.weight)
        if self.kind == "group":
            # F.group_norm refuses one sample of one pixel, although each group still has channels to normalise over.
            return torch.group_norm(x, groups, weight.reshape(-1), bias.reshape(-1))
        mean, var = self.mean[selected].view(-1), self.var[selected].view(-1)
        of_batch = self.training and x[:, 0].numel() > 1
        return F.batch_norm(x, mean, var, weight.reshape(-1), bias.reshape(-1), of_batch, MOMENTUM)

    def axes(self, modules: str | None, hidden: str) -> Axes:
        """Name the axes of each parameter."""
        return dict.fromkeys(self.state_dict(), (modules, hidden))


def is_norm(module: nn.Module) -> bool:
    """Return whether a module normalises: `Norm`, or a norm of torch."""
    return isinstance(module, Norm | nn.modules.batchnorm._NormBase | nn.GroupNorm | nn.LayerNorm)


def running_statistics(module: nn.Module) -> tuple[list[Tensor], float]:
    """Return the running mean and variance of a batch norm, and their momentum. Other modules have none."""
    if isinstance(module, Norm) and module.kind == "batch":
        return [module.mean, module.var], MOMENTUM
    if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.momentum and module.running_mean is not None:
        assert module.running_var is not None
        return [module.running_mean, module.running_var], module.momentum
    return [], 1.0


def channel_groups(sizes: Sizes, axes: Axes, network: nn.Module) -> dict[str, int]:
    """Return, per axis, how many channels must be cut together.

    A group norm computes the same in a slice only if the slice contains whole groups.
    """
    groups = dict.fromkeys(sizes, 1)
    for name, norm in network.named_modules():
        size, dimension = 1, None
        if isinstance(norm, Norm) and norm.kind == "group":
            size, dimension = norm.weight.numel() // norm.groups, axes[f"{name}.weight"][1]
        elif isinstance(norm, nn.GroupNorm) and norm.affine:
            size, dimension = norm.num_channels // norm.num_groups, axes[f"{name}.weight"][0]
        for axis in axis_names([dimension]):
            groups[axis] = math.lcm(groups[axis], size)
    return groups


def never_negative(network: nn.Module) -> frozenset[str]:
    """Name the entries of ``network.state_dict()`` that no training makes negative, such as running variances.

    A module class names its own in ``never_negative``; those of torch's norms are known.
    """
    names = set()
    for path, module in network.named_modules():
        of_torch = ("running_var", "num_batches_tracked") if isinstance(module, nn.modules.batchnorm._NormBase) else ()
        names |= {f"{path}.{name}".lstrip(".") for name in getattr(module, "never_negative", of_torch)}
    return frozenset(names & network.state_dict().keys())


def torch_batch_norms(network: nn.Module) -> list[nn.Module]:
    """Return torch's own batch norms in a network. They refuse one sample in training, which `Norm` does not."""
    return [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def freeze_statistics(network: nn.Module) -> bool:
    """Let batch norms normalise by their running statistics and keep them, until the network is set to train again.

    Return whether there are any.
    """
    kept = ("mean", "running_mean")  # of `Norm` and of torch's
    norms = [m for m in network.modules() if is_norm(m) and any(getattr(m, name, None) is not None for name in kept)]
    for norm in norms:
        norm.eval()
    return bool(norms)


def set_execution(network: nn.Module, execution: Execution) -> None:
    """Set how every module layer of a network runs."""
    for layer in network.modules():
        if isinstance(layer, Block):
            layer.execution = execution


@contextmanager
def descending(network: nn.Module, descent: Descent | None) -> Iterator[None]:
    """Within the context, let the backward pass update the linear maps of every module layer."""
    layers = [layer for layer in network.modules() if isinstance(layer, Block)]
    for layer in layers:
        layer.descent = descent
    try:
        yield
    finally:
        for layer in layers:
            layer.descent = None


class Bypass(nn.Module):
    """The residual module of a layer (ECLM 4.1): the identity, or one linear map if the shape changes.

    The map starts as the identity on the channels that input and output share (He et al. 2016, option A).

    Args:
        count: 1, or 0 in a sub-model without the residual module; length of the map's first axis.
        inputs, outputs: widths.
        stride: stride of the map, for images.
        pool: halve the image by pooling, as the other modules do.
        image: inputs are (B, C, h, w) rather than (B, C).
    """

    def __init__(self, count: int, inputs: int, outputs: int, stride: int = 1, pool: bool = False, image: bool = True):
        super().__init__()
        self.count, self.stride, self.pool, self.image = count, stride, pool, image
        self.map: nn.Parameter | None = None
        if inputs != outputs or stride != 1:
            identity = torch.eye(outputs, inputs).repeat(count, 1, 1)
            self.map = nn.Parameter(identity[..., None, None] if image else identity)

    def forward(self, x: Tensor, gates_BR: Tensor) -> Tensor | float:
        if not self.count:
            return 0.0
        x = pool2(x) if self.pool else x
        if self.map is not None:
            x = F.conv2d(x, self.map[0], stride=self.stride) if self.image else F.linear(x, self.map[0])
        return x * gates_BR.view(-1, *[1] * (x.dim() - 1))

    def axes(self, bypass: str, inputs: str | None, outputs: str) -> Axes:
        """Name the axes of each parameter."""
        space = (None, None) if self.image else ()
        return {} if self.map is None else {"map": (bypass, outputs, inputs, *space)}


def _bypass_axes(
    module: Bypass | None, bypass: str, inputs: str | None, outputs: str
) -> dict[str, tuple[Dimension, ...]]:
    axes = {} if module is None else module.axes(bypass, inputs, outputs)
    return {f"bypass.{name}": names for name, names in axes.items()}


class Block(nn.Module, ABC):
    """A layer of modules: shrunk modules and optionally a residual one.

    Attributes:
        second: last linear map of the shrunk modules, (O, M, H, ...).
        bypass: the residual module, or None.
        execution: how the shrunk modules run.
        descent: update rule of the linear maps inside the backward pass; None if an optimizer updates them.
    """

    second: nn.Parameter
    bypass: Bypass | None
    execution: Execution = "auto"
    descent: Descent | None = None

    def forward(self, x: Tensor, gates: Tensor | None = None) -> Tensor:
        """Run the block.

        Args:
            x: (B, C, ...) inputs.
            gates: (B, M + R); None: 1 for every shrunk module and 0 for a residual module.
        """
        if gates is None or self.bypass is None:
            return self._shrunk(x, gates)
        modules = self.second.shape[1]
        return self._shrunk(x, gates[:, :modules]) + self.bypass(x, gates[:, modules:])

    @abstractmethod
    def _shrunk(self, x: Tensor, gates_BM: Tensor | None) -> Tensor:
        """Return the sum of the outputs of the shrunk modules."""


class LinearBlock(Block):
    """Compute ``W2 relu(W1 x + b1) + b2`` with hidden units grouped into modules. (B, C) -> (B, O)."""

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
        self.first = he_init(generator, modules, hidden, inputs, fan_in=inputs)
        self.first_bias = nn.Parameter(torch.zeros(modules, hidden))
        self.second = he_init(generator, outputs, modules, hidden, fan_in=modules * hidden)
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
        """Name the axes of each parameter."""
        axes: dict[str, tuple[Dimension, ...]] = {
            "first": (modules, hidden, inputs),
            "first_bias": (modules, hidden),
            "second": (outputs, modules, hidden),
            "bias": (outputs,),
        }
        return axes | _bypass_axes(self.bypass, bypass, inputs, outputs)


class ConvBlock(Block):
    """Compute conv3x3 - norm - relu - conv3x3 with hidden channels grouped into modules.

    (B, C, h, w) -> (B, O, h/stride, w/stride). With ``pool`` a 2 x 2 max pooling precedes the second convolution and
    halves the image once more. The norm and the skip connection after the sum belong to the network, not to the
    modules. With batch norm, training is always fused: its statistics cover the whole batch, not only the samples
    routed to a module.
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
        self.first = he_init(generator, modules, hidden, inputs, 3, 3, fan_in=9 * inputs)
        self.norm = Norm(modules, hidden, norm, group_size)
        self.second = he_init(generator, outputs, modules, hidden, 3, 3, fan_in=9 * modules * hidden)
        self.stride = stride
        self.pool = pool
        self.bypass = None if bypass is None else Bypass(bypass, inputs, outputs, stride, pool)

    def _inner(self, x: Tensor, gates_BM: Tensor | None, module: int | None = None) -> Tensor:
        """Return gated hidden activations (B, M * H, ...) of all modules, or (B, H, ...) of one."""
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
            # the result if no module is active
            out = x.new_zeros(len(x), outputs, *(-(-n // step) for n in x.shape[2:]))
            for m in range(modules):
                rows = gates_BM[:, m].nonzero().squeeze(1)
                if not len(rows):
                    continue
                y = F.conv2d(self._inner(x[rows], gates_BM[rows, m : m + 1], m), self.second[:, m], padding=1)
                out = out.index_add(0, rows, y.to(out.dtype))
            return out
        return F.conv2d(self._inner(x, gates_BM), self.second.flatten(1, 2), padding=1)

    def axes(self, modules: str | None, hidden: str, inputs: str | None, outputs: str, bypass: str) -> Axes:
        """Name the axes of each parameter."""
        axes: dict[str, tuple[Dimension, ...]] = {
            "first": (modules, hidden, inputs, None, None),
            "second": (outputs, modules, hidden, None, None),
        }
        axes |= {f"norm.{name}": names for name, names in self.norm.axes(modules, hidden).items()}
        return axes | _bypass_axes(self.bypass, bypass, inputs, outputs)
