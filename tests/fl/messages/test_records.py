"""Parameters as records, and updates that must not touch the model."""

import re

import pytest
import torch
from flwr.app import MetricRecord
from flwr.common import Array

from fl.messages import records

STATE = {"w": torch.arange(6.0).reshape(2, 3), "steps": torch.tensor(3), "half": torch.ones(2, dtype=torch.float16)}


def test_parameters_keep_types_and_shapes_on_the_wire() -> None:
    back = records.unpack(records.pack(STATE))
    assert back.keys() == STATE.keys()
    for name, value in STATE.items():
        assert back[name].dtype == value.dtype and torch.equal(back[name], value)


@pytest.mark.parametrize(
    "value", [torch.randn(3, 4).T, torch.tensor(7), torch.zeros(0, 3), torch.ones(2, dtype=torch.bool)]
)
def test_packing_is_flowers_own_to_the_byte(value: torch.Tensor) -> None:
    assert records.pack({"w": value})["w"] == Array(value.contiguous().numpy())


def test_lent_parameters_count_as_packed_ones_and_are_not_copied() -> None:
    state = {**STATE, "across": torch.randn(3, 4).T, "nothing": torch.zeros(0, 3), "yes": torch.ones(2).bool()}
    lent = records.Lent(state)
    assert lent.count_bytes() == records.pack(state).count_bytes()
    assert records.unpack(lent)["w"].data_ptr() == STATE["w"].data_ptr()


def test_unpacked_parameters_are_a_copy() -> None:
    record = records.pack(STATE)
    records.unpack(record)["w"].zero_()
    assert records.unpack(record)["w"][1, 2] == 5


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, None),
        ({"w": torch.zeros(3, 2)}, r"w has shape \(3, 2\) instead of \(2, 3\)"),
        ({"w": torch.zeros(2, 3, dtype=torch.float64)}, "w is torch.float64 instead of torch.float32"),
        ({"w": torch.full((2, 3), float("nan"))}, "w is not finite"),
        ({"w": torch.tensor([[1.0, 2, float("inf")], [0, 0, 0]])}, "w is not finite"),
        ({"extra": torch.zeros(1)}, "holds unknown extra"),
        ({"w": None}, "lacks w"),
    ],
)
def test_faults_are_named(change: dict, why: str | None) -> None:
    part = {name: value for name, value in {**STATE, **change}.items() if value is not None}
    got = records.fault(part, STATE)
    assert (got is None) if why is None else (got is not None and re.fullmatch(why, got))


def test_measures_are_read_by_their_prefix_and_refused_if_they_are_impossible() -> None:
    report = MetricRecord({"trained.bytes": 3, "trained.bits": 0.5, "delivered.bytes": 4.0, "loss": 1.0})
    assert records.measures(report, "trained", {"bytes": "", "bits": ""}) == {"bytes": 3.0, "bits": 0.5}
    assert records.measures(report, "adapted", {}) == {}
    with pytest.raises(ValueError, match=r"measure bits is 0\.5"):
        records.measures(report, "trained", {"bytes": ""})
    with pytest.raises(ValueError, match="measure bytes is nan"):
        records.measures(MetricRecord({"trained.bytes": float("nan")}), "trained", {"bytes": ""})
