"""The three-layer perceptron for activity recognition; its first two layers are one module layer (ECLM 7.1)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.nn.blocks import LinearBlock
from models.nn.body import Architecture, Body, Shape
from models.submodel import Axes, Sizes


class MLP(Body):
    """Linear - ReLU - Linear - ReLU - Linear; the first two form the block. (B, ...) -> (B, classes)."""

    layers = ("block.modules",)

    def __init__(self, sizes: Sizes, inputs: int, generator: torch.Generator | None = None):
        super().__init__(sizes)
        self.block = LinearBlock(
            sizes["block.modules"], inputs, sizes["block.hidden"], sizes["out"], generator, sizes.get("block.bypass")
        )
        self.head = nn.Linear(sizes["out"], sizes["classes"])
        if generator is not None:
            nn.init.normal_(self.head.weight, std=sizes["out"] ** -0.5, generator=generator)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, gates: Sequence[Tensor] | None = None) -> Tensor:
        h = F.relu(self.block(x.flatten(1), None if gates is None else gates[0]))
        if self.rate != 1:
            h = h / self.rate
        return self.head(h)

    def axes(self) -> Axes:
        block = self.block.axes("block.modules", "block.hidden", None, "out", "block.bypass")
        return {f"block.{name}": axes for name, axes in block.items()} | {
            "head.weight": ("classes", "out"),
            "head.bias": ("classes",),
        }


def mlp(input_shape: Shape, classes: int, width: int = 256) -> Architecture:
    """Build the dense perceptron with inner width ``width`` and ``width / 2`` units before the head."""
    inputs = 1
    for n in input_shape:
        inputs *= n

    def build(sizes: Sizes, generator: torch.Generator | None) -> MLP:
        return MLP(sizes, inputs, generator)

    sizes = {"block.modules": 1, "block.hidden": width, "out": width // 2, "classes": classes}
    return Architecture(build, sizes, input_shape)
