"""One device's round of split training: the same two sides in one process, or with a network between them.

    U shape          codes up, logits down, their gradient up, the gradient of the codes down
    labels shared    codes and labels up, the loss and the gradient of the codes down

A gradient of codes is answered by the codes of the next batch, so a step takes two round trips or one. Step t counts
from 0 and is a batch; every batch and every dropout is addressed by (seed, round, device, t), so that a side can be
rebuilt at any step, from what it saved after the step before.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.submodel import State, under
from models.training.loop import load_slots, slots
from models.vq.ends import CloudEnd, DeviceEnd
from models.vq.network.tokens import Tokens, batches
from models.vq.quantiser.boundary import HEADER, Ledger
from models.vq.quantiser.codebook import Statistics
from partitions.rng import Purpose, rng

Loss = Callable[[Tensor, Tensor], Tensor]
"""``loss(logits, labels)``, the mean over a batch."""


@dataclass(frozen=True)
class Where:
    """The address of a round's training."""

    seed: int
    round: int
    device: int

    def order(self, epoch: int) -> tuple[int, ...]:
        return self.seed, Purpose.TRAIN, self.round, self.device, epoch

    def dropout(self, step: int, half: int) -> int:
        """Of the device's half (0) or the cloud's (1) at a step."""
        return int(rng(self.seed, Purpose.TRAIN, self.round, self.device, step, half).integers(2**63))


@dataclass
class DeviceSide:
    """The device's side: its texts and labels, which stay there, and its end.

    Args:
        end: with the half, and the codebook of the round.
        tokens, labels: n texts.
        epochs, batch: passes over them, texts of a step.
        share: the labels go up with the codes; otherwise they and the loss stay here.
        keep: called after every step.
        learned: steps behind it; losses: their sum over the texts of each epoch.
    """

    end: DeviceEnd
    tokens: Tokens
    labels: Tensor
    loss: Loss
    epochs: int
    batch: int
    where: Where
    share: bool = False
    keep: Callable[["DeviceSide"], None] = lambda side: None
    learned: int = 0
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rows = [
            (epoch, rows)
            for epoch in range(self.epochs)
            for rows in batches(self.tokens.lengths, self.batch, rng(*self.where.order(epoch)))
        ]
        self.losses = self.losses or [0.0] * self.epochs
        self.pending = False  # whether codes were sent that no gradient has come down for
        self.answered = False  # whether also the gradient of their logits was

    @property
    def steps(self) -> int:
        return len(self.rows)

    @property
    def moment(self) -> tuple[Where, int, bool, bool]:
        """Which moment of which round this side is at."""
        return self.where, self.learned, self.pending, self.answered

    def turn(self, down: Mapping[str, bytes]) -> dict[str, bytes]:
        """What goes up, given what came down, nothing at first; nothing at the end."""
        if "logits" in down:
            return {"logit-gradient": self.answer(down["logits"])}
        if "gradient" in down:
            if self.share:
                self._hear(down["loss"])
            self.learn(down["gradient"])
        if self.learned == self.steps:
            return {}
        return {"codes": self.send()} | ({"labels": self._labels()} if self.share else {})

    def send(self) -> bytes:
        """Codes of the next batch, going up."""
        self.pending = True
        return self.end.send(self.tokens[self.rows[self.learned][1]], "train", self.where.dropout(self.learned, 0))

    def _labels(self) -> bytes:
        """Labels of the batch that was just sent, going up."""
        labels = self.labels[self.rows[self.learned][1]]
        return self.end.boundary.encode("labels", labels[:, None], [1] * len(labels), "train")

    def _hear(self, message: bytes) -> None:
        """The loss of the batch that was sent, which came down."""
        epoch, rows = self.rows[self.learned]
        loss, _ = self.end.boundary.decode("loss", message, [1])
        self.losses[epoch] += float(loss) * len(rows)

    def answer(self, logits: bytes) -> bytes:
        """The gradient of the loss with respect to the logits that came down, going up."""
        epoch, rows = self.rows[self.learned]
        loss, message = self.end.answer(logits, lambda found: self.loss(found, self.labels[rows]))
        self.losses[epoch] += loss * len(rows)
        self.answered = True
        return message

    def learn(self, gradient: bytes) -> None:
        """One step along the gradient in code space that came down."""
        self.end.learn(gradient)
        self.pending = self.answered = False
        self.learned += 1
        self.keep(self)

    def state(self) -> State:
        """All that the next step depends on, as tensors; not the codes that are on their way."""
        kept = {f"half.{name}": value for name, value in self.end.half.state().items()}
        kept |= {f"optimizer.{name}": value for name, value in slots(self.end.optimizer).items()}
        if self.end.statistics is not None:
            kept |= {"counts": self.end.statistics.counts, "sums": self.end.statistics.sums}
        return kept | {"learned": torch.tensor(self.learned)} | self.tally()

    def restore(self, kept: State) -> None:
        """The way back, into a new side of the same round."""
        self.end.half.load(under(kept, "half."))
        load_slots(self.end.optimizer, under(kept, "optimizer."))
        if "counts" in kept:
            self.end.statistics = Statistics(kept["counts"], kept["sums"])
        self.learned = int(kept["learned"])
        self.recount(kept)

    def tally(self) -> State:
        """Losses and bytes so far."""
        sent = {f"bytes.{name}": torch.tensor(n) for name, n in self.end.boundary.ledger.flat().items()}
        return sent | {"losses": torch.tensor(self.losses, dtype=torch.float64)}

    def recount(self, kept: State) -> None:
        """The way back, to the moment at which the gradient of logits was sent if codes are on their way."""
        ledger = self.end.boundary.ledger
        ledger.clear()
        ledger.update(Ledger.of({name: int(n) for name, n in under(kept, "bytes.").items()}))
        self.losses = kept["losses"].tolist()
        self.answered = self.pending


@dataclass
class CloudSide:
    """The cloud's side: a replica of the cloud's half for one device and round."""

    end: CloudEnd
    where: Where
    step: int = 0

    def turn(self, up: Mapping[str, bytes]) -> dict[str, bytes]:
        """What goes down, given what came up. ValueError: what came up does not belong here."""
        match dict(up):
            case {"codes": codes, "labels": labels}:
                loss, gradient = self.learn_labels(codes, labels)
                return {"loss": loss, "gradient": gradient}
            case {"codes": codes}:
                return {"logits": self.answer(codes)}
            case {"logit-gradient": gradient}:
                return {"gradient": self.learn(gradient)}
        raise ValueError(f"expected codes or the gradient of logits, got {sorted(up)}")

    def learn_labels(self, codes: bytes, labels: bytes) -> tuple[bytes, bytes]:
        """One step along the gradient of the loss; the loss and the gradient in code space, going down."""
        edge, (_, examples, _) = self.end.boundary, HEADER.unpack_from(labels)
        classes, _ = edge.decode("labels", labels, [1] * examples)
        loss, gradient = self.end.learn_labels(codes, classes[:, 0], self.where.dropout(self.step, 1))
        self.step += 1
        return edge.encode("loss", torch.tensor([[loss]]), [1], "train"), gradient

    def answer(self, codes: bytes) -> bytes:
        """The logits of codes that came up, going down."""
        return self.end.answer(codes, "train", self.where.dropout(self.step, 1))

    def learn(self, gradient: bytes) -> bytes:
        """One step along the gradient of the logits; the gradient in code space, going down."""
        self.step += 1
        return self.end.learn(gradient)


def train(device: DeviceSide, cloud: CloudSide) -> None:
    """A round without a network between the sides."""
    up = device.turn({})
    while up:
        up = device.turn(cloud.turn(up))


def infer(one: DeviceEnd, two: CloudEnd, tokens: Tokens, batch: int = 64) -> Tensor:
    """Logits (n, width) of texts, through the boundary."""
    found: dict[int, Tensor] = {}
    with torch.no_grad():
        for rows in tokens.lengths.argsort(stable=True).split(batch):
            logits = one.read(two.answer(one.send(tokens[rows], "infer"), "infer"))
            found |= zip(rows.tolist(), logits, strict=True)
    return torch.stack([found[i] for i in range(len(tokens))])
