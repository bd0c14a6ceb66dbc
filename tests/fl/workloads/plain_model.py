"""A model as a user may write one: torch's batch norm, an integer buffer, another buffer, no module layers."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.nn.body import Architecture, Body
from models.submodel import Axes, Sizes


class Plain(Body):
    layers = ()

    def __init__(self, sizes: Sizes, inputs: int):
        super().__init__(sizes)
        self.first = nn.Linear(inputs, sizes["hidden"])
        self.norm = nn.BatchNorm1d(sizes["hidden"])
        self.head = nn.Linear(sizes["hidden"], sizes["classes"])
        self.register_buffer("scale", torch.full((), 2.0))

    def forward(self, x: Tensor, gates: Sequence[Tensor] | None = None) -> Tensor:
        return self.head(torch.relu(self.norm(self.first(x.flatten(1) * self.scale))))

    def axes(self) -> Axes:
        hidden = {f"norm.{name}": ("hidden",) for name in ("weight", "bias", "running_mean", "running_var")}
        first = {"first.weight": ("hidden", None), "first.bias": ("hidden",)}
        head = {"head.weight": ("classes", "hidden"), "head.bias": ("classes",)}
        return {**first, **hidden, "norm.num_batches_tracked": (), **head, "scale": ()}


def plain(input_shape: tuple[int, ...], classes: int, width: int = 16) -> Architecture:
    sizes = {"hidden": width, "classes": classes}
    return Architecture(lambda sizes, _: Plain(sizes, math.prod(input_shape)), sizes, input_shape)


def narrow(num_classes=6):  # type: ignore[no-untyped-def]  # users need not annotate
    """Return a network without a layer that ECLM cuts into modules; most of it is in every sub-model."""
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(37), nn.ReLU(), nn.Linear(37, num_classes))
