"""VGG16 with norms (Simonyan, Zisserman 2015, arXiv:1409.1556) for small images; its last blocks are module layers.

13 convolutions form stages of (2, 2, 3, 3, 3), with a 2 x 2 max pooling P after each stage. A module must end in a
linear map and have the outer dimensions of its block. Convolutions are therefore grouped in pairs, conv - norm - relu -
conv. After each pair come a norm and a ReLU that all modules share. The first convolution is the stem; the other 12
form 6 blocks. If a stage ends inside a pair, so does its pooling:

    stem c1.1 | c1.2 P c2.1 | c2.2 P c3.1 | c3.2 c3.3, P | c4.1 c4.2 | c4.3 P c5.1 | c5.2 c5.3, P | mean, linear

The last three blocks, the module layers of ECLM 7.1, hold 88 % of the parameters. A block without a module axis in
``sizes`` stays dense, and every sub-model contains it. The dense part is small to send but costly to compute: at 32 x
32 pixels the stem and the first three blocks take 61 % of the MACs. Tighter device limits need more module layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.nn.blocks import ConvBlock, Norm, he_init, pool2
from models.nn.body import Architecture, Body, Shape, last_stages
from models.nn.resnet import Groups
from models.submodel import Axes, Dimension, Sizes


@dataclass(frozen=True)
class BlockSpec:
    """Widths and poolings of a block of two convolutions.

    Args:
        hidden, out: widths after the first and the second convolution, as multiples of the stem's width.
        pool_inside, pool_after: whether pooling halves the image between the convolutions, and after both.
    """

    hidden: int
    out: int
    pool_inside: bool = False
    pool_after: bool = False


VGG16 = (
    BlockSpec(1, 2, pool_inside=True),
    BlockSpec(2, 4, pool_inside=True),
    BlockSpec(4, 4, pool_after=True),
    BlockSpec(8, 8),
    BlockSpec(8, 8, pool_inside=True),
    BlockSpec(8, 8, pool_after=True),
)


class Pair(nn.Module):
    """Compute relu(norm(block(x))), optionally followed by a pooling."""

    def __init__(
        self,
        spec: BlockSpec,
        modules: int,
        inputs: int,
        hidden: int,
        outputs: int,
        norm: str,
        group_sizes: tuple[int, int],
        generator: torch.Generator | None,
        bypass: int | None,
    ):
        super().__init__()
        self.block = ConvBlock(
            modules, inputs, hidden, outputs, 1, norm, group_sizes[0], generator, spec.pool_inside, bypass
        )
        self.norm = Norm(1, outputs, norm, group_sizes[1])
        self.pool = spec.pool_after

    def forward(self, x: Tensor, gates_BM: Tensor | None) -> Tensor:
        x = F.relu(self.norm(self.block(x, gates_BM)))
        return pool2(x) if self.pool else x

    def axes(self, modules: str | None, hidden: str, inputs: str, outputs: str, bypass: str) -> Axes:
        axes = {f"block.{name}": a for name, a in self.block.axes(modules, hidden, inputs, outputs, bypass).items()}
        return axes | {f"norm.{name}": a for name, a in self.norm.axes(None, outputs).items()}


class VGG(Body):
    """Stem, pairs of convolutions, global average, linear head. (B, C, H, W) -> (B, classes)."""

    def __init__(
        self,
        sizes: Sizes,
        channels: int,
        specs: Sequence[BlockSpec],
        norm: str,
        group_size: int,
        generator: torch.Generator | None = None,
    ):
        super().__init__(sizes)
        self.layers = tuple(a for a in (f"block{b}.modules" for b in range(1, len(specs) + 1)) if a in sizes)
        self.stem = he_init(generator, sizes["stem"], channels, 3, 3, fan_in=9 * channels)
        self.stem_norm = Norm(1, sizes["stem"], norm, group_size)
        self.blocks = nn.ModuleList()
        inputs = sizes["stem"]
        for b, spec in enumerate(specs, start=1):
            outputs = sizes[f"block{b}.out"]
            self.blocks.append(
                Pair(
                    spec,
                    sizes.get(f"block{b}.modules", 1),
                    inputs,
                    sizes[f"block{b}.hidden"],
                    outputs,
                    norm,
                    (group_size * spec.hidden, group_size * spec.out),
                    generator,
                    sizes.get(f"block{b}.bypass"),
                )
            )
            inputs = outputs
        self.head = nn.Linear(inputs, sizes["classes"])
        if generator is not None:
            nn.init.normal_(self.head.weight, std=inputs**-0.5, generator=generator)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, gates: Sequence[Tensor] | None = None) -> Tensor:
        # HeteroFL's scaler would precede each norm, which cancels it, so it is omitted.
        routed = {} if gates is None else dict(zip(self.layers, gates, strict=True))
        x = F.relu(self.stem_norm(F.conv2d(x, self.stem, padding=1)))
        for b, block in enumerate(self.blocks, start=1):
            x = block(x, routed.get(f"block{b}.modules"))
        return self.head(x.mean((2, 3)))

    def axes(self) -> Axes:
        axes: dict[str, tuple[Dimension, ...]] = {"stem": ("stem", None, None, None)}
        axes |= {f"stem_norm.{name}": a for name, a in self.stem_norm.axes(None, "stem").items()}
        inputs = "stem"
        for b, block in enumerate(self.blocks, start=1):
            assert isinstance(block, Pair)
            modules = f"block{b}.modules" if f"block{b}.modules" in self.layers else None
            block_axes = block.axes(modules, f"block{b}.hidden", inputs, f"block{b}.out", f"block{b}.bypass")
            axes |= {f"blocks.{b - 1}.{name}": a for name, a in block_axes.items()}
            inputs = f"block{b}.out"
        return axes | {"head.weight": ("classes", inputs), "head.bias": ("classes",)}


def vgg16(
    input_shape: Shape, classes: int, width: int = 64, norm: str = "group", groups: Groups = 8, layers: int = 3
) -> Architecture:
    """Build a VGG16 for images of any size.

    As usual for images of 32 x 32 pixels, one linear layer replaces the original's three.

    Args:
        input_shape: (C, H, W).
        classes: number of classes.
        width: channels of the first convolution (64 in the paper).
        norm: 'group' or 'batch'; `blocks.Norm` explains why group norm is the default.
        groups: groups per group norm of the whole model; ``shrink`` should divide it, see `models.nn.resnet.resnet18`.
        layers: number of the 6 blocks, counted from the last, that are module layers.
    """

    def build(sizes: Sizes, generator: torch.Generator | None) -> VGG:
        return VGG(sizes, input_shape[0], VGG16, norm, max(1, width // groups), generator)

    modular = last_stages(len(VGG16), layers)
    sizes = {"classes": classes, "stem": width}
    for b, spec in enumerate(VGG16, start=1):
        sizes |= {f"block{b}.hidden": spec.hidden * width, f"block{b}.out": spec.out * width}
        if b in modular:
            sizes[f"block{b}.modules"] = 1
    return Architecture(build, sizes, input_shape)
