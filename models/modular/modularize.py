"""Convert a trained dense model into modules (ECLM 4.1)."""

import torch

from models.nn.body import Architecture, hidden_axis
from models.submodel import State, axis_names, extract


def modularize(
    dense: Architecture, state: State, modules: int, shrink: int, residual: bool = False
) -> tuple[Architecture, State]:
    """Cut every block of a trained dense model into ``modules`` modules of 1/``shrink`` of its inner width.

    Module i gets slice ``i mod shrink`` of the hidden channels. With ``modules == shrink`` and all gates 1, the modular
    model computes exactly what the dense one does. With more modules, each slice starts in several copies, and training
    the routing makes the copies differ. The gate of a residual module must be 0 for that equality. Parameters outside
    the blocks are copied.

    Args:
        dense: architecture of the dense model (one module per layer).
        state: its trained parameters.
        modules: modules per layer, N in the paper (16 for MLP and ResNet18, 32 for VGG16 and ResNet34).
        shrink: ratio of the block's inner width to a module's.
        residual: add a residual module to every layer; its map starts as the identity if shapes change.

    Returns:
        The modular architecture and its parameters.

    Raises:
        ValueError: ``shrink`` does not divide an inner width, or the model is modular already.
    """
    modular = dense.modular(modules, shrink, residual)
    body = dense.build(dense.sizes, None)
    axes, layers = body.axes(), {layer: hidden_axis(layer) for layer in body.layers}
    modular_state = {}
    for name, value in state.items():
        for layer in sorted(axis_names(axes[name]) & layers.keys()):  # two if one layer of modules reads another
            # own networks have modules in a dimension of their own; in other networks they share that of the channels
            dim = next(d for d, one in enumerate(axes[name]) if layer in axis_names([one]))
            width = modular.sizes[layers[layer]]
            slices = [{layers[layer]: (i % shrink) * width + torch.arange(width)} for i in range(modules)]
            value = torch.cat([extract({name: value}, axes, one)[name] for one in slices], dim)
        modular_state[name] = value.clone()
    # Only residual modules have no counterpart in the dense model; their initial values are not random.
    new = modular.whole().state() if residual else {}
    return modular, modular_state | {name: value for name, value in new.items() if name not in modular_state}
