"""What the halves exchange: typed channels, their messages, and a count of the bytes.

Simulated and distributed split training send the same bytes through this module. Traffic counts the bytes of the actual
messages. Payload is the tensor and the lengths of its examples. Framing is the header, plus what a transport reports as
overhead.
"""

import struct
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from models.vq.quantiser.codec import CODINGS, Codes, Coding

Direction = Literal["up", "down"]
Phase = Literal["train", "infer", "round"]
Per = Literal["example", "token", "position"]
HEADER = struct.Struct("<HHI")  # number of the channel, examples, version of the codebook
LENGTH = struct.Struct("<H")  # tokens of one example


class StaleCodebook(ValueError):
    """A message was encoded with another version of the codebook."""


@dataclass(frozen=True)
class Channel:
    """One tensor that the halves exchange.

    Args:
        name: name of the tensor.
        direction: 'up' is from the device to the cloud.
        coding: how the tensor becomes bytes.
        width: numbers per row.
        per: unit of a row: an example, a token, or a position (a token after pooling).
        lengths: the message contains the number of tokens of each example; otherwise the receiver knows it.
        versioned: the receiver refuses the message unless both sides have the same codebook.
    """

    name: str
    direction: Direction
    coding: Coding
    width: int
    per: Per
    lengths: bool = False
    versioned: bool = False


class BoundaryTraffic(Counter[tuple[str, str, str, str]]):
    """Bytes by (direction, phase, tensor, 'payload' or 'framing'). Instances add up."""

    def total(self, *, direction: str = "", phase: str = "", tensor: str = "", kind: str = "payload") -> int:
        """Sum the bytes of all matching entries; an empty string matches all."""
        pattern = (direction, phase, tensor, kind)
        return sum(n for key, n in self.items() if all(w in ("", k) for w, k in zip(pattern, key, strict=True)))

    def to_dict(self) -> dict[str, int]:
        """Convert to {'up/train/codes/payload': bytes}, for a message; `from_dict` is the inverse."""
        return {"/".join(key): n for key, n in sorted(self.items())}

    @staticmethod
    def from_dict(counts: Mapping[str, int]) -> "BoundaryTraffic":
        """Restore the result of `to_dict`."""
        traffic = BoundaryTraffic()
        for key, n in counts.items():
            direction, phase, tensor, kind = key.split("/")
            traffic[direction, phase, tensor, kind] = n
        return traffic


def pooled_length(tokens: int, pool: int) -> int:
    """Return the number of positions of T tokens: T' = 1 + ceil((T - 1) / p); [CLS] is not pooled."""
    return 1 - (1 - tokens) // pool


@dataclass
class Boundary:
    """The channels of one split model, and the traffic that this side sent.

    Args:
        channels: the same on both sides.
        pool: tokens per position.
        traffic: bytes of the messages that this side encoded.
    """

    channels: Sequence[Channel]
    pool: int = 1
    traffic: BoundaryTraffic = field(default_factory=BoundaryTraffic)

    def channel(self, name: str) -> Channel:
        return self.channels[self._number(name)]

    def rows(self, channel: Channel, lengths: Iterable[int]) -> list[int]:
        """Return the number of rows of each example of ``lengths`` tokens."""
        if channel.per == "position":
            return [pooled_length(n, self.pool) for n in lengths]
        return [n if channel.per == "token" else 1 for n in lengths]

    def payload(self, name: str, lengths: Sequence[int]) -> int:
        """Return the bytes of a message of such examples, without its header."""
        channel = self.channel(name)
        rows = channel.coding.size(self.rows(channel, lengths), channel.width)
        return rows + LENGTH.size * len(lengths) * channel.lengths

    def encode(self, name: str, values: Tensor, lengths: Sequence[int], phase: Phase, version: int = 0) -> bytes:
        """Encode a message: header, lengths if the channel has them, rows.

        Args:
            name: the channel.
            values: (rows, width) of all examples in order, without padding.
            lengths: (B,) tokens of each example.
            phase: for the traffic count.
            version: version of this side's codebook.
        """
        channel = self.channel(name)
        body = channel.coding.encode(values, self.rows(channel, lengths))
        return self.wrap(name, body, lengths, phase, version)

    def wrap(self, name: str, body: bytes, lengths: Sequence[int], phase: Phase, version: int = 0) -> bytes:
        """Build the message of rows that are encoded already, e.g. with error feedback."""
        channel = self.channel(name)
        if channel.lengths:
            body = b"".join(map(LENGTH.pack, lengths)) + body
        self.traffic[channel.direction, phase, name, "payload"] += len(body)
        self.traffic[channel.direction, phase, name, "framing"] += HEADER.size
        return HEADER.pack(self._number(name), len(lengths), version) + body

    def decode(
        self, name: str, data: bytes, lengths: Sequence[int] | None = None, version: int = 0
    ) -> tuple[Tensor, list[int]]:
        """Decode rows (N, width) and the lengths of their examples.

        Args:
            name: the channel.
            data: the message.
            lengths: (B,) tokens of each example, unless the channel has them.
            version: version of this side's codebook.

        Raises:
            StaleCodebook: the channel is versioned, and the sender had another codebook.
            ValueError: the message belongs to another channel, or is damaged.
        """
        channel = self.channel(name)
        if len(data) < HEADER.size:
            raise ValueError(f"a message of {len(data)} bytes is no message of the boundary")
        number, examples, sender_version = HEADER.unpack_from(data)
        if number != self._number(name):
            raise ValueError(
                f"expected '{name}', got a message of channel {number}; both sides need the same configuration"
            )
        if channel.versioned and sender_version != version:
            raise StaleCodebook(
                f"'{name}' was encoded with codebook version {sender_version}, this side has {version}; "
                "fetch the codebook of the round and encode again"
            )
        start = HEADER.size
        if channel.lengths:
            fits = len(data) >= start + LENGTH.size * examples
            lengths = [LENGTH.unpack_from(data, start + LENGTH.size * i)[0] for i in range(examples)] if fits else []
            start += LENGTH.size * examples
        lengths = list(lengths or [])
        if len(lengths) != examples or len(data) != HEADER.size + self.payload(name, lengths):
            raise ValueError(f"a message of '{name}' is damaged: {len(data)} bytes for {examples} examples")
        return channel.coding.decode(data[start:], self.rows(channel, lengths), channel.width), lengths

    def _number(self, name: str) -> int:
        for number, channel in enumerate(self.channels):
            if channel.name == name:
                return number
        raise ValueError(f"no channel is called '{name}'; the boundary has {', '.join(c.name for c in self.channels)}")


def channels(
    wire: int,
    logits: int,
    per: Per,
    codes: tuple[int, int] | None = None,
    up: str = "float32",
    down: str = "float16",
    answer: str = "float16",
) -> tuple[Channel, ...]:
    """Return the channels of a split model whose labels stay on the device (U shape).

    Args:
        wire: numbers per position in code space.
        logits: numbers per row of logits.
        per: unit of a row of logits.
        codes: (K, m) of a quantised boundary, which may start with activations; None: activations only.
        up: coding of activations.
        down: coding of gradients in code space.
        answer: coding of logits and their gradients. Codings are names in `models.vq.quantiser.codec.CODINGS`.
    """
    quantised = (
        [Channel("codes", "up", Codes(codes[0]), codes[1], "position", lengths=True, versioned=True)] if codes else []
    )
    return (
        *quantised,
        Channel("activations", "up", CODINGS[up], wire, "position", lengths=True),
        Channel("logits", "down", CODINGS[answer], logits, per),
        Channel("logit-gradient", "up", CODINGS[answer], logits, per),
        Channel("gradient", "down", CODINGS[down], wire, "position"),
    )
