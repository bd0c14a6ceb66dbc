"""Training of a plugin, a device's side and gate, on the frozen base's states of the device's examples (eq. (3))."""

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.spa.activations import Batch, Examples
from models.spa.bases import Base
from models.spa.gate import JOINT, Gate, Standardiser, straight_through
from models.spa.modes import mode
from models.spa.side import Side, SideSpec, visibility
from models.submodel import State, under
from models.training.loop import CorrectGradients, batches, with_gradients
from partitions.errors import DataError

GateFit = Literal["two-stage", "mixture", "expectation", "straight-through"]
Policy = Literal["catch_up", "sparse"]


@dataclass(frozen=True)
class Plugin:
    """A device's side and gate. They leave the device only as updates in federated training."""

    side: Side
    gate: Gate

    def state(self) -> State:
        """Return the parameters by name; tau is a setting, not a parameter."""
        side = {f"side.{name}": value.detach().clone() for name, value in self.side.state_dict().items()}
        return side | {"gate.weight": self.gate.weight.clone(), "gate.bias": self.gate.bias.clone()}

    def gradients(self) -> dict[str, nn.Parameter]:
        """Return the side's parameters that have a gradient, by their names in `state`."""
        return with_gradients((f"side.{name}", parameter) for name, parameter in self.side.named_parameters())

    def with_state(self, state: State) -> "Plugin":
        """Load parameters into the side object, and return it with their gate."""
        self.side.load_state_dict(under(state, "side."))
        return Plugin(self.side, Gate(state["gate.weight"], state["gate.bias"], self.gate.tau))

    def save(self, path: Path, checksum: str, mode: str, policy: Policy) -> None:
        """Write the plugin to a file with everything a device needs to use it.

        Args:
            path: the file.
            checksum: of its base.
            mode, policy: as in `Training`.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"spa": json.dumps(self.about(checksum, mode, policy))}
        save_file({k: v.contiguous() for k, v in self.state().items()}, path, metadata)

    def about(self, checksum: str, mode: str, policy: Policy) -> dict[str, Any]:
        """Return what a device needs beside the parameters, as plain values."""
        spec = {f.name: getattr(self.side.spec, f.name) for f in fields(self.side.spec) if f.init}
        return {"spec": spec, "tau": self.gate.tau, "checksum": checksum, "mode": mode, "policy": policy}


def load_plugin(path: Path) -> tuple[Plugin, dict[str, Any]]:
    """Read a file of `Plugin.save`: the plugin, and its ``checksum``, ``mode`` and ``policy``.

    Raises:
        DataError: the file is missing, or contains no plugin.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = json.loads(file.metadata()["spa"])
        spec = metadata.pop("spec")
        side = SideSpec(**{**spec, "states": tuple(spec["states"])}).build(0)
        gate = Gate.constant(side.spec.width, open_=True)
        return Plugin(side, replace(gate, tau=metadata.pop("tau"))).with_state(load_file(path)), metadata
    except Exception as error:  # safetensors, json and missing keys raise different errors
        raise DataError(f"{path} contains no plugin ({error}); train one: python -m experiments spa train") from error


@dataclass(frozen=True)
class Training:
    """Hyper-parameters of a plugin's training.

    Args:
        mode: a name in `models.spa.modes`.
        gate: how to fit the gate, if the mode has one.
        price: of a call, nats; the minimum gain that a call must have.
        policy: what an attentive side attends to in generation, and so in training.
        lr, batch_size: of AdamW; a batch is a number of examples.
        warm: share of the epochs in which joint gate fits train only the side.
    """

    mode: str = "spa"
    gate: GateFit = "two-stage"
    price: float = 0.3
    policy: Policy = "catch_up"
    lr: float = 3e-3
    batch_size: int = 8
    warm: float = 0.3

    @property
    def joint(self) -> bool:
        """Whether side and gate are trained together after the warm-up."""
        return mode(self.mode).gated and self.gate != "two-stage"

    def __post_init__(self) -> None:
        mode(self.mode)
        if self.gate not in get_args(GateFit) or self.policy not in get_args(Policy):
            raise ValueError(
                f"gate = '{self.gate}' and policy = '{self.policy}' must be of {get_args(GateFit)}, {get_args(Policy)}"
            )


def outputs(side: Side, batch: Batch, policy: Policy, called: Tensor) -> Tensor:
    """Compute o (N, d) of the answer's tokens.

    Args:
        called: (B, T) positions whose states reach the device, under policy 'sparse'.
    """
    if not side.attends:
        return side(batch.stack).o[batch.scored]
    start = batch.start.tolist() if policy == "sparse" else None
    return side(batch.stack, visibility(called, start)).o[batch.scored]


def side_losses(base: Base, how: Training, b: Tensor, o: Tensor, targets: Tensor) -> Tensor:
    """Compute the loss (N,) of each answer token from b (N, d) and o (N, d), if every token calls the side."""
    return F.cross_entropy(base.head(mode(how.mode).merged(b, o)), targets, reduction="none")


def fit_jointly(
    base: Base,
    plugin: Plugin,
    how: Training,
    known: Examples,
    epochs: int,
    generator: np.random.Generator,
    first: int = 0,
    correct_gradients: CorrectGradients | None = None,
) -> tuple[Plugin, float]:
    """Train side, in place, and gate under a joint objective; return the plugin and the loss of the last epoch.

    Args:
        first: number of the first epoch; correct_gradients: called before each step of the side.
    """
    standardise = Standardiser.of(torch.cat([k.b for k in known]))
    standardise = replace(standardise, std=standardise.std * base.width**0.5)  # one step must not saturate the gate
    w, c = torch.zeros(base.width, requires_grad=True), torch.zeros((), requires_grad=True)
    groups: list[dict[str, Any]] = [{"params": plugin.side.parameters()}, {"params": [w, c], "lr": 30 * how.lr}]
    optimizer = torch.optim.AdamW(groups, how.lr)
    merged = mode(how.mode).merged
    last = [float("nan")]
    for epoch in range(first, first + epochs):
        last = []
        for index in batches(len(known), how.batch_size, generator):
            batch = Batch.of([known[i] for i in index])
            b = batch.b[batch.scored]
            a = standardise(b) @ w + c
            called = standardise.fold(w.detach(), c.detach()).opens(batch.b)
            o = outputs(plugin.side, batch, how.policy, called)
            if how.gate == "straight-through":
                g = straight_through(a)[:, None]
                losses = F.cross_entropy(base.head(b + g * (merged(b, o) - b)), batch.targets, reduction="none")
                losses = losses + how.price * g[:, 0]
            else:
                without = F.cross_entropy(base.head(b), batch.targets, reduction="none")
                with_ = F.cross_entropy(base.head(merged(b, o)), batch.targets, reduction="none")
                losses = JOINT[how.gate](without, with_, a, how.price)
            optimizer.zero_grad()
            losses.mean().backward()
            if correct_gradients:
                correct_gradients(plugin.gradients(), epoch)
            optimizer.step()
            last.append(float(losses.detach().mean()))
    gate = standardise.fold(w.detach(), c.detach())
    return Plugin(plugin.side, Gate(gate.weight, gate.bias, plugin.gate.tau)), float(np.mean(last))
