"""States and tasks as Flower records, and what a reply must be before it may touch the model."""

import math
from collections.abc import Container, Mapping
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common import Array

from models.axes import State

TASK, MODEL, SELECTOR, REPORT = "task", "model", "selector", "report"


def pack(state: Mapping[str, torch.Tensor]) -> ArrayRecord:
    """Parameters as a record."""
    return ArrayRecord({name: Array(value.detach().cpu().numpy()) for name, value in state.items()})


def unpack(record: ArrayRecord) -> State:
    """Parameters from a record, in memory of their own."""
    return {name: torch.from_numpy(array.numpy().copy()) for name, array in record.items()}


def size(content: RecordDict) -> int:
    """Bytes of the records of one message."""
    return sum(record.count_bytes() for record in content.values())


def task_record(values: Mapping[str, Any]) -> ConfigRecord:
    """A task's plain values; None is left out, for records cannot hold it."""
    return ConfigRecord({key: value for key, value in values.items() if value is not None})


def metrics(content: RecordDict) -> MetricRecord:
    """The numbers of a reply.

    Raises:
        ValueError: the reply has none.
    """
    record = content.get(REPORT)
    if not isinstance(record, MetricRecord):
        raise ValueError("the reply has no report")
    return record


def measures(record: MetricRecord, prefix: str, known: Container[str]) -> dict[str, float]:
    """What a workload measures, of a reply's numbers: those under ``prefix.``.

    Raises:
        ValueError: one is unknown or not finite.
    """
    found = {k.removeprefix(f"{prefix}."): v for k, v in record.items() if k.startswith(f"{prefix}.")}
    for name, value in found.items():
        if name not in known or not math.isfinite(value):  # type: ignore[arg-type]
            raise ValueError(f"measure {name} is {value}")
    return {name: float(value) for name, value in found.items()}  # type: ignore[arg-type]


def fault(part: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> str | None:
    """Why an update must not be merged, or None if nothing is wrong with it.

    Args:
        part: what came back; expected: what was sent, entry by entry.
    """
    if missing := expected.keys() - part.keys():
        return f"lacks {sorted(missing)[0]}"
    if unknown := part.keys() - expected.keys():
        return f"holds unknown {sorted(unknown)[0]}"
    for name, value in expected.items():
        got = part[name]
        if got.shape != value.shape:
            return f"{name} has shape {tuple(got.shape)} instead of {tuple(value.shape)}"
        if got.dtype != value.dtype:
            return f"{name} is {got.dtype} instead of {value.dtype}"
        if value.dtype.is_floating_point and not torch.isfinite(got).all():
            return f"{name} is not finite"
    return None
