"""Parameters as Flower records, and what a reply must be before it may touch the model."""

import math
from collections.abc import Container, Mapping, Set
from dataclasses import asdict
from functools import lru_cache
from io import BytesIO

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Error, MetricRecord, RecordDict
from flwr.common import Array
from flwr.common.constant import SType

from fl.devices.hardware import Hardware
from models.submodel import State

TASK, MODEL, SELECTOR, REPORT, NODE = "task", "model", "selector", "report", "node"
EDGE = "edge"  # what crosses the cut of a split model
POSSIBLE = {"ram-gb": (1e-3, 1e6), "mac-per-s": (1e3, 1e18), "link-mbit-s": (1e-4, 1e7)}  # of a machine
LONG = 200  # letters of its name
MOST_MEASURED = 1e15  # of anything that a workload measures, in its unit: bytes, seconds, nats
SHOWN = 200  # letters of a client's text in a log
HEAD = 1 << 12  # bytes: more than the head of an array has
SPARE = 1 << 20  # bytes of an answer beyond the update: its report
HUGE = 100.0  # times the norm of what was sent, or 1 if that is less: no local training moves a model so far


def pack(state: Mapping[str, torch.Tensor]) -> ArrayRecord:
    """Parameters as a record."""
    record = ArrayRecord()
    for name, value in state.items():
        record[name] = _array(value.detach().cpu().contiguous().numpy())
    return record


def _array(value: np.ndarray) -> Array:
    """What ``Array(value)`` is, to the byte, in one copy instead of the many of `np.save` into a growing buffer."""
    data = b"".join((_head(value.dtype.str, value.shape), value.reshape(-1).view(np.uint8).data))
    return Array(dtype=str(value.dtype), shape=tuple(value.shape), stype=SType.NUMPY, data=data)


class Lent(ArrayRecord):
    """Parameters that do not leave the process: a record that counts as many bytes as that of `pack`, and has none."""

    def __init__(self, state: Mapping[str, torch.Tensor]):
        super().__init__()
        self.state = {name: value.detach().cpu().contiguous() for name, value in state.items()}

    def count_bytes(self) -> int:
        arrays = {name: value.numpy() for name, value in self.state.items()}
        return sum(len(name) + len(_head(v.dtype.str, v.shape)) + v.nbytes for name, v in arrays.items())


@lru_cache(maxsize=4096)
def _head(dtype: str, shape: tuple[int, ...]) -> bytes:
    """How the data of an array begin, in numpy's file format."""
    file = BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()


def unpack(record: ArrayRecord) -> State:
    """Parameters from a record, in memory of their own unless they were lent."""
    if isinstance(record, Lent):
        return record.state
    return {name: torch.from_numpy(_values(array)) for name, array in record.items()}


class _LastRecords:
    """The records that were unpacked last: many clients are sent the same ones, one after the other."""

    def __init__(self, most: int):
        self.most, self.unpacked = most, list[tuple[ArrayRecord, State]]()

    def state(self, record: ArrayRecord) -> State:
        for known, state in self.unpacked:
            if known is record:
                return state
        self.unpacked = [(record, unpack(record)), *self.unpacked][: self.most]
        return self.unpacked[0][1]


shared = _LastRecords(most=2).state
"""Unpack a record for reading only."""


def _values(array: Array) -> np.ndarray:
    """What ``array.numpy()`` is; without parsing its head where that is as `_array` writes it."""
    dtype = np.dtype(array.dtype)
    head = _head(dtype.str, tuple(array.shape))
    if array.stype != SType.NUMPY or dtype.hasobject or not array.data.startswith(head):
        return array.numpy()
    return np.frombuffer(array.data, dtype, offset=len(head)).reshape(array.shape).copy()


def size(content: RecordDict) -> int:
    """Bytes of the records of one message."""
    return sum(record.count_bytes() for record in content.values())


def metrics(content: RecordDict) -> MetricRecord:
    """The numbers of a reply.

    Raises:
        ValueError: the reply has none.
    """
    record = content.get(REPORT)
    if not isinstance(record, MetricRecord):
        raise ValueError("the reply has no report")
    return record


def hello(device: int, hardware: Hardware) -> RecordDict:
    """How a machine introduces itself: the number of its device, and what it is."""
    about = {key.replace("_", "-"): value for key, value in asdict(hardware).items()}
    return RecordDict({NODE: ConfigRecord({"partition-id": device, **about})})


def introduced(content: RecordDict) -> tuple[int, Hardware]:
    """The number of a device and its hardware, from its hello.

    Raises:
        ValueError: it makes no sense.
    """
    record = content.get(NODE)
    if not isinstance(record, ConfigRecord):
        raise ValueError("it does not say what it is")
    numbers = []
    for key, (low, high) in POSSIBLE.items():
        value = record.get(key)
        if not isinstance(value, int | float) or not low <= value <= high:
            raise ValueError(f"{key} = {value!r:.80} is not between {low:g} and {high:g}")
        numbers.append(float(value))
    device, name = record.get("partition-id"), record.get("name")
    if type(device) is not int or device < 0:
        raise ValueError(f"partition-id = {device!r:.80} is no number of a device")
    if not isinstance(name, str) or not name.isprintable() or len(name) > LONG:
        raise ValueError(f"device-class = {name!r:.80} is no name of at most {LONG} printable letters")
    return device, Hardware(name, *numbers)


def measures(record: MetricRecord, prefix: str, known: Container[str]) -> dict[str, float]:
    """What a workload measures, of a reply's numbers: those under ``prefix.``.

    Raises:
        ValueError, TypeError: one is unknown, no number, or so large that a mean with it says nothing.
    """
    found = {k.removeprefix(f"{prefix}."): v for k, v in record.items() if k.startswith(f"{prefix}.")}
    for name, value in found.items():
        if name not in known or not abs(value) <= MOST_MEASURED:  # type: ignore[arg-type]
            raise ValueError(f"measure {name} is {value}")
    return {name: float(value) for name, value in found.items()}  # type: ignore[arg-type]


def _square(value: torch.Tensor) -> float:
    """The squared norm; infinite where single precision cannot tell it."""
    flat = value.reshape(-1).float()
    return float(torch.dot(flat, flat))


def misfit(record: ArrayRecord, expected: Mapping[str, torch.Tensor]) -> str | None:
    """Why a record cannot hold an update of ``expected``, from names and sizes alone: `unpack` takes as much memory."""
    if isinstance(record, Lent):
        return None
    if why := _other_names(record.keys(), expected.keys()):
        return why
    for name, value in expected.items():
        if len(record[name].data) > value.nbytes + HEAD:
            return f"{name} has {len(record[name].data)} bytes instead of {value.nbytes}"
    return None


def _other_names(got: Set[str], expected: Set[str]) -> str | None:
    if missing := expected - got:
        return f"lacks {min(missing)}"
    if unknown := got - expected:
        return f"holds unknown {min(unknown)}"
    return None


def fault(
    part: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], never_negative: Container[str] = ()
) -> str | None:
    """Why an update must not be merged, or None if nothing is wrong with it.

    A finite update can do the harm of an infinite one, hence `HUGE`. It is measured against what was sent, not against
    the cohort's median: that needs no other updates, holds for a cohort of one and for one full of liars, and can be
    told where updates are added up one by one. Smaller lies are for robust merging (`models.aggregation.robust`).

    Args:
        part: what came back; expected: what was sent, entry by entry.
        never_negative: names of entries such as variances, see `models.nn.blocks.never_negative`.
    """
    if why := _other_names(part.keys(), expected.keys()):
        return why
    moved = 0.0
    for name, value in expected.items():
        got = part[name]
        if got.shape != value.shape:
            return f"{name} has shape {tuple(got.shape)} instead of {tuple(value.shape)}"
        if got.dtype != value.dtype:
            return f"{name} is {got.dtype} instead of {value.dtype}"
        if value.dtype.is_floating_point:
            distance = float(torch.dist(got.float(), value.float())) ** 2  # without a tensor of differences
            if not math.isfinite(distance) and not bool(got.isfinite().all()):
                return f"{name} is not finite"
            moved += distance
        if name in never_negative and bool((got < 0).any()):
            return f"{name} has negative values, which it cannot have"
    if moved > HUGE**2:  # else the norm of what was sent has no say
        norm = max(1.0, sum(_square(value) for value in expected.values() if value.dtype.is_floating_point))
        if moved > HUGE**2 * norm:
            return f"moved by {math.sqrt(moved):.3g}, the norm of what was sent is {math.sqrt(norm):.3g}"
    return None


def last_words(error: Error) -> str:
    """What a node says that failed: of a traceback the last line, and the place where it was raised."""
    lines = (error.reason or "").strip()[-50 * SHOWN :].splitlines() or [f"code {error.code}"]
    places = [line for line in lines[:-1] if line.lstrip().startswith("File ")]
    return f"{short(lines[-1])} ({short(places[-1])})" if places else short(lines[-1])


def short(text: str, most: int = SHOWN) -> str:
    """Text of a client as it may stand in a log: one line of printable letters."""
    line = " ".join(text[: 2 * most].split())
    line = line if len(line) <= most and len(text) <= 2 * most else f"{line[:most]} ..."
    return "".join(letter if letter.isprintable() else "?" for letter in line)
