"""Any `torch.nn.Module` as an architecture: the axes of its parameters are found from one forward pass.

`models.nn.find_axes` finds them, and `models.nn.any_body` cuts the module. What cannot be cut stays whole, and
`Found.whole` says why.
"""

import copy
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from models.nn.any_body import AnyBody, resize
from models.nn.body import Architecture, Shape, hidden_axis
from models.nn.find_axes import evaluation, find_axes, logits, seeded
from models.submodel import Sizes, extract

Make = Callable[[], nn.Module]


def from_module(
    make: nn.Module | Make, input_shape: Shape, classes: int, layers: int = 0, module_names: str = ""
) -> Architecture:
    """Return the architecture of a module that was not written for this project.

    Args:
        make: the module, or a function without arguments that makes it. The function is called with torch's random
            numbers seeded, so that each seed has its own initial weights.
        input_shape: shape of one sample; the module takes a float32 batch (B, *input_shape).
        classes: the module returns logits (B, classes).
        layers: ECLM cuts only the last so many of the layers that it can cut into modules; 0: all.
        module_names: ECLM cuts only layers with these names, as ``inspect`` prints them; patterns such as
            ``"features.*,head"``. Empty: all.

    Raises:
        ValueError: the module does not accept such a batch or does not return such logits, or lacks such layers.
    """

    def initialised(seed: int) -> nn.Module:
        return copy.deepcopy(make) if isinstance(make, nn.Module) else seeded(partial(_filled, make, input_shape), seed)

    template = make if isinstance(make, nn.Module) else initialised(0)
    found = find_axes(template, input_shape, classes, layers, module_names)

    def build(sizes: Sizes, generator: torch.Generator | None) -> AnyBody:
        if unknown := [axis for axis in sizes if axis not in found.sizes]:
            raise ValueError(f"a module of your own has no residual modules: {unknown[0]}")
        body = AnyBody(resize(template, found, sizes), found, sizes)
        if generator is not None:
            counts = {axis: n for axis, n in sizes.items() if axis not in found.readers}
            counts |= {
                hidden: sizes[layer] * sizes[hidden] for layer in found.readers for hidden in [hidden_axis(layer)]
            }
            repeated = {axis: torch.arange(n) % found.sizes[axis] for axis, n in counts.items()}
            body.net.load_state_dict(extract(initialised(generator.initial_seed()).state_dict(), found.axes, repeated))
        return body

    return Architecture(build, found.sizes, input_shape)


def architecture_of(
    family: Callable[..., Any],
    input_shape: Shape,
    classes: int,
    layers: int = 0,
    module_names: str = "",
    **options: Any,
) -> Architecture:
    """Call a model's function, or a class of modules.

    Args:
        family: ``family(input_shape, classes, **options)``, or with the number of classes as ``num_classes`` alone. It
            returns an `Architecture`, or an `nn.Module` whose axes are to be found.
        layers, module_names: as in `from_module`.

    Raises:
        ValueError: the model has no such layers, or does not work as `from_module` needs it.
    """
    takes = inspect.signature(family).parameters.values()
    names = {p.name for p in takes}
    if sum(p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD for p in takes) >= 2:
        make = partial(family, input_shape, classes, **options)
    elif "num_classes" in names or any(p.kind is p.VAR_KEYWORD for p in takes):
        make = partial(family, num_classes=classes, **options)
    else:
        make = partial(family, **options)
    if layers and "layers" in names:
        make = partial(make, layers=layers)
    made = seeded(make, 0)
    if not isinstance(made, Architecture):
        return from_module(make, input_shape, classes, layers, module_names)
    if layers and "layers" not in names:
        raise ValueError(f"model.module-layers = {layers} is not an option of this model: leave it out")
    if module_names:
        raise ValueError(f"model.module-names = '{module_names}' is not an option of this model: leave it out")
    return made


def count_classes(net: nn.Module, input_shape: Shape) -> int:
    """Return how many logits a module returns for a sample.

    Raises:
        ValueError: the module does not run on one batch, or does not return logits.
    """
    with evaluation(net), torch.random.fork_rng(devices=[]):
        return logits(net, torch.zeros(2, *input_shape), None).shape[1]


def _filled(make: Make, input_shape: Shape) -> nn.Module:
    """Make a module, and let its lazy parameters take their shapes from one sample."""
    net = make()
    if any(is_lazy(value) for value in (*net.parameters(), *net.buffers())):
        with evaluation(net), torch.no_grad():
            net(torch.zeros(1, *input_shape))
    return net
