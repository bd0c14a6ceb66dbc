"""Messages between cloud and device: frames, their encoding as bytes, and a log of the traffic.

In a stream, a frame is 4 bytes of length (big-endian) and one safetensors blob whose metadata describe it. Nothing is
pickled or executed. Tensors are narrowed before they enter a frame, so a device in the same process gets the same
numbers as a remote one.
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
MAX_FRAME_BYTES = 2**30  # larger frames are refused
HALF = torch.finfo(torch.float16).max


class FrameError(Exception):
    """The bytes are not a valid frame."""


def narrow(name: str, x: Tensor, precision: Precision) -> dict[str, Tensor]:
    """Convert x (..., d) for sending: float32, float16 (clamped to its range), or int8 with a float16 scale per row."""
    if precision == "fp32":
        return {name: x.float().contiguous()}
    if precision == "fp16":
        return {name: x.clamp(-HALF, HALF).half().contiguous()}
    if precision == "int8":
        scale = (x.abs().amax(-1, keepdim=True) / 127).clamp(2**-14, HALF).half()
        return {name: (x / scale.float()).round().clamp(-127, 127).to(torch.int8), f"{name}.scale": scale}
    raise ValueError(f"precision = '{precision}' must be one of {', '.join(get_args(Precision))}")


def widen(name: str, tensors: Mapping[str, Tensor]) -> Tensor:
    """Convert the result of `narrow` back to float32."""
    x = tensors[name].float()
    return x * tensors[f"{name}.scale"].float() if f"{name}.scale" in tensors else x


@dataclass(frozen=True)
class Frame:
    """A message: its kind, a few plain values, and tensors."""

    kind: str
    head: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def payload(self) -> int:
        """Bytes of the tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def blob(self) -> bytes:
        """Encode the frame for a transport that preserves message boundaries; `of_blob` is the inverse."""
        return save(dict(self.tensors), {"kind": self.kind, "head": json.dumps(self.head)})

    def to_bytes(self) -> bytes:
        """Encode the frame for a stream."""
        blob = self.blob()
        return PREFIX.pack(len(blob)) + blob

    @classmethod
    def of_blob(cls, blob: bytes) -> "Frame":
        """Decode a blob without its length prefix.

        Raises:
            FrameError: the blob is not a valid frame.
        """
        try:
            size = int.from_bytes(blob[:8], "little")
            metadata = json.loads(blob[8 : 8 + size])["__metadata__"]
            kind, head = metadata["kind"], json.loads(metadata["head"])
            if not isinstance(kind, str) or not isinstance(head, dict):
                raise ValueError(f"its head is {type(head).__name__}, not an object")
            return cls(kind, head, load(blob))
        except Exception as error:  # json, safetensors and missing keys raise different errors
            raise FrameError(f"a frame cannot be read: {error}") from error


@dataclass
class TrafficLog:
    """Count of exchanged bytes.

    Args:
        payload: bytes of tensors, by (direction, kind of frame, tensor).
        framing: all other bytes, by direction (0 within a process).
        calls: frames that waited for an answer.
        rows: positions whose output was requested.
    """

    payload: Counter[tuple[Direction, str, str]] = field(default_factory=Counter)
    framing: Counter[Direction] = field(default_factory=Counter)
    calls: int = 0
    rows: int = 0

    def count(self, direction: Direction, frame: Frame, wire: int | None = None) -> None:
        """Count a frame; ``wire`` is its size in a stream."""
        for name, tensor in frame.tensors.items():
            self.payload[direction, frame.kind, name] += tensor.nbytes
        if wire is not None:
            self.framing[direction] += wire - frame.payload

    def bytes(self, direction: Direction) -> int:
        """Return the payload in a direction."""
        return sum(count for key, count in self.payload.items() if key[0] == direction)
