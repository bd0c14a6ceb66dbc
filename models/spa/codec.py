"""What crosses between cloud and device: frames, their bytes, and a ledger that counts them.

A frame on the wire is 4 bytes of length (big-endian) and one safetensors blob whose metadata say what it is: no pickle,
nothing is executed. Tensors are narrowed before they enter a frame, so a device in the same process gets the same
numbers as one at the end of a wire.
"""

import json
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from safetensors.torch import load, save
from torch import Tensor

Precision = Literal["fp32", "fp16", "int8"]
Direction = Literal["down", "up"]
PREFIX = struct.Struct(">I")
LONGEST = 2**30  # bytes; a stream that announces more is no stream of ours
HALF = torch.finfo(torch.float16).max


class Broken(Exception):
    """Bytes that are no frame."""


def narrow(name: str, x: Tensor, precision: Precision) -> dict[str, Tensor]:
    """x (..., d) as it is sent: float32, float16 (clamped to its range), or int8 with a float16 scale per row."""
    if precision == "fp32":
        return {name: x.float().contiguous()}
    if precision == "fp16":
        return {name: x.clamp(-HALF, HALF).half().contiguous()}
    if precision == "int8":
        scale = (x.abs().amax(-1, keepdim=True) / 127).clamp(2**-14, HALF).half()
        return {name: (x / scale.float()).round().clamp(-127, 127).to(torch.int8), f"{name}.scale": scale}
    raise ValueError(f"precision = '{precision}' must be one of {', '.join(get_args(Precision))}")


def widen(name: str, tensors: Mapping[str, Tensor]) -> Tensor:
    """What `narrow` made, in float32."""
    x = tensors[name].float()
    return x * tensors[f"{name}.scale"].float() if f"{name}.scale" in tensors else x


@dataclass(frozen=True)
class Frame:
    """A message: what it is, a few plain values, tensors."""

    kind: str
    head: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def payload(self) -> int:
        """Bytes of its tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def blob(self) -> bytes:
        """For a channel that knows where a message ends; `of_blob` is the way back."""
        return save(dict(self.tensors), {"kind": self.kind, "head": json.dumps(self.head)})

    def to_bytes(self) -> bytes:
        """For a stream."""
        blob = self.blob()
        return PREFIX.pack(len(blob)) + blob

    @classmethod
    def of_blob(cls, blob: bytes) -> "Frame":
        """The frame of a blob, without its prefix.

        Raises:
            Broken: it is none.
        """
        try:
            size = int.from_bytes(blob[:8], "little")
            about = json.loads(blob[8 : 8 + size])["__metadata__"]
            return cls(about["kind"], json.loads(about["head"]), load(blob))
        except Exception as error:  # json, safetensors and missing keys: each has errors of its own
            raise Broken(f"a frame cannot be read: {error}") from error


@dataclass
class Ledger:
    """Bytes that crossed.

    Args:
        payload: of tensors, by (direction, kind of frame, tensor); framing: everything else on the wire, by direction
            (0 within a process); calls: frames that waited for an answer; rows: positions whose output was asked for.
    """

    payload: Counter[tuple[Direction, str, str]] = field(default_factory=Counter)
    framing: Counter[Direction] = field(default_factory=Counter)
    calls: int = 0
    rows: int = 0

    def count(self, direction: Direction, frame: Frame, wire: int | None = None) -> None:
        """Enter a frame; ``wire``: the bytes it took there."""
        for name, tensor in frame.tensors.items():
            self.payload[direction, frame.kind, name] += tensor.nbytes
        if wire is not None:
            self.framing[direction] += wire - frame.payload

    def bytes(self, direction: Direction) -> int:
        """Payload in a direction."""
        return sum(count for key, count in self.payload.items() if key[0] == direction)
