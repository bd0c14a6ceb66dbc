"""What crosses between the halves: typed lines, the messages on them, and the ledger of their bytes.

Simulated and really split training send the same bytes through here, and only what was sent is counted. Payload is the
tensor and the lengths of its examples; framing is the header, and whatever a channel reports that it added.
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
HEADER = struct.Struct("<HHI")  # number of the line, examples, version of the codebook
LENGTH = struct.Struct("<H")  # tokens of one example


class StaleCodebook(ValueError):
    """A message was encoded under another version of the codebook."""


@dataclass(frozen=True)
class Line:
    """One tensor that crosses.

    Args:
        direction: 'up' is from the device to the cloud.
        coding: how it is written.
        width: numbers per row.
        per: what has a row: an example, a token, or a position that is left of tokens after pooling.
        lengths: the message tells how many tokens each example has; otherwise the other side knows it.
        versioned: the message is refused unless both sides have the same codebook.
    """

    name: str
    direction: Direction
    coding: Coding
    width: int
    per: Per
    lengths: bool = False
    versioned: bool = False


class Ledger(Counter[tuple[str, str, str, str]]):
    """Bytes by (direction, phase, tensor, 'payload' or 'framing'). Ledgers add up."""

    def total(self, *, direction: str = "", phase: str = "", tensor: str = "", kind: str = "payload") -> int:
        """Bytes of everything that matches; an empty word matches all."""
        wanted = (direction, phase, tensor, kind)
        return sum(n for key, n in self.items() if all(w in ("", k) for w, k in zip(wanted, key, strict=True)))

    def flat(self) -> dict[str, int]:
        """{'up/train/codes/payload': bytes}, for a message; `Ledger.of` is the way back."""
        return {"/".join(key): n for key, n in sorted(self.items())}

    @staticmethod
    def of(flat: Mapping[str, int]) -> "Ledger":
        ledger = Ledger()
        for key, n in flat.items():
            direction, phase, tensor, kind = key.split("/")
            ledger[direction, phase, tensor, kind] = n
        return ledger


def pooled(tokens: int, pool: int) -> int:
    """Positions left of T tokens: T' = 1 + ceil((T - 1) / p); [CLS] stays by itself."""
    return 1 - (1 - tokens) // pool


@dataclass
class Boundary:
    """The lines of one split model, and what this side sent on them.

    Args:
        lines: alike on both sides.
        pool: tokens per position.
        ledger: of the messages that this side encoded.
    """

    lines: Sequence[Line]
    pool: int = 1
    ledger: Ledger = field(default_factory=Ledger)

    def line(self, name: str) -> Line:
        return self.lines[self._number(name)]

    def rows(self, line: Line, lengths: Iterable[int]) -> list[int]:
        """Rows of each example of ``lengths`` tokens."""
        if line.per == "position":
            return [pooled(n, self.pool) for n in lengths]
        return [n if line.per == "token" else 1 for n in lengths]

    def payload(self, name: str, lengths: Sequence[int]) -> int:
        """What a message of such examples takes, without its header."""
        line = self.line(name)
        return line.coding.size(self.rows(line, lengths), line.width) + LENGTH.size * len(lengths) * line.lengths

    def encode(self, name: str, values: Tensor, lengths: Sequence[int], phase: Phase, version: int = 0) -> bytes:
        """A message: header, lengths if the line tells them, rows.

        Args:
            values: (rows, width), those of all examples one after the other, without padding.
            lengths: (B,) tokens of each example.
            version: of the codebook on this side.
        """
        line = self.line(name)
        body = line.coding.encode(values, self.rows(line, lengths))
        return self.wrap(name, body, lengths, phase, version)

    def wrap(self, name: str, body: bytes, lengths: Sequence[int], phase: Phase, version: int = 0) -> bytes:
        """The message of rows that were encoded already, e.g. with error feedback."""
        line = self.line(name)
        if line.lengths:
            body = b"".join(map(LENGTH.pack, lengths)) + body
        self.ledger[line.direction, phase, name, "payload"] += len(body)
        self.ledger[line.direction, phase, name, "framing"] += HEADER.size
        return HEADER.pack(self._number(name), len(lengths), version) + body

    def decode(
        self, name: str, data: bytes, lengths: Sequence[int] | None = None, version: int = 0
    ) -> tuple[Tensor, list[int]]:
        """Rows (N, width) and the lengths of their examples.

        Args:
            lengths: (B,) tokens of each example, unless the line tells them.
            version: of the codebook on this side.

        Raises:
            StaleCodebook: the line is versioned, and the sender had another codebook.
            ValueError: the message is of another line, or damaged.
        """
        line = self.line(name)
        if len(data) < HEADER.size:
            raise ValueError(f"a message of {len(data)} bytes is no message of the boundary")
        number, examples, theirs = HEADER.unpack_from(data)
        if number != self._number(name):
            raise ValueError(
                f"expected '{name}', got a message of line {number}; both sides need the same configuration"
            )
        if line.versioned and theirs != version:
            raise StaleCodebook(
                f"'{name}' was encoded under codebook version {theirs}, this side has {version}; "
                "fetch the codebook of the round and encode again"
            )
        start = HEADER.size
        if line.lengths:
            told = len(data) >= start + LENGTH.size * examples
            lengths = [LENGTH.unpack_from(data, start + LENGTH.size * i)[0] for i in range(examples)] if told else []
            start += LENGTH.size * examples
        lengths = list(lengths or [])
        if len(lengths) != examples or len(data) != HEADER.size + self.payload(name, lengths):
            raise ValueError(f"a message of '{name}' is damaged: {len(data)} bytes for {examples} examples")
        return line.coding.decode(data[start:], self.rows(line, lengths), line.width), lengths

    def _number(self, name: str) -> int:
        for number, line in enumerate(self.lines):
            if line.name == name:
                return number
        raise ValueError(f"no line is called '{name}'; the boundary has {', '.join(line.name for line in self.lines)}")


def lines(
    wire: int,
    logits: int,
    per: Per,
    codes: tuple[int, int] | None = None,
    up: str = "float32",
    down: str = "float16",
    answer: str = "float16",
) -> tuple[Line, ...]:
    """The lines of a split model in the U shape.

    Args:
        wire: numbers per position in code space.
        logits: numbers per row of logits; per: what has a row of them.
        codes: (K, m) of a quantised boundary, which may begin with activations; None: it has activations only.
        up: coding of activations; down: of gradients in code space; answer: of logits and their gradients. Names of
            `models.vq.quantiser.codec.CODINGS`.
    """
    quantised = (
        [Line("codes", "up", Codes(codes[0]), codes[1], "position", lengths=True, versioned=True)] if codes else []
    )
    return (
        *quantised,
        Line("activations", "up", CODINGS[up], wire, "position", lengths=True),
        Line("logits", "down", CODINGS[answer], logits, per),
        Line("logit-gradient", "up", CODINGS[answer], logits, per),
        Line("gradient", "down", CODINGS[down], wire, "position"),
    )


def codebook_bytes(groups: int, size: int, w: int) -> tuple[int, int]:
    """Bytes of a round: the codebook down, and its statistics (counts and sums) up, in float32."""
    return 4 * groups * size * w, 4 * groups * size * (w + 1)
