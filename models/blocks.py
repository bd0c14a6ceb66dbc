"""The block: two linear maps around an inner width, as one module or as many.

A module layer computes ``sum_i g_i f_i(x)`` (ECLM eq. in 4.2), each module f_i being the original block with a narrower
inner width. A module ends in a linear map, so the whole layer is also ONE wide block whose hidden channels are grouped by
module and scaled by g before the last map: the *fused* execution, exact and dense. The *dispatch* execution runs each
module on the samples routed to it. A dense block is a layer of one module with gate 1, so a dense model, a modular model
and every sub-model are the same class built with different sizes.

Shape suffixes: B batch, M modules held, H hidden width of a module, C input channels, O output channels.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.axes import Axes

# Measured on CPU: fused wins while nearly all modules held are active, dispatch when at least twice as many are held.
DISPATCH_RATIO = 2.0


def _init(generator: torch.Generator | None, *shape: int, fan_in: int, gain: float = 2.0) -> nn.Parameter:
    """He initialisation for a map with ``fan_in`` inputs (gain 2 before a ReLU, 1 before a sum)."""
    return nn.Parameter(torch.randn(*shape, generator=generator) * math.sqrt(gain / fan_in))


def use_dispatch(gates_BM: Tensor | None, execution: str) -> bool:
    """Whether to run module by module. ``execution`` is 'fused', 'dispatch' or 'auto' (the measured rule)."""
    if gates_BM is None or execution == "fused":
        return False
    if execution == "dispatch":
        return True
    active = float((gates_BM > 0).sum()) / max(1, len(gates_BM))
    return gates_BM.shape[1] > DISPATCH_RATIO * active


class Norm(nn.Module):
    """Normalisation of (B, M*H, ...) activations with an affine map of shape (M, H) that is cut along with the modules.

    'group': group norm with groups of ``group_size`` channels that never straddle two modules, so that a module computes
    the same with or without its neighbours. 'batch': batch norm, whose running statistics are part of the state.
    """

    def __init__(self, modules: int, hidden: int, kind: str = "group", group_size: int = 8):
        super().__init__()
        self.kind = kind
        self.groups = modules * (hidden // group_size if hidden % group_size == 0 else 1)
        self.weight = nn.Parameter(torch.ones(modules, hidden))
        self.bias = nn.Parameter(torch.zeros(modules, hidden))
        if kind == "batch":
            self.register_buffer("mean", torch.zeros(modules, hidden))
            self.register_buffer("var", torch.ones(modules, hidden))

    def forward(self, x: Tensor, module: int | None = None) -> Tensor:
        """Normalise all modules' channels, or only those of one ``module`` (dispatch)."""
        weight, bias = self.weight, self.bias
        groups = self.groups
        if module is not None:
            weight, bias, groups = weight[module], bias[module], groups // len(self.weight)
        if self.kind == "group":
            # Not F.group_norm: it refuses one sample of one pixel although each group still has channels to normalise over.
            return torch.group_norm(x, groups, weight.reshape(-1), bias.reshape(-1))
        mean, var = (self.mean, self.var) if module is None else (self.mean[module], self.var[module])
        return F.batch_norm(x, mean.view(-1), var.view(-1), weight.reshape(-1), bias.reshape(-1), self.training, 0.1)

    def axes(self, modules: str | None, hidden: str) -> Axes:
        """Names of the axes of each parameter."""
        return {name: (modules, hidden) for name in self.state_dict()}


class LinearBlock(nn.Module):
    """``W2 relu(W1 x + b1) + b2``, its hidden units grouped into modules. (B, C) -> (B, O)."""

    def __init__(self, modules: int, inputs: int, hidden: int, outputs: int, generator: torch.Generator | None = None):
        super().__init__()
        self.first = _init(generator, modules, hidden, inputs, fan_in=inputs)
        self.first_bias = nn.Parameter(torch.zeros(modules, hidden))
        self.second = _init(generator, outputs, modules, hidden, fan_in=modules * hidden)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.execution = "auto"

    def forward(self, x_BC: Tensor, gates_BM: Tensor | None = None) -> Tensor:
        """Run the block; without gates every module counts 1."""
        outputs, modules, hidden = self.second.shape
        if gates_BM is not None and use_dispatch(gates_BM, self.execution):
            out = self.bias.repeat(len(x_BC), 1)
            for m in range(modules):
                rows = gates_BM[:, m].nonzero().squeeze(1)
                h = F.relu(F.linear(x_BC[rows], self.first[m], self.first_bias[m])) * gates_BM[rows, m, None]
                out = out.index_add(0, rows, F.linear(h, self.second[:, m]))
            return out
        h = F.relu(F.linear(x_BC, self.first.flatten(0, 1), self.first_bias.flatten()))
        if gates_BM is not None:
            h = (h.view(-1, modules, hidden) * gates_BM[:, :, None]).flatten(1)
        return F.linear(h, self.second.flatten(1), self.bias)

    def axes(self, modules: str, hidden: str, inputs: str | None, outputs: str) -> Axes:
        """Names of the axes of each parameter."""
        return {
            "first": (modules, hidden, inputs),
            "first_bias": (modules, hidden),
            "second": (outputs, modules, hidden),
            "bias": (outputs,),
        }


class ConvBlock(nn.Module):
    """conv3x3 - norm - relu - conv3x3, its hidden channels grouped into modules. (B, C, h, w) -> (B, O, h/stride, w/stride).

    The norm and the skip connection that follow the sum belong to the network, not to the modules.
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
    ):
        super().__init__()
        self.first = _init(generator, modules, hidden, inputs, 3, 3, fan_in=9 * inputs)
        self.norm = Norm(modules, hidden, norm, group_size)
        self.second = _init(generator, outputs, modules, hidden, 3, 3, fan_in=9 * modules * hidden)
        self.stride = stride
        self.execution = "auto"

    def forward(self, x: Tensor, gates_BM: Tensor | None = None) -> Tensor:
        """Run the block; without gates every module counts 1."""
        outputs, modules, hidden = self.second.shape[:3]
        if gates_BM is not None and use_dispatch(gates_BM, self.execution):
            out = None
            for m in range(modules):
                rows = gates_BM[:, m].nonzero().squeeze(1)
                if not len(rows):
                    continue
                h = F.relu(self.norm(F.conv2d(x[rows], self.first[m], stride=self.stride, padding=1), module=m))
                y = F.conv2d(h * gates_BM[rows, m, None, None, None], self.second[:, m], padding=1)
                out = y.new_zeros(len(x), *y.shape[1:]) if out is None else out
                out = out.index_add(0, rows, y)
            assert out is not None, "every sample has at least one active module"
            return out
        h = F.conv2d(x, self.first.flatten(0, 1), stride=self.stride, padding=1)
        h = F.relu(self.norm(h))
        if gates_BM is not None:
            h = (h.unflatten(1, (modules, hidden)) * gates_BM[:, :, None, None, None]).flatten(1, 2)
        return F.conv2d(h, self.second.flatten(1, 2), padding=1)

    def axes(self, modules: str, hidden: str, inputs: str | None, outputs: str) -> Axes:
        """Names of the axes of each parameter."""
        own: dict[str, tuple[str | None, ...]] = {
            "first": (modules, hidden, inputs, None, None),
            "second": (outputs, modules, hidden, None, None),
        }
        return own | {f"norm.{name}": axes for name, axes in self.norm.axes(modules, hidden).items()}
