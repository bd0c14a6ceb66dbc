"""One client's round of split training: the same two sides in one process, or with a network between them.

    U shape          codes up, logits down, their gradient up, the gradient of the codes down
    labels shared    codes and labels up, the loss and the gradient of the codes down

The device answers a gradient of codes with the codes of the next batch, so a step takes two round trips or one. A step
is one batch, counted from 0. Every batch and every dropout mask follows from (seed, round, client, step). A side can
therefore be rebuilt at any step from the state saved after the previous one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.submodel import State, under
from models.training.loop import load_optimizer_state, optimizer_state
from models.vq.ends import CloudEnd, DeviceEnd
from models.vq.network.tokens import Tokens, batches
from models.vq.quantiser.boundary import HEADER, BoundaryTraffic
from models.vq.quantiser.codebook import Statistics
from partitions.rng import Purpose, rng

Loss = Callable[[Tensor, Tensor], Tensor]
"""``loss(logits, labels)``, the mean over a batch."""


@dataclass(frozen=True)
class RoundAddress:
    """Seed, round and client that determine all random numbers of a round."""

    seed: int
    round: int
    device: int

    def order(self, epoch: int) -> tuple[int, ...]:
        return self.seed, Purpose.TRAIN, self.round, self.device, epoch

    def dropout(self, step: int, half: int) -> int:
        """Return the dropout seed of the device half (0) or the cloud half (1) at a step."""
        return int(rng(self.seed, Purpose.TRAIN, self.round, self.device, step, half).integers(2**63))


@dataclass
class DeviceSide:
    """The device's side: its end, and the texts and labels, which stay on the device.

    Args:
        end: the half with the codebook of the round.
        tokens, labels: n texts and their labels.
        loss: loss of a batch.
        epochs: passes over the texts.
        batch: texts per step.
        address: seed, round and client.
        share: send labels with the codes; otherwise labels and loss stay on the device.
        on_step: called after every step.
        steps_done: completed steps.
        losses: sum of the losses over the texts, per epoch.
    """

    end: DeviceEnd
    tokens: Tokens
    labels: Tensor
    loss: Loss
    epochs: int
    batch: int
    address: RoundAddress
    share: bool = False
    on_step: Callable[["DeviceSide"], None] = lambda side: None
    steps_done: int = 0
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rows = [
            (epoch, rows)
            for epoch in range(self.epochs)
            for rows in batches(self.tokens.lengths, self.batch, rng(*self.address.order(epoch)))
        ]
        self.losses = self.losses or [0.0] * self.epochs
        self.pending = False  # whether the gradient of the last codes is outstanding
        self.gradient_sent = False  # whether the gradient of their logits was sent

    @property
    def steps(self) -> int:
        return len(self.rows)

    @property
    def progress(self) -> tuple[RoundAddress, int, bool, bool]:
        """The exact point within the round: address, completed steps, outstanding messages."""
        return self.address, self.steps_done, self.pending, self.gradient_sent

    def respond(self, down: Mapping[str, bytes]) -> dict[str, bytes]:
        """Return the messages for the cloud, given its last messages; empty ones start and end the round."""
        if "logits" in down:
            return {"logit-gradient": self.loss_gradient(down["logits"])}
        if "gradient" in down:
            if self.share:
                self._add_loss(down["loss"])
            self.update(down["gradient"])
        if self.steps_done == self.steps:
            return {}
        return {"codes": self.send()} | ({"labels": self._labels()} if self.share else {})

    def send(self) -> bytes:
        """Encode the codes of the next batch."""
        self.pending = True
        _, rows = self.rows[self.steps_done]
        return self.end.send(self.tokens[rows], "train", self.address.dropout(self.steps_done, 0))

    def _labels(self) -> bytes:
        """Encode the labels of the last batch."""
        labels = self.labels[self.rows[self.steps_done][1]]
        return self.end.boundary.encode("labels", labels[:, None], [1] * len(labels), "train")

    def _add_loss(self, message: bytes) -> None:
        """Add the received loss of the last batch."""
        epoch, rows = self.rows[self.steps_done]
        loss, _ = self.end.boundary.decode("loss", message, [1])
        self.losses[epoch] += float(loss) * len(rows)

    def loss_gradient(self, logits: bytes) -> bytes:
        """Encode the gradient of the loss with respect to the received logits."""
        epoch, rows = self.rows[self.steps_done]
        loss, message = self.end.loss_gradient(logits, lambda received: self.loss(received, self.labels[rows]))
        self.losses[epoch] += loss * len(rows)
        self.gradient_sent = True
        return message

    def update(self, gradient: bytes) -> None:
        """Take one step along the received gradient in code space."""
        self.end.update(gradient)
        self.pending = self.gradient_sent = False
        self.steps_done += 1
        self.on_step(self)

    def state(self) -> State:
        """Return everything that the next step depends on, as tensors, without outstanding messages."""
        state = {f"half.{name}": value for name, value in self.end.half.state().items()}
        state |= {f"optimizer.{name}": value for name, value in optimizer_state(self.end.optimizer).items()}
        if self.end.statistics is not None:
            state |= {"counts": self.end.statistics.counts, "sums": self.end.statistics.sums}
        return state | {"learned": torch.tensor(self.steps_done)} | self.counters()

    def restore(self, state: State) -> None:
        """Restore the state into a new side of the same round."""
        self.end.half.load(under(state, "half."))
        load_optimizer_state(self.end.optimizer, under(state, "optimizer."))
        if "counts" in state:
            self.end.statistics = Statistics(state["counts"], state["sums"])
        self.steps_done = int(state["learned"])
        self.restore_counters(state)

    def counters(self) -> State:
        """Return losses and bytes so far."""
        sent = {f"bytes.{name}": torch.tensor(n) for name, n in self.end.boundary.traffic.to_dict().items()}
        return sent | {"losses": torch.tensor(self.losses, dtype=torch.float64)}

    def restore_counters(self, state: State) -> None:
        """Restore losses and bytes; if codes are outstanding, the gradient of their logits counts as sent."""
        traffic = self.end.boundary.traffic
        traffic.clear()
        traffic.update(BoundaryTraffic.from_dict({name: int(n) for name, n in under(state, "bytes.").items()}))
        self.losses = state["losses"].tolist()
        self.gradient_sent = self.pending


@dataclass
class CloudSide:
    """The cloud's side: a replica of the cloud half for one client and round.

    Args:
        end: the replica with the codebook of the round.
        address: seed, round and client.
        step: completed steps.
    """

    end: CloudEnd
    address: RoundAddress
    step: int = 0

    def respond(self, up: Mapping[str, bytes]) -> dict[str, bytes]:
        """Return the messages for the device, given its messages. ValueError: unexpected messages."""
        match dict(up):
            case {"codes": codes, "labels": labels}:
                loss, gradient = self.update_from_labels(codes, labels)
                return {"loss": loss, "gradient": gradient}
            case {"codes": codes}:
                return {"logits": self.send_logits(codes)}
            case {"logit-gradient": gradient}:
                return {"gradient": self.update(gradient)}
        raise ValueError(f"expected codes or the gradient of logits, got {sorted(up)}")

    def update_from_labels(self, codes: bytes, labels: bytes) -> tuple[bytes, bytes]:
        """Take one step along the gradient of the loss; encode the loss and the gradient in code space."""
        boundary, (_, examples, _) = self.end.boundary, HEADER.unpack_from(labels)
        classes, _ = boundary.decode("labels", labels, [1] * examples)
        loss, gradient = self.end.update_from_labels(codes, classes[:, 0], self.address.dropout(self.step, 1))
        self.step += 1
        return boundary.encode("loss", torch.tensor([[loss]]), [1], "train"), gradient

    def send_logits(self, codes: bytes) -> bytes:
        """Encode the logits of received codes."""
        return self.end.send_logits(codes, "train", self.address.dropout(self.step, 1))

    def update(self, gradient: bytes) -> bytes:
        """Take one step along the received gradient of the logits; encode the gradient in code space."""
        self.step += 1
        return self.end.update(gradient)


def train(device: DeviceSide, cloud: CloudSide) -> None:
    """Run a round with both sides in this process."""
    up = device.respond({})
    while up:
        up = device.respond(cloud.respond(up))


def infer(device: DeviceEnd, cloud: CloudEnd, tokens: Tokens, batch: int = 64) -> Tensor:
    """Compute logits (n, width) of texts through the boundary."""
    by_text: dict[int, Tensor] = {}
    with torch.no_grad():
        for rows in tokens.lengths.argsort(stable=True).split(batch):
            logits = device.read_logits(cloud.send_logits(device.send(tokens[rows], "infer"), "infer"))
            by_text |= zip(rows.tolist(), logits, strict=True)
    return torch.stack([by_text[i] for i in range(len(tokens))])
