"""What the frames between a cloud and a device may say, and checks of what arrives.

A device begins with `Hello`; the cloud answers `Welcome` or `Refused`. For each `Ask` of the device, the cloud sends
`Piece` after `Piece`, and `Done` or `Declined`. In between it may ask the device's plugin (`Gate`, `Side`), which
answers (`Opens`, `Output`).
"""

from collections.abc import Mapping
from typing import Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from models.spa.codec import Frame, FrameError, Precision, widen
from models.spa.train import Policy

GateSite = Literal["cloud", "device"]
MOST_BEAMS = 16
HEAD_BYTES = 1 << 14  # of a message's head and framing, beside texts and tensors


class Head(BaseModel):
    """The head of a frame, whose kind is the name of the class in lower case."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @classmethod
    def kind(cls) -> str:
        return cls.__name__.lower()

    @classmethod
    def of(cls, frame: Frame) -> Self:
        """Read the head of a frame.

        Raises:
            FrameError: the frame is of another kind, or a value is missing or impossible; the message names it.
        """
        if frame.kind != cls.kind():
            raise FrameError(f"a '{cls.kind()}' was expected, a '{frame.kind[:40]}' came")
        try:
            return cls.model_validate(dict(frame.head))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "head"
            raise FrameError(f"'{where}' of a '{cls.kind()}' is wrong: {first['msg']}") from None

    def frame(self, tensors: Mapping[str, Tensor] | None = None) -> Frame:
        """Return the frame with this head."""
        return Frame(self.kind(), self.model_dump(), tensors or {})


class Hello(Head):
    """A device's plugin, once per connection; the tensors ``weight`` and ``bias`` are the gate's, if it is shared."""

    checksum: str
    mode: Literal["s1", "s2", "s3", "spa"]
    states: list[int]
    attends: bool
    policy: Policy
    precision: Precision
    gate_site: GateSite
    tau: float


class Welcome(Head):
    """A cloud's base. Args: history: whether it knows what was said before; note: what its user should know."""

    base: str
    context: int = Field(ge=1, le=1 << 24)
    history: bool
    note: str


class Refused(Head):
    """The cloud closes the connection."""

    why: str


class Said(Head):
    """One message of a conversation."""

    role: Literal["user", "assistant"]
    content: str


class Ask(Head):
    """A conversation whose next message the cloud writes.

    Args:
        limit: most tokens; beams: of the search, 1: token by token.
        temperature: 0: the most likely token; top_p: share of the probability from which a token is drawn.
        guesses: number of most likely tokens to report with each token.
    """

    messages: list[Said] = Field(min_length=1)
    limit: int = Field(64, ge=1, le=1 << 20)
    beams: int = Field(1, ge=1, le=MOST_BEAMS)
    temperature: float = Field(0.0, ge=0, le=100)
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int = Field(0, ge=0, lt=1 << 63)
    guesses: int = Field(0, ge=0, le=20)


class Piece(Head):
    """A token of the answer, as `experiments.serving.cloud.Token`; ``text`` has whole characters, or is empty."""

    text: str
    asked: bool
    degraded: bool
    score: float | None
    down: int
    up: int
    base_ms: float
    call_ms: float
    side_ms: float
    base_guesses: list[str]
    guesses: list[str]


class Done(Head):
    """An answer is complete.

    Args:
        prompt: tokens of the conversation, of which the cloud had computed ``reused`` before.
        forgotten: messages that were left out because the conversation is longer than the base's context.
    """

    prompt: int
    reused: int
    forgotten: int


class Declined(Head):
    """The cloud does not answer this, and the conversation may go on."""

    why: str


class Gate(Head):
    """Ask whether the device's gate opens for each row of the tensor ``b`` (rows, d)."""

    seq: int


class Opens(Head):
    """For each row, whether the gate opens, and its score."""

    seq: int
    opens: list[bool]
    scores: list[float]


class Row(Head):
    """Positions of one hypothesis. Args: key: of the device's cache of what comes before; at: of the first one."""

    key: str | None
    count: int = Field(ge=1)
    at: int = Field(ge=0)


class Side(Head):
    """Ask for the side's output at the last position of each row of the tensor ``stack`` (positions, S, d)."""

    seq: int
    rows: list[Row] = Field(min_length=1, max_length=MOST_BEAMS)
    keep: list[str]


class Output(Head):
    """The tensor ``o`` (rows, d), and the milliseconds that the device took."""

    seq: int
    ms: float = Field(ge=0)


def printable(text: str) -> str:
    """Return text without characters that could control a terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" or c == "\N{ZERO WIDTH JOINER}" else "?" for c in text)


def tensor(frame: Frame, name: str, shape: tuple[int, ...], scaled: bool = False) -> Tensor:
    """Return a tensor of a frame as float32.

    Args:
        scaled: whether it may be int8 with a scale, as `models.spa.codec.narrow` makes it.

    Raises:
        FrameError: it is missing, has another type or shape, or is not finite.
    """
    x = frame.tensors.get(name)
    types = (torch.float32, torch.float16, torch.int8) if scaled else (torch.float32, torch.float16)
    if x is None or x.dtype not in types or tuple(x.shape) != shape:
        found = "missing" if x is None else f"{x.dtype} of shape {tuple(x.shape)}"
        raise FrameError(f"tensor '{name}' of a '{frame.kind}' must be of floats of shape {shape}, it is {found}")
    if x.dtype == torch.int8:
        tensor(frame, f"{name}.scale", (*shape[:-1], 1))
    elif not x.isfinite().all():
        raise FrameError(f"tensor '{name}' of a '{frame.kind}' has numbers that are not finite")
    return widen(name, {key: value for key, value in frame.tensors.items() if key in (name, f"{name}.scale")})
