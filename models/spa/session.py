"""A device's training of its plugin while the frozen base is in the cloud: the same two sides in one process or in two.

    examples up, states down            once
    outputs up, their gradient down     per batch: the head and the loss are the cloud's, which reads the answers anyway
    outputs up, losses down             once, on the calibration examples, for the two-stage gate

The side, the gate and their training are the device's. A device may be rebuilt at any step from what `DeviceSide.state`
gave after the one before.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.spa.activations import Batch, Known
from models.spa.bases import Base
from models.spa.codec import Direction, Frame, Ledger
from models.spa.gate import Gate, fit_gate
from models.spa.modes import mode
from models.spa.train import Plugin, Training, jointly, outputs, side_losses
from models.submodel import State, under
from models.training.loop import batches, load_optimizer_state, optimizer_state

NO_TARGETS = torch.empty(0, dtype=torch.int64)


def train(
    base: Base,
    plugin: Plugin,
    how: Training,
    known: Sequence[Known],
    calibrate: Sequence[Known],
    epochs: int,
    generator: np.random.Generator,
    ledger: Ledger | None = None,
) -> tuple[Plugin, float]:
    """Train the side in place, and fit its gate; the base is untouched.

    Args:
        known: what the side learns from; calibrate: other examples of the same device, for the two-stage gate.
        generator: decides the order of examples.
        ledger: is told what would cross if the base were elsewhere; a gate that is fitted jointly needs it here.

    Returns:
        The trained plugin, and the mean loss per token of the last epoch (NaN without any).
    """
    alone = round(how.warm * epochs) if how.joint else epochs
    device = DeviceSide(plugin, how, len(known), len(calibrate), alone, generator)
    cloud = CloudSide(base, how, [*known, *calibrate], ledger if ledger is not None else Ledger())
    up = device.turn(cloud.states())
    while up:
        up = device.turn(cloud.turn(up))
    if how.joint:
        return jointly(base, device.plugin, how, known, epochs - alone, generator)
    return device.plugin, device.loss


@dataclass
class CloudSide:
    """The cloud's side of one device's round: the base, and what it said of the device's examples.

    Args:
        ledger: counts what crosses, in both directions.
        step: exchanges of outputs behind it.
    """

    base: Base
    how: Training
    known: Sequence[Known]
    ledger: Ledger = field(default_factory=Ledger)
    step: int = 0

    def states(self) -> Frame:
        """Of all examples, going down; the answers themselves stay."""
        stacks = {str(i): known.stack for i, known in enumerate(self.known)}
        return self._counted("down", Frame("states", {"start": [known.start for known in self.known]}, stacks))

    def turn(self, up: Frame) -> Frame:
        """What goes down, given outputs that came up. ValueError: they do not belong here."""
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
        self.ledger.count(direction, frame)
        return frame


class DeviceSide:
    """The device's side of a round.

    Args:
        plugin: is trained in place.
        learn, calibrate: how many examples the side learns from, and the gate after it.
        generator: decides the order of examples.

    Attributes:
        done: exchanges of outputs behind it.
        losses: of the batches that the side learnt from.
    """

    def __init__(
        self, plugin: Plugin, how: Training, learn: int, calibrate: int, epochs: int, generator: np.random.Generator
    ):
        def shuffled(times: int) -> Iterator[Tensor]:
            return (rows for _ in range(times) for rows in batches(learn, how.batch_size, generator))

        self.plugin, self.how, self.done = plugin, how, 0
        self.steps = [("learn", rows.tolist()) for rows in shuffled(epochs)]
        if not mode(how.mode).gated:
            self._take(Gate.constant(plugin.side.spec.width, open_=True))
        elif how.gate == "two-stage":
            held_out = torch.arange(learn, learn + calibrate).split(how.batch_size)
            self.steps += [("weigh", rows.tolist()) for rows in held_out]
            if plugin.side.attends and how.policy == "sparse":  # the side learns to do without uncalled tokens
                self.steps += [("relearn", rows.tolist()) for rows in shuffled(-(-epochs // 2))]
        self.learn, self.per_epoch = learn, -(-learn // how.batch_size)
        self.known: list[Known] = []
        self.losses: list[float] = []
        self.weighed = torch.empty(0, 2)  # losses without and with the side, of calibration tokens so far
        self._o: Tensor | None = None  # outputs whose answer has not come down
        self._begin()

    def _begin(self) -> None:
        self.optimizer = torch.optim.AdamW(self.plugin.side.parameters(), lr=self.how.lr)

    def _take(self, gate: Gate) -> None:
        self.plugin = Plugin(self.plugin.side, Gate(gate.weight, gate.bias, self.plugin.gate.tau))

    @property
    def loss(self) -> float:
        """Mean per token of the last epoch, NaN without any."""
        return float(np.mean(self.losses[-self.per_epoch :])) if self.losses else float("nan")

    def turn(self, down: Frame) -> Frame | None:
        """What goes up, given what came down; None at the end."""
        if down.kind == "states":
            self.told(down)
        elif down.kind == "gradient":
            self._learn(down.tensors["o"], down.head["loss"])
        else:
            self._weigh(torch.stack([down.tensors["without"], down.tensors["with"]], 1))
        if self.done == len(self.steps):
            return None
        kind, rows = self.steps[self.done]
        self._o = self._output()
        return Frame("weigh" if kind == "weigh" else "learn", {"rows": rows}, {"o": self._o.detach()})

    def told(self, states: Frame) -> None:
        """Take what the base said of the examples; the answers are not needed here."""
        starts: list[int] = states.head["start"]
        self.known = [Known(states.tensors[str(i)], start, NO_TARGETS) for i, start in enumerate(starts)]

    def _output(self) -> Tensor:
        """o (N, d) of the examples of this step."""
        kind, rows = self.steps[self.done]
        batch = Batch.of([self.known[i] for i in rows])
        called = self.plugin.gate.opens(batch.b) if kind == "relearn" else batch.scored
        with torch.set_grad_enabled(kind != "weigh"):
            return outputs(self.plugin.side, batch, self.how.policy, called)

    def _learn(self, gradient: Tensor, loss: float) -> None:
        o = self._output() if self._o is None else self._o  # rebuilt since it was sent
        self.optimizer.zero_grad()
        o.backward(gradient)
        self.optimizer.step()
        self.losses.append(loss)
        self._answered()

    def _weigh(self, losses: Tensor) -> None:
        self.weighed = torch.cat([self.weighed, losses])
        self._answered()
        if self.done == len(self.steps) or self.steps[self.done][0] != "weigh":
            b = torch.cat([known.b for known in self.known[self.learn :]])
            without, with_ = self.weighed.T
            self._take(fit_gate(b, without, with_, self.how.price))
            self._begin()

    def _answered(self) -> None:
        self._o = None
        self.done += 1

    def state(self) -> State:
        """All that the next step depends on but the states of the base, as tensors."""
        kept = {f"plugin.{name}": value for name, value in self.plugin.state().items()}
        kept |= {f"optimizer.{name}": value for name, value in optimizer_state(self.optimizer).items()}
        done, losses = torch.tensor(self.done), torch.tensor(self.losses, dtype=torch.float64)
        return kept | {"done": done, "losses": losses, "weighed": self.weighed}

    def restore(self, kept: State) -> None:
        """The way back, into a new side of the same round."""
        self.plugin = self.plugin.loaded(under(kept, "plugin."))
        load_optimizer_state(self.optimizer, under(kept, "optimizer."))
        self.done, self.losses, self.weighed = int(kept["done"]), kept["losses"].tolist(), kept["weighed"]
