"""Parameters as records, and updates that must not touch the model."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, Error, MetricRecord
from flwr.common import Array

from fl.devices.hardware import Hardware
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


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<i8", "<f2", "?"])
def test_arrays_of_other_writers_are_read_as_numpy_reads_them(order: str, dtype: str) -> None:
    """Column by column, or in another order of bytes: not as `pack` writes."""
    value = np.asarray(np.arange(6).reshape(2, 3), dtype, order=order)  # type: ignore[call-overload]
    array = Array(value)
    if dtype != ">f4":  # torch has only the machine's own order
        assert records.unpack(ArrayRecord({"w": array}))["w"].tolist() == value.tolist()
    assert np.array_equal(records._values(array), value)


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


@pytest.mark.parametrize("length", [0.0, 0.5, 1.0, 40.0])
def test_an_update_is_refused_from_a_hundred_times_the_length_of_what_was_sent(length: float) -> None:
    """Or from a hundred, if that is more. Along one entry, by hand."""
    sent, most = {"w": torch.tensor([length, 0.0]), "n": torch.tensor(10**6)}, 100 * max(1.0, length)
    for share, refused in ((0.99, False), (1.01, True), (-0.99, False), (-1.01, True)):
        why = records.fault({**sent, "w": sent["w"] + torch.tensor([0.0, share * most])}, sent)
        assert (why is not None) == refused, (share, why)
    assert f"moved by {1.01 * most:.3g}, the norm of what was sent is {max(1.0, length):.3g}" == why


def test_a_machine_is_read_as_it_introduces_itself() -> None:
    for device, hardware in ((0, Hardware("board", 1e-3, 1e3, 1e-4)), (7, Hardware("x" * 200, 1e6, 1e18, 1e7))):
        assert records.introduced(records.hello(device, hardware)) == (device, hardware)
        for name, beyond in (("ram_gb", 1e9), ("mac_per_s", 1e24), ("link_mbit_s", 1e12)):  # the next number outwards
            value = getattr(hardware, name)
            out = np.nextafter(value, beyond if value > 1e5 else 0)
            with pytest.raises(ValueError, match=f"{name.replace('_', '-')} = .* is not between"):
                records.introduced(records.hello(device, replace(hardware, **{name: float(out)})))
    for key, value in (("partition-id", -1), ("partition-id", 0.0), ("name", "x" * 201), ("name", "a\nb")):
        content = records.hello(0, hardware)
        content[records.NODE][key] = value
        with pytest.raises(ValueError, match="is no n"):
            records.introduced(content)


def test_what_is_never_negative_must_stay_so() -> None:
    part = {**STATE, "w": -STATE["w"] - 1, "steps": torch.tensor(-1)}
    assert records.fault(part, STATE) is None
    assert records.fault(part, STATE, {"w"}) == "w has negative values, which it cannot have"
    assert records.fault(part, STATE, {"steps"}) == "steps has negative values, which it cannot have"
    assert records.fault(STATE, STATE, STATE) is None


def test_a_record_of_other_names_or_too_many_bytes_does_not_fit() -> None:
    packed = dict(records.pack(STATE))
    assert records.misfit(records.pack(STATE), STATE) is None and records.misfit(records.Lent(STATE), STATE) is None
    for change, why in (
        ({"w": None}, "lacks w"),
        ({"more": packed["w"]}, "holds unknown more"),
        ({"w": Array("float32", (2, 3), "numpy.ndarray", b"0" * 10**5)}, "w has 100000 bytes instead of 24"),
    ):
        arrays = {name: array for name, array in {**packed, **change}.items() if array is not None}
        assert records.misfit(ArrayRecord(arrays), STATE) == why


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("", "code 2"),
        (" \n\x0b", "code 2"),
        ("Traceback\n  File a.py, line 1\nValueError: no\n", "ValueError: no (File a.py, line 1)"),
        ("ValueError: \x1b[2Jno", "ValueError: ?[2Jno"),
        ("x" * 10**7, "x" * 200 + " ..."),
        ("x" * 200, "x" * 200),
        ("x" * 201, "x" * 200 + " ..."),
        ("x" + " " * 400 + "y", "x ..."),
    ],
)
def test_the_last_words_of_a_client_are_one_short_line(reason: str, said: str) -> None:
    assert records.last_words(Error(2, reason)) == said


@pytest.mark.parametrize("value", [1.1e15, -1.7e308, float("inf"), 2**62])
def test_a_measure_that_would_spoil_a_mean_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="measure bits is"):
        records.measures(MetricRecord({"trained.bits": value}), "trained", {"bits"})


def test_measures_are_read_by_their_prefix_and_refused_if_they_are_impossible() -> None:
    report = MetricRecord({"trained.bytes": 3, "trained.bits": 0.5, "delivered.bytes": 4.0, "loss": 1.0})
    assert records.measures(report, "trained", {"bytes": "", "bits": ""}) == {"bytes": 3.0, "bits": 0.5}
    assert records.measures(report, "adapted", {}) == {}
    with pytest.raises(ValueError, match=r"measure bits is 0\.5"):
        records.measures(report, "trained", {"bytes": ""})
    with pytest.raises(ValueError, match="measure bytes is nan"):
        records.measures(MetricRecord({"trained.bytes": float("nan")}), "trained", {"bytes": ""})
