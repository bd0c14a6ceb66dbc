"""The small CNN of federated benchmarks: two 3 x 3 convolutions, 2 x 2 max pooling, and a perceptron on what is left.

It is `simple_cnn` of pfl-research (Granqvist et al. 2024, arXiv:2404.06430) and, but for its kernel sizes, the network
of McMahan et al. 2017 (arXiv:1602.05629). The perceptron's two linear maps, 99 % of the parameters, are one module
layer; every sub-model holds the convolutions.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.nn.blocks import LinearBlock, _init, pool2
from models.nn.body import Architecture, Body
from models.submodel import Axes, Sizes


class CNN(Body):
    """(B, C, H, W) -> (B, classes)."""

    layers = ("block.modules",)

    def __init__(self, sizes: Sizes, input_shape: Sequence[int], width: int, generator: torch.Generator | None = None):
        super().__init__(sizes)
        channels, height, wide = input_shape
        self.first = _init(generator, width, channels, 3, 3, fan_in=9 * channels)
        self.first_bias = nn.Parameter(torch.zeros(width))
        self.second = _init(generator, 2 * width, width, 3, 3, fan_in=9 * width)
        self.second_bias = nn.Parameter(torch.zeros(2 * width))
        features = 2 * width * math.prod(-(-(n - 4) // 2) for n in (height, wide))
        self.block = LinearBlock(
            sizes["block.modules"], features, sizes["block.hidden"], sizes["classes"], generator,
            sizes.get("block.bypass"),
        )  # fmt: skip

    def forward(self, x: Tensor, gates: Sequence[Tensor] | None = None) -> Tensor:
        # Measured on a CPU: with the channels last, and pooled before the ReLU (it is the same), a step takes 0.79 of
        # its time.
        x = x.contiguous(memory_format=torch.channels_last)
        x = F.relu(F.conv2d(x, self.first, self.first_bias))
        x = F.relu(pool2(F.conv2d(x, self.second, self.second_bias)))
        if self.rate != 1:  # a slice: its hidden units are those of the block
            gates = [x.new_full((len(x), 1), 1 / self.rate)]
        return self.block(x.flatten(1), None if gates is None else gates[0])

    def axes(self) -> Axes:
        block = self.block.axes("block.modules", "block.hidden", None, "classes", "block.bypass")
        kernel, bias = (None,) * 4, (None,)
        return {f"block.{name}": axes for name, axes in block.items()} | {
            "first": kernel, "first_bias": bias, "second": kernel, "second_bias": bias,
        }  # fmt: skip


def cnn(input_shape: tuple[int, ...], classes: int, width: int = 32) -> Architecture:
    """The CNN whose convolutions have ``width`` and twice as many channels, and 4 ``width`` hidden units.

    Raises:
        ValueError: the samples are no images, or smaller than 6 x 6.
    """
    if len(input_shape) != 3 or min(input_shape[1:]) < 6:
        raise ValueError(f"model = 'cnn' needs images of at least 6 x 6 pixels, not samples of shape {input_shape}")

    def build(sizes: Sizes, generator: torch.Generator | None) -> CNN:
        return CNN(sizes, input_shape, width, generator)

    return Architecture(build, {"block.modules": 1, "block.hidden": 4 * width, "classes": classes}, input_shape)
