"""Training a plugin, a device's side and gate, on what the frozen base says of the device's examples (eq. (3))."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.spa.activations import Batch, Known
from models.spa.bases import Base
from models.spa.gate import JOINT, Gate, Standard, straight_through
from models.spa.modes import mode
from models.spa.side import Side, SideSpec, visibility
from models.submodel import State, under
from models.training.loop import batches
from partitions.errors import DataError

GateFit = Literal["two-stage", "mixture", "expectation", "straight-through"]
Policy = Literal["catch_up", "sparse"]


@dataclass(frozen=True)
class Plugin:
    """What a device owns: never sent to anybody but, in federated training, as an update."""

    side: Side
    gate: Gate

    def state(self) -> State:
        """Its parameters by name; tau is a setting, not a parameter."""
        side = {f"side.{name}": value.detach().clone() for name, value in self.side.state_dict().items()}
        return side | {"gate.weight": self.gate.weight.clone(), "gate.bias": self.gate.bias.clone()}

    def loaded(self, state: State) -> "Plugin":
        """The same side object with these parameters, and their gate."""
        self.side.load_state_dict(under(state, "side."))
        return Plugin(self.side, Gate(state["gate.weight"], state["gate.bias"], self.gate.tau))

    def save(self, path: Path, checksum: str, mode: str, policy: Policy) -> None:
        """Write it with all that a device needs to use it; ``checksum``: of its base."""
        spec = {f.name: getattr(self.side.spec, f.name) for f in fields(self.side.spec) if f.init}
        about = {"spec": spec, "tau": self.gate.tau, "checksum": checksum, "mode": mode, "policy": policy}
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in self.state().items()}, path, {"spa": json.dumps(about)})


def load_plugin(path: Path) -> tuple[Plugin, dict[str, Any]]:
    """What `Plugin.save` wrote: the plugin, and its ``checksum``, ``mode`` and ``policy``.

    Raises:
        DataError: the file is missing, or is no plugin.
    """
    try:
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["spa"])
        spec = about.pop("spec")
        side = SideSpec(**{**spec, "states": tuple(spec["states"])}).build(0)
        gate = Gate.constant(side.spec.width, open_=True)
        return Plugin(side, replace(gate, tau=about.pop("tau"))).loaded(load_file(path)), about
    except Exception as error:  # safetensors, json, a missing key: each has errors of its own
        raise DataError(f"{path} holds no plugin ({error}); make one with: python -m experiments spa train") from error


@dataclass(frozen=True)
class Training:
    """How a plugin is trained.

    Args:
        mode: of `models.spa.modes`; gate: how the gate is fitted, where the mode has one.
        price: of a call, nats; what a call must gain to be worth it.
        policy: what an attentive side attends to in generation, and so in training.
        lr, batch_size: of AdamW, a batch is so many examples.
        warm: share of the epochs that the joint gate fits train the side alone.
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
        """Whether side and gate are trained together, after a while."""
        return mode(self.mode).gated and self.gate != "two-stage"

    def __post_init__(self) -> None:
        mode(self.mode)
        if self.gate not in get_args(GateFit) or self.policy not in get_args(Policy):
            raise ValueError(
                f"gate = '{self.gate}' and policy = '{self.policy}' must be of {get_args(GateFit)}, {get_args(Policy)}"
            )


def outputs(side: Side, batch: Batch, policy: Policy, called: Tensor) -> Tensor:
    """o (N, d) of the answer's tokens. ``called`` (B, T): whose states reach the device, under policy 'sparse'."""
    if not side.attends:
        return side(batch.stack).o[batch.scored]
    start = batch.start.tolist() if policy == "sparse" else None
    return side(batch.stack, visibility(called, start)).o[batch.scored]


def side_losses(base: Base, how: Training, b: Tensor, o: Tensor, targets: Tensor) -> Tensor:
    """The loss (N,) of each answer token, with base b (N, d), if the side, which said o (N, d), is always asked."""
    return F.cross_entropy(base.head(mode(how.mode).merged(b, o)), targets, reduction="none")


def jointly(
    base: Base, plugin: Plugin, how: Training, known: Sequence[Known], epochs: int, generator: np.random.Generator
) -> tuple[Plugin, float]:
    """Train side, in place, and gate together under one of the joint objectives; the loss is the last epoch's."""
    standard = Standard.of(torch.cat([k.b for k in known]))
    standard = replace(standard, std=standard.std * base.width**0.5)  # one step must not saturate the gate
    w, c = torch.zeros(base.width, requires_grad=True), torch.zeros((), requires_grad=True)
    groups: list[dict[str, Any]] = [{"params": plugin.side.parameters()}, {"params": [w, c], "lr": 30 * how.lr}]
    optimizer = torch.optim.AdamW(groups, how.lr)
    merged = mode(how.mode).merged
    last = [float("nan")]
    for _ in range(epochs):
        last = []
        for index in batches(len(known), how.batch_size, generator):
            batch = Batch.of([known[i] for i in index])
            b = batch.b[batch.scored]
            a = standard(b) @ w + c
            called = standard.folded(w.detach(), c.detach()).opens(batch.b)
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
            optimizer.step()
            last.append(float(losses.detach().mean()))
    gate = standard.folded(w.detach(), c.detach())
    return Plugin(plugin.side, Gate(gate.weight, gate.bias, plugin.gate.tau)), float(np.mean(last))
