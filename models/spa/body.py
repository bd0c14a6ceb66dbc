"""A plugin as the rest of the project sees a network: an architecture whose state is what devices exchange."""

from collections.abc import Sequence
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from models.nn.body import Architecture, Body
from models.spa.side import SideSpec
from models.submodel import Axes, Sizes, State

Personal = Literal["nothing", "gate", "gate+out"]
"""What stays on the device in federated training: nothing; the gate; the gate and the side's output projection P."""
PERSONAL: dict[str, tuple[str, ...]] = {
    "nothing": (),
    "gate": ("gate.",),
    "gate+out": ("gate.", "side.out."),
}
assert tuple(PERSONAL) == get_args(Personal)


def own(state: State, personal: Personal) -> State:
    """The part of a plugin's state that stays on the device."""
    return {name: value for name, value in state.items() if name.startswith(PERSONAL[personal])}


def shared(state: State, personal: Personal) -> State:
    """The part that is exchanged."""
    return {name: value for name, value in state.items() if name not in own(state, personal)}


class PluginBody(Body):
    """Side and gate; its parameters and its state are the shared part alone, no axis of which can be cut."""

    layers = ()

    def __init__(self, spec: SideSpec, personal: Personal):
        super().__init__({})
        self.side = spec.build(0)
        self.gate = nn.ParameterDict({"weight": torch.zeros(spec.width), "bias": torch.zeros(())})
        for name, value in own(dict(self.named_parameters()), personal).items():
            module, _, leaf = name.rpartition(".")
            delattr(self.get_submodule(module), leaf)
            self.get_submodule(module).register_buffer(leaf, value.data, persistent=False)

    def forward(self, x: Tensor, gates: Sequence[Tensor] | None = None) -> Tensor:
        """o + a (B, d) of stacks (B, T, S, d), mean over T: what is counted, never what is trained."""
        a = x[:, :, -1] @ cast(Tensor, self.gate.weight) + cast(Tensor, self.gate.bias)
        return (self.side(x).o + a[..., None]).mean(1)

    def axes(self) -> Axes:
        return {name: (None,) * value.dim() for name, value in self.state_dict().items()}


def architecture(spec: SideSpec, personal: Personal, tokens: int) -> Architecture:
    """The plugin's architecture; a sample is an example whose answer has so many tokens."""

    def build(sizes: Sizes, generator: torch.Generator | None) -> PluginBody:
        return PluginBody(spec, personal)

    return Architecture(build, {}, (tokens, len(spec.states), spec.width))
