"""Tensors as bytes: packed codes, 32- and 16-bit floats, 8-bit integers with a scale per row; little-endian.

A coding takes values (N, w): the rows of a batch of examples in order, without padding. ``rows`` (B,) is the number of
rows of each example. The codes of each example start at a new byte. Lossy codings first scale a message by a power of
two, so that small gradients fit into 16 bits.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

SCALE_BYTES = 4  # once per lossy message


class Coding(ABC):
    """One way to write a tensor as bytes."""

    @abstractmethod
    def size(self, rows: Sequence[int], width: int) -> int:
        """Return the bytes of a message."""

    @abstractmethod
    def encode(self, values: Tensor, rows: Sequence[int]) -> bytes:
        """Encode values (sum of rows, w). ValueError: the coding cannot express them."""

    @abstractmethod
    def decode(self, data: bytes, rows: Sequence[int], width: int) -> Tensor:
        """Decode to (sum of rows, w)."""


@dataclass(frozen=True)
class Codes(Coding):
    """Integers in [0, ``size_of``) with ceil(log2 size_of) bits each; decoded as int64."""

    size_of: int

    @property
    def bits(self) -> int:
        return (self.size_of - 1).bit_length()

    def size(self, rows: Sequence[int], width: int) -> int:
        return sum(-(-n * width * self.bits // 8) for n in rows)

    def encode(self, values: Tensor, rows: Sequence[int]) -> bytes:
        if len(values) and not 0 <= int(values.min()) <= int(values.max()) < self.size_of:
            raise ValueError(f"codes from {int(values.min())} to {int(values.max())} are not in [0, {self.size_of})")
        flat = values.numpy().astype(np.uint32)
        bits = (flat[..., None] >> np.arange(self.bits, dtype=np.uint32)) & 1
        ends = np.cumsum(rows)
        return b"".join(np.packbits(example, bitorder="little").tobytes() for example in np.split(bits, ends[:-1]))

    def decode(self, data: bytes, rows: Sequence[int], width: int) -> Tensor:
        values, start = [], 0
        for n in rows:
            count, step = n * width * self.bits, self.size([n], width)
            bits = np.unpackbits(
                np.frombuffer(data[start : start + step], np.uint8), count=count, bitorder="little"
            ).reshape(n, width, self.bits)
            values.append(bits @ (1 << np.arange(self.bits, dtype=np.int64)))
            start += step
        return torch.from_numpy(np.concatenate(values)) if values else torch.zeros(0, width, dtype=torch.int64)


@dataclass(frozen=True)
class Float32(Coding):
    """Exact values."""

    def size(self, rows: Sequence[int], width: int) -> int:
        return 4 * sum(rows) * width

    def encode(self, values: Tensor, rows: Sequence[int]) -> bytes:
        return values.detach().numpy().astype("<f4").tobytes()

    def decode(self, data: bytes, rows: Sequence[int], width: int) -> Tensor:
        return torch.from_numpy(np.frombuffer(data, "<f4").astype(np.float32).reshape(sum(rows), width))


@dataclass(frozen=True)
class Float16(Coding):
    """Half precision of values / scale; the scale is a power of two at the start of the message."""

    def size(self, rows: Sequence[int], width: int) -> int:
        return SCALE_BYTES + 2 * sum(rows) * width

    def encode(self, values: Tensor, rows: Sequence[int]) -> bytes:
        exact = values.detach().numpy()
        scale = _scale(exact)
        return np.array(scale, "<f4").tobytes() + (exact / scale).astype("<f2").tobytes()

    def decode(self, data: bytes, rows: Sequence[int], width: int) -> Tensor:
        scale = np.frombuffer(data, "<f4", 1)
        halves = np.frombuffer(data, "<f2", offset=SCALE_BYTES).astype(np.float32)
        return torch.from_numpy((halves * scale).reshape(sum(rows), width))


@dataclass(frozen=True)
class Int8(Coding):
    """Integers from -127 to 127 times a half-precision scale per row, times one power of two per message."""

    def size(self, rows: Sequence[int], width: int) -> int:
        return SCALE_BYTES + sum(rows) * (width + 2)

    def encode(self, values: Tensor, rows: Sequence[int]) -> bytes:
        exact = values.detach().numpy()
        scale = _scale(exact)
        exact = exact / scale
        steps = (np.abs(exact).max(axis=1, initial=0) / 127).astype("<f2")
        each = np.where(steps == 0, np.inf, steps.astype(np.float32))[:, None]
        whole = np.clip(np.rint(exact / each), -127, 127).astype(np.int8)
        return np.array(scale, "<f4").tobytes() + steps.tobytes() + whole.tobytes()

    def decode(self, data: bytes, rows: Sequence[int], width: int) -> Tensor:
        n = sum(rows)
        scale = np.frombuffer(data, "<f4", 1)
        steps = np.frombuffer(data, "<f2", n, SCALE_BYTES).astype(np.float32)
        whole = np.frombuffer(data, np.int8, offset=SCALE_BYTES + 2 * n).reshape(n, width)
        return torch.from_numpy(whole * (steps * scale)[:, None])


CODINGS: dict[str, Coding] = {"float32": Float32(), "float16": Float16(), "int8": Int8()}


@dataclass
class ErrorFeedback:
    """Add the coding error of an example's last message to its next one (arXiv:2206.01299, 3).

    Args:
        coding: the lossy coding.
        residuals: error of the last message by the example's key, (rows, w).
    """

    coding: Coding
    residuals: dict[int, Tensor] = field(default_factory=dict)

    def encode(self, values: Tensor, rows: Sequence[int], keys: Sequence[int]) -> bytes:
        """Encode values plus the residuals of ``keys`` (B,); an example must always have the same length."""
        examples = values.detach().split(list(rows))
        compensated = torch.cat([v + self.residuals.get(key, 0.0) for v, key in zip(examples, keys, strict=True)])
        data = self.coding.encode(compensated, rows)
        error = compensated - self.coding.decode(data, rows, values.shape[1])
        self.residuals.update(zip(keys, error.split(list(rows)), strict=True))
        return data


def _scale(values: np.ndarray) -> float:
    """Return the power of two that brings the largest magnitude to [2^14, 2^15), near the top of half precision."""
    largest = float(np.abs(values).max(initial=0.0))
    if not math.isfinite(largest):
        raise ValueError("a tensor to send contains NaN or infinity; lower the learning rate")
    return 2.0 ** max(math.frexp(largest)[1] - 15, -126) if largest else 1.0
