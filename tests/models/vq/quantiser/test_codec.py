"""Laws of the codings for any shape, bytes worked by hand, and error feedback."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.vq.quantiser.codec import CODINGS, Codes, ErrorFeedback, Float16, Int8

ROWS = st.lists(st.integers(0, 9), min_size=1, max_size=5)


def values(rows, width, seed, magnitude=0):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(sum(rows), width)) * 10.0 ** (magnitude + generator.integers(-3, 1, (sum(rows), 1)))
    return torch.from_numpy(x.astype(np.float32))


def test_codes_by_hand():
    """Three bits each from the low end: 5, 3, 6 of one example, then 1 of the next, in a new byte."""
    coding = Codes(8)
    data = coding.encode(torch.tensor([[5], [3], [6], [1]]), [3, 1])
    assert data == bytes([0b10_011_101, 0b1, 0b001])
    assert coding.size([3, 1], 1) == 3


@settings(max_examples=80)
@given(st.integers(1, 5000), st.integers(1, 8), ROWS, st.integers(0, 99))
def test_codes_come_back(K, m, rows, seed):
    coding = Codes(K)
    codes = torch.from_numpy(np.random.default_rng(seed).integers(K, size=(sum(rows), m)))
    data = coding.encode(codes, rows)
    assert len(data) == coding.size(rows, m) == sum(int(np.ceil(n * m * np.ceil(np.log2(K)) / 8)) for n in rows)
    back = coding.decode(data, rows, m)
    assert back.dtype == torch.int64 and torch.equal(back, codes)


@pytest.mark.parametrize("code", [-1, 5])
def test_codes_out_of_range_are_refused(code):
    with pytest.raises(ValueError, match=r"not in \[0, 5\)"):
        Codes(5).encode(torch.tensor([[code]]), [1])


@settings(max_examples=60)
@given(ROWS, st.integers(1, 9), st.integers(0, 99), st.integers(-20, 8))
def test_floats_come_back_within_their_step(rows, width, seed, magnitude):
    """At any magnitude: 16 bits within 2^-11 of a value, 8 bits within half a step of their row."""
    x = values(rows, width, seed, magnitude)
    errors = {}
    for name, coding in CODINGS.items():
        data = coding.encode(x, rows)
        assert len(data) == coding.size(rows, width)
        back = coding.decode(data, rows, width)
        assert back.shape == x.shape and back.dtype == torch.float32
        errors[name] = (back - x).abs()
    largest = x.abs().amax() if len(x) else torch.tensor(0.0)
    assert (errors["float32"] == 0).all()
    assert (errors["float16"] <= torch.maximum(x.abs() * 2**-11, largest * 2**-38)).all()
    row = x.abs().amax(1, keepdim=True) if width else x
    assert (errors["int8"] <= row / 127 * 0.5 * 1.01 + row * 2**-11 + largest * 2**-38).all()


def test_sizes_by_hand():
    """Two examples of 3 and 1 rows of 10 numbers."""
    sizes = {name: coding.size([3, 1], 10) for name, coding in CODINGS.items()}
    assert sizes == {"float32": 160, "float16": 84, "int8": 4 + 4 * (10 + 2)}


def test_nan_is_refused():
    for coding in (Float16(), Int8()):
        with pytest.raises(ValueError, match="NaN or infinity"):
            coding.encode(torch.tensor([[float("nan")]]), [1])


def test_error_feedback_adds_up():
    """The sum of a constant gradient sent n times is off by the last error, not by n errors."""
    x, rows, keys, times = values([2, 3], 6, 0), [2, 3], [7, 9], 40
    feedback, without_feedback, with_feedback = ErrorFeedback(Int8()), torch.zeros(5, 6), torch.zeros(5, 6)
    for _ in range(times):
        without_feedback += Int8().decode(Int8().encode(x, rows), rows, 6)
        with_feedback += Int8().decode(feedback.encode(x, rows, keys), rows, 6)
    residuals = torch.cat([feedback.residuals[key] for key in keys])
    torch.testing.assert_close(with_feedback + residuals, times * x, rtol=1e-5, atol=1e-5)
    assert (with_feedback - times * x).abs().max() < (without_feedback - times * x).abs().max() / 5
    other = feedback.encode(values([1], 6, 1), [1], [8])  # a new example has no previous error
    assert other == Int8().encode(values([1], 6, 1), [1])
