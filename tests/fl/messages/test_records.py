"""States on the wire, and updates that must not touch the model."""

import pytest
import torch
from flwr.app import MetricRecord
from flwr.common import Array

from fl.messages import records as wire
from fl.workloads.state_store import NotHeld, Store, forget

STATE = {"w": torch.arange(6.0).reshape(2, 3), "steps": torch.tensor(3), "half": torch.ones(2, dtype=torch.float16)}


def test_a_state_survives_the_wire_with_types_and_shapes() -> None:
    back = wire.unpack(wire.pack(STATE))
    assert back.keys() == STATE.keys()
    for name, value in STATE.items():
        assert back[name].dtype == value.dtype and torch.equal(back[name], value)


@pytest.mark.parametrize(
    "value", [torch.randn(3, 4).T, torch.tensor(7), torch.zeros(0, 3), torch.ones(2, dtype=torch.bool)]
)
def test_packing_is_flowers_own_to_the_byte(value: torch.Tensor) -> None:
    assert wire.pack({"w": value})["w"] == Array(value.contiguous().numpy())


def test_what_is_lent_counts_as_what_is_packed_and_is_not_copied() -> None:
    state = {**STATE, "across": torch.randn(3, 4).T, "nothing": torch.zeros(0, 3), "yes": torch.ones(2).bool()}
    lent = wire.Lent(state)
    assert lent.count_bytes() == wire.pack(state).count_bytes()
    assert wire.unpack(lent)["w"].data_ptr() == STATE["w"].data_ptr()


def test_what_is_unpacked_is_a_copy() -> None:
    record = wire.pack(STATE)
    wire.unpack(record)["w"].zero_()
    assert wire.unpack(record)["w"][1, 2] == 5


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
    got = wire.fault(part, STATE)
    assert (got is None) if why is None else (got is not None and __import__("re").fullmatch(why, got))


def test_measures_are_told_apart_by_their_prefix_and_refused_where_they_make_no_sense() -> None:
    told = MetricRecord({"trained.bytes": 3, "trained.bits": 0.5, "delivered.bytes": 4.0, "loss": 1.0})
    assert wire.measures(told, "trained", {"bytes": "", "bits": ""}) == {"bytes": 3.0, "bits": 0.5}
    assert wire.measures(told, "adapted", {}) == {}
    with pytest.raises(ValueError, match=r"measure bits is 0\.5"):
        wire.measures(told, "trained", {"bytes": ""})
    with pytest.raises(ValueError, match="measure bytes is nan"):
        wire.measures(MetricRecord({"trained.bytes": float("nan")}), "trained", {"bytes": ""})


def test_a_device_keeps_what_it_saved_until_the_run_is_forgotten(tmp_path) -> None:
    mine, other = Store.of(tmp_path, "1", "la", 0, 5, 4), Store.of(tmp_path, "1", "la", 0, 6, 4)
    mine.save("model", STATE)
    assert torch.equal(mine.load("model")["w"], STATE["w"])
    with pytest.raises(NotHeld, match="device 6 holds no model"):
        other.load("model")
    forget(tmp_path, "1")
    with pytest.raises(NotHeld):
        mine.load("model")


def test_a_torn_file_is_as_good_as_none(tmp_path) -> None:
    store = Store.of(tmp_path, "1", "la", 0, 5, 4)
    store.save("model", STATE)
    path = store.folder / "model@4.safetensors"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(NotHeld):
        store.load("model")
