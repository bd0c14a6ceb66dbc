"""ResNet18 and ResNet34 with the CIFAR stem (He et al. 2016, arXiv:1512.03385); stages are module layers (ECLM 7.1).

The blocks of a stage share one row of gates: module i of the layer is module i of every block. All modules share the
stem, the skip connections, the norms after each sum and the head. A stage without a module axis in ``sizes`` is no
module layer: it stays dense, and every sub-model contains it.

A residual module (ECLM 4.1) adds its gated input inside the norm of every block of its stage. The skip connection
carries the input past the norm with a fixed weight. Through the residual module, the selector decides per sample how
much the other modules change the input.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from models.nn.blocks import ConvBlock, Norm, he_init
from models.nn.body import Architecture, Body, Shape, last_stages
from models.submodel import Axes, Dimension, Sizes

Groups = Annotated[int, Field(ge=1, description="groups per group norm of the whole model")]


class Residual(nn.Module):
    """Compute relu(norm(block(x)) + skip(x)) with a 1x1 projection if the shape changes."""

    def __init__(
        self,
        modules: int,
        inputs: int,
        hidden: int,
        outputs: int,
        stride: int,
        project: bool,
        norm: str,
        group_size: int,
        generator: torch.Generator | None,
        bypass: int | None,
    ):
        super().__init__()
        self.block = ConvBlock(modules, inputs, hidden, outputs, stride, norm, group_size, generator, bypass=bypass)
        self.norm = Norm(1, outputs, norm, group_size)
        self.stride = stride
        self.project: nn.Parameter | None = None
        if project:
            self.project = he_init(generator, outputs, inputs, 1, 1, fan_in=inputs, gain=1.0)
            self.project_norm = Norm(1, outputs, norm, group_size)

    def forward(self, x: Tensor, gates_BM: Tensor | None) -> Tensor:
        y = self.norm(self.block(x, gates_BM))
        if self.project is not None:
            x = self.project_norm(F.conv2d(x, self.project, stride=self.stride))
        return F.relu(y + x)

    def axes(self, modules: str | None, hidden: str, inputs: str, outputs: str, bypass: str) -> Axes:
        axes: dict[str, tuple[Dimension, ...]] = {}
        block_axes = self.block.axes(modules, hidden, inputs, outputs, bypass)
        axes |= {f"block.{name}": a for name, a in block_axes.items()}
        axes |= {f"norm.{name}": a for name, a in self.norm.axes(None, outputs).items()}
        if self.project is not None:
            axes["project"] = (outputs, inputs, None, None)
            axes |= {f"project_norm.{name}": a for name, a in self.project_norm.axes(None, outputs).items()}
        return axes


class ResNet(Body):
    """Stem, ``len(depths)`` stages, global average, linear head. (B, C, H, W) -> (B, classes)."""

    def __init__(
        self,
        sizes: Sizes,
        channels: int,
        depths: Sequence[int],
        norm: str,
        group_sizes: Sequence[int],
        generator: torch.Generator | None = None,
    ):
        super().__init__(sizes)
        self.layers = tuple(a for a in (f"stage{s}.modules" for s in range(1, len(depths) + 1)) if a in sizes)
        width = sizes["stage1.out"]
        self.stem = he_init(generator, width, channels, 3, 3, fan_in=9 * channels)
        self.stem_norm = Norm(1, width, norm, group_sizes[0])
        self.stages = nn.ModuleList()
        for s, depth in enumerate(depths, start=1):
            outputs = sizes[f"stage{s}.out"]
            stage = nn.ModuleList()
            for b in range(depth):
                first = b == 0 and s > 1  # the first block of a later stage halves the image and widens
                stage.append(
                    Residual(
                        sizes.get(f"stage{s}.modules", 1),
                        sizes[f"stage{s - 1}.out"] if first else outputs,
                        sizes[f"stage{s}.hidden"],
                        outputs,
                        2 if first else 1,
                        first,
                        norm,
                        group_sizes[s - 1],
                        generator,
                        sizes.get(f"stage{s}.bypass"),
                    )
                )
            self.stages.append(stage)
        self.head = nn.Linear(sizes[f"stage{len(depths)}.out"], sizes["classes"])
        if generator is not None:
            nn.init.normal_(self.head.weight, std=self.head.in_features**-0.5, generator=generator)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, gates: Sequence[Tensor] | None = None) -> Tensor:
        # HeteroFL's scaler would precede each norm, which cancels it, so it is omitted.
        x = F.relu(self.stem_norm(F.conv2d(x, self.stem, padding=1)))
        routed = {} if gates is None else dict(zip(self.layers, gates, strict=True))
        for s, stage in enumerate(self.stages, start=1):
            for block in stage.children():
                x = block(x, routed.get(f"stage{s}.modules"))
        return self.head(x.mean((2, 3)))

    def axes(self) -> Axes:
        axes: dict[str, tuple[Dimension, ...]] = {"stem": ("stage1.out", None, None, None)}
        axes |= {f"stem_norm.{name}": a for name, a in self.stem_norm.axes(None, "stage1.out").items()}
        for s, stage in enumerate(self.stages, start=1):
            for b, block in enumerate(stage.children()):
                assert isinstance(block, Residual)
                inputs = f"stage{s - 1}.out" if b == 0 and s > 1 else f"stage{s}.out"
                modules = f"stage{s}.modules" if f"stage{s}.modules" in self.layers else None
                block_axes = block.axes(modules, f"stage{s}.hidden", inputs, f"stage{s}.out", f"stage{s}.bypass")
                axes |= {f"stages.{s - 1}.{b}.{name}": a for name, a in block_axes.items()}
        head = f"stage{len(self.stages)}.out"
        return axes | {"head.weight": ("classes", head), "head.bias": ("classes",)}


def _resnet(
    depths: Sequence[int], input_shape: Shape, classes: int, width: int, norm: str, groups: int, layers: int
) -> Architecture:
    widths = [width * 2**s for s in range(len(depths))]
    group_sizes = [max(1, w // groups) for w in widths]

    def build(sizes: Sizes, generator: torch.Generator | None) -> ResNet:
        return ResNet(sizes, input_shape[0], depths, norm, group_sizes, generator)

    modular = last_stages(len(depths), layers)
    sizes = {"classes": classes}
    for s, w in enumerate(widths, start=1):
        sizes |= {f"stage{s}.out": w, f"stage{s}.hidden": w}
        if s in modular:
            sizes[f"stage{s}.modules"] = 1
    return Architecture(build, sizes, input_shape)


def resnet18(
    input_shape: Shape, classes: int, width: int = 64, norm: str = "group", groups: Groups = 8, layers: int = 4
) -> Architecture:
    """Build a ResNet18 for images of any height and width.

    Args:
        input_shape: (C, H, W).
        classes: number of classes.
        width: channels of the first stage (64 in the paper).
        norm: 'group' or 'batch'; `blocks.Norm` explains why group norm is the default.
        groups: groups per group norm of the whole model. Modules take over a trained model exactly if they contain
            whole groups, so ``shrink`` should divide ``groups``. Narrower networks have fewer groups of the same size.
        layers: number of stages, counted from the last, that are module layers (4 in the paper).
    """
    return _resnet((2, 2, 2, 2), input_shape, classes, width, norm, groups, layers)


def resnet34(
    input_shape: Shape, classes: int, width: int = 64, norm: str = "group", groups: Groups = 8, layers: int = 3
) -> Architecture:
    """Build a ResNet34 with the arguments of `resnet18`; its last three stages are module layers (ECLM 7.1)."""
    return _resnet((3, 4, 6, 3), input_shape, classes, width, norm, groups, layers)
