"""A plugin as a federated body: an architecture whose state is the exchanged part."""

from collections.abc import Sequence
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from models.nn.body import Architecture, Body
from models.spa.side import SideSpec
from models.submodel import Axes, Sizes, State

Personal = Literal["nothing", "gate", "gate+out"]
"""Part that stays on the device in federated training: nothing; the gate; gate and side's output projection P."""
PERSONAL: dict[str, tuple[str, ...]] = {
    "nothing": (),
    "gate": ("gate.",),
    "gate+out": ("gate.", "side.out."),
}
assert tuple(PERSONAL) == get_args(Personal)


def personal_state(state: State, personal: Personal) -> State:
    """Return the part of a plugin's state that stays on the device."""
    return {name: value for name, value in state.items() if name.startswith(PERSONAL[personal])}


def shared_state(state: State, personal: Personal) -> State:
    """Return the part of a plugin's state that is exchanged."""
    return {name: value for name, value in state.items() if name not in personal_state(state, personal)}


class PluginBody(Body):
    """Side and gate; parameters and state are only the shared part, and no axis can be cut."""

    layers = ()

    def __init__(self, spec: SideSpec, personal: Personal):
        super().__init__({})
        self.side = spec.build(0)
        self.gate = nn.ParameterDict({"weight": torch.zeros(spec.width), "bias": torch.zeros(())})
        for name, value in personal_state(dict(self.named_parameters()), personal).items():
            module, _, leaf = name.rpartition(".")
            delattr(self.get_submodule(module), leaf)
            self.get_submodule(module).register_buffer(leaf, value.data, persistent=False)

    def forward(self, x: Tensor, gates: Sequence[Tensor] | None = None) -> Tensor:
        """Compute the mean over T of o + a, (B, d), from stacks (B, T, S, d).

        It serves only to count costs; training does not use it.
        """
        a = x[:, :, -1] @ cast(Tensor, self.gate.weight) + cast(Tensor, self.gate.bias)
        return (self.side(x).o + a[..., None]).mean(1)

    def axes(self) -> Axes:
        return {name: (None,) * value.dim() for name, value in self.state_dict().items()}


def architecture(spec: SideSpec, personal: Personal, tokens: int) -> Architecture:
    """Return the plugin's architecture; a sample is an example whose answer has ``tokens`` tokens."""

    def build(sizes: Sizes, generator: torch.Generator | None) -> PluginBody:
        return PluginBody(spec, personal)

    return Architecture(build, {}, (tokens, len(spec.states), spec.width))
