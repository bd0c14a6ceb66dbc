"""Take a trained dense model over into modules (ECLM 4.1)."""

import torch

from models.nn.body import Architecture, hidden_axis
from models.submodel import State


def modularize(
    dense: Architecture, state: State, modules: int, shrink: int, residual: bool = False
) -> tuple[Architecture, State]:
    """Cut every block of a trained dense model into ``modules`` modules of 1/``shrink`` of its inner width.

    Module i takes over slice ``i mod shrink`` of the hidden channels, so with ``modules == shrink`` and all gates 1
    the modular model computes exactly what the dense one did; with more modules each slice starts in several copies,
    which routing then tells apart. A residual module's gate is 0 in that state. What is outside the blocks is taken
    over as it is.

    Args:
        dense: the architecture of the dense model (one module in every layer).
        state: its trained parameters.
        modules: modules per layer, N in the paper (16 for MLP and ResNet18, 32 for VGG16 and ResNet34).
        shrink: how many times narrower a module is than its block.
        residual: add a residual module to every layer, its map the identity where shapes change.

    Returns:
        The modular architecture and its parameters.

    Raises:
        ValueError: shrink does not divide an inner width, or the model is modular already.
    """
    modular = dense.modular(modules, shrink, residual)
    body = dense.build(dense.sizes, None)
    axes, layers = body.axes(), {layer: hidden_axis(layer) for layer in body.layers}
    taken = {}
    for name, value in state.items():
        layer = next((a for a in axes[name] if a in layers), None)
        if layer is None:
            taken[name] = value.clone()
            continue
        at, inner = axes[name].index(layer), axes[name].index(layers[layer])
        width = modular.sizes[layers[layer]]
        slices = [value.narrow(inner, (i % shrink) * width, width) for i in range(modules)]
        taken[name] = torch.cat(slices, dim=at)
    # Only residual modules have no counterpart in the dense model; their first values are not random.
    new = modular.whole().state() if residual else {}
    return modular, taken | {name: value for name, value in new.items() if name not in taken}
