"""Training of a device's plugin with the frozen base in the cloud: the same two sides in one process or two.

    examples up, states down            once
    outputs up, their gradient down     per batch: head and loss are in the cloud, which knows the answers anyway
    outputs up, losses down             once, on the calibration examples, for the two-stage gate

The device has the side, the gate and their training. It can be rebuilt at any step from the `DeviceSide.state` after
the previous one.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.spa.activations import Batch, Examples, ExampleStates
from models.spa.bases import Base
from models.spa.codec import Direction, Frame, TrafficLog
from models.spa.gate import Gate, fit_gate
from models.spa.modes import mode
from models.spa.train import Plugin, Training, fit_jointly, outputs, side_losses
from models.submodel import State, under
from models.training.loop import CorrectGradients, batches, load_optimizer_state, optimizer_state

NO_TARGETS = torch.empty(0, dtype=torch.int64)


def train(
    base: Base,
    plugin: Plugin,
    how: Training,
    known: Examples,
    calibrate: Examples,
    epochs: int,
    generator: np.random.Generator,
    traffic: TrafficLog | None = None,
    correct_gradients: CorrectGradients | None = None,
) -> tuple[Plugin, float]:
    """Train the side in place and fit its gate; the base does not change.

    Args:
        base: the base model.
        plugin: side and initial gate.
        how: hyper-parameters.
        known: states of the training examples.
        calibrate: states of other examples of the same client, for the two-stage gate.
        epochs: passes over the examples.
        generator: decides the order of the examples.
        traffic: counts the bytes of a distributed run; a jointly fitted gate needs the base in this process.
        correct_gradients: called before each step of the side, with the names of `Plugin.state`.

    Returns:
        The trained plugin, and the mean loss per token of the last epoch (NaN if there is none).
    """
    side_epochs = round(how.warm * epochs) if how.joint else epochs
    device = DeviceSide(plugin, how, len(known), len(calibrate), side_epochs, generator, correct_gradients)
    cloud = CloudSide(base, how, [*known, *calibrate], traffic if traffic is not None else TrafficLog())
    up = device.respond(cloud.states())
    while up:
        up = device.respond(cloud.respond(up))
    if how.joint:
        rest = epochs - side_epochs
        return fit_jointly(base, device.plugin, how, known, rest, generator, side_epochs, correct_gradients)
    return device.plugin, device.loss


@dataclass
class CloudSide:
    """The cloud's side of one client's round: the base and its states of the client's examples.

    Args:
        base: the base model.
        how: hyper-parameters.
        known: states of all examples.
        traffic: counts bytes in both directions.
        step: completed exchanges of outputs.
    """

    base: Base
    how: Training
    known: Examples
    traffic: TrafficLog = field(default_factory=TrafficLog)
    step: int = 0

    def states(self) -> Frame:
        """Return the states of all examples for the device, without the answers."""
        stacks = {str(i): known.stack for i, known in enumerate(self.known)}
        return self._counted("down", Frame("states", {"start": [known.start for known in self.known]}, stacks))

    def respond(self, up: Frame) -> Frame:
        """Return the answer to outputs of the device. ValueError: unexpected outputs."""
        rows, o = up.head.get("rows", []), up.tensors.get("o")
        if up.kind not in ("learn", "weigh") or o is None or not set(rows) <= set(range(len(self.known))):
            raise ValueError(f"expected outputs of some of {len(self.known)} examples, got '{up.kind}' of {rows}")
        self._counted("up", up)
        self.step += 1
        b, targets = (torch.cat([getattr(self.known[i], what) for i in rows]) for what in ("b", "targets"))
        return self._counted(
            "down", self._gradient(b, o, targets) if up.kind == "learn" else self._losses(b, o, targets)
        )

    def _gradient(self, b: Tensor, o: Tensor, targets: Tensor) -> Frame:
        o = o.requires_grad_()
        loss = side_losses(self.base, self.how, b, o, targets).mean()
        (gradient,) = torch.autograd.grad(loss, o)
        return Frame("gradient", {"loss": float(loss.detach())}, {"o": gradient})

    @torch.inference_mode()
    def _losses(self, b: Tensor, o: Tensor, targets: Tensor) -> Frame:
        without = F.cross_entropy(self.base.head(b), targets, reduction="none")
        return Frame("losses", {}, {"without": without, "with": side_losses(self.base, self.how, b, o, targets)})

    def _counted(self, direction: Direction, frame: Frame) -> Frame:
        self.traffic.count(direction, frame)
        return frame


class DeviceSide:
    """The device's side of a round.

    Args:
        plugin: trained in place.
        how: hyper-parameters.
        learn: number of training examples.
        calibrate: number of calibration examples, for the gate.
        epochs: passes over the training examples.
        generator: decides the order of the examples.
        correct_gradients: called before each step of the side.

    Attributes:
        done: completed exchanges of outputs.
        losses: of the training batches.
    """

    def __init__(
        self,
        plugin: Plugin,
        how: Training,
        learn: int,
        calibrate: int,
        epochs: int,
        generator: np.random.Generator,
        correct_gradients: CorrectGradients | None = None,
    ):
        def shuffled(times: int) -> Iterator[Tensor]:
            return (rows for _ in range(times) for rows in batches(learn, how.batch_size, generator))

        self.plugin, self.how, self.done, self.correct_gradients = plugin, how, 0, correct_gradients
        self.steps = [("learn", rows.tolist()) for rows in shuffled(epochs)]
        if not mode(how.mode).gated:
            self._set_gate(Gate.constant(plugin.side.spec.width, open_=True))
        elif how.gate == "two-stage":
            calibration = torch.arange(learn, learn + calibrate).split(how.batch_size)
            self.steps += [("weigh", rows.tolist()) for rows in calibration]
            # the side learns to work without the tokens that do not call it
            if plugin.side.attends and how.policy == "sparse":
                self.steps += [("relearn", rows.tolist()) for rows in shuffled(-(-epochs // 2))]
        self.learn, self.per_epoch = learn, -(-learn // how.batch_size)
        self.known: list[ExampleStates] = []
        self.losses: list[float] = []
        self.calibration_losses = torch.empty(0, 2)  # (n, 2) losses without and with the side of calibration tokens
        self._o: Tensor | None = None  # outputs whose answer is outstanding
        self._reset_optimizer()

    def _reset_optimizer(self) -> None:
        self.optimizer = torch.optim.AdamW(self.plugin.side.parameters(), lr=self.how.lr)

    def _set_gate(self, gate: Gate) -> None:
        self.plugin = Plugin(self.plugin.side, Gate(gate.weight, gate.bias, self.plugin.gate.tau))

    @property
    def loss(self) -> float:
        """Mean loss per token of the last epoch, NaN if there is none."""
        return float(np.mean(self.losses[-self.per_epoch :])) if self.losses else float("nan")

    def respond(self, down: Frame) -> Frame | None:
        """Return the next frame for the cloud, given its last one; None at the end."""
        if down.kind == "states":
            self.load_states(down)
        elif down.kind == "gradient":
            self._learn(down.tensors["o"], down.head["loss"])
        else:
            self._add_losses(torch.stack([down.tensors["without"], down.tensors["with"]], 1))
        if self.done == len(self.steps):
            return None
        kind, rows = self.steps[self.done]
        self._o = self._output()
        return Frame("weigh" if kind == "weigh" else "learn", {"rows": rows}, {"o": self._o.detach()})

    def load_states(self, states: Frame) -> None:
        """Store the base's states of the examples; the device does not need the answers."""
        starts: list[int] = states.head["start"]
        self.known = [ExampleStates(states.tensors[str(i)], start, NO_TARGETS) for i, start in enumerate(starts)]

    def _output(self) -> Tensor:
        """Compute o (N, d) of the examples of this step."""
        kind, rows = self.steps[self.done]
        batch = Batch.of([self.known[i] for i in rows])
        called = self.plugin.gate.opens(batch.b) if kind == "relearn" else batch.scored
        with torch.set_grad_enabled(kind != "weigh"):
            return outputs(self.plugin.side, batch, self.how.policy, called)

    def _learn(self, gradient: Tensor, loss: float) -> None:
        o = self._output() if self._o is None else self._o  # the side was rebuilt after sending
        self.optimizer.zero_grad()
        o.backward(gradient)
        if self.correct_gradients:
            self.correct_gradients(self.plugin.gradients(), len(self.losses) // self.per_epoch)
        self.optimizer.step()
        self.losses.append(loss)
        self._finish_step()

    def _add_losses(self, losses: Tensor) -> None:
        self.calibration_losses = torch.cat([self.calibration_losses, losses])
        self._finish_step()
        if self.done == len(self.steps) or self.steps[self.done][0] != "weigh":
            b = torch.cat([known.b for known in self.known[self.learn :]])
            without, with_ = self.calibration_losses.T
            self._set_gate(fit_gate(b, without, with_, self.how.price))
            self._reset_optimizer()

    def _finish_step(self) -> None:
        self._o = None
        self.done += 1

    def state(self) -> State:
        """Return everything that the next step depends on except the base's states, as tensors."""
        state = {f"plugin.{name}": value for name, value in self.plugin.state().items()}
        state |= {f"optimizer.{name}": value for name, value in optimizer_state(self.optimizer).items()}
        done, losses = torch.tensor(self.done), torch.tensor(self.losses, dtype=torch.float64)
        return state | {"done": done, "losses": losses, "weighed": self.calibration_losses}

    def restore(self, state: State) -> None:
        """Restore the state into a new side of the same round."""
        self.plugin = self.plugin.with_state(under(state, "plugin."))
        load_optimizer_state(self.optimizer, under(state, "optimizer."))
        self.done, self.losses, self.calibration_losses = int(state["done"]), state["losses"].tolist(), state["weighed"]
