"""A window that moves along the samples of a device's own, against counts by hand."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitions import DRIFTS, PARTITIONS, Dataset, World


@pytest.fixture(scope="module")
def toy(toy_maker: Callable[..., Dataset]) -> Dataset:
    """Two persons: every other sample is of the second one."""
    data = toy_maker()
    return replace(
        data, domain_train=np.arange(len(data.y_train)) % 2, domain_test=np.arange(len(data.y_test)) % 2,
        domains=("ann", "bob"), proxy=np.empty(0, np.int64),
    )  # fmt: skip


def world(data: Dataset, samples: int, stride: int, partition: str = "none", **options) -> World:
    window = DRIFTS["window"](samples=samples, stride=stride)
    return World(data, PARTITIONS[partition](), window, 1, proxy_fraction=0.0, **options)


def test_the_window_moves_by_its_stride_and_stays_at_the_end(toy: Dataset) -> None:
    rows, tests = len(toy.y_train) // 2, len(toy.y_test) // 2
    w = world(toy, samples=10, stride=4)
    own = np.arange(1, len(toy.y_train), 2)  # bob's
    for step, first in ((0, 0), (1, 4), (2, 8), (rows, rows - 10)):
        draw = w.draw(1, step)
        assert draw.train.tolist() == own[first : first + 10].tolist()
        a, b = first * tests // rows, -(-(first + 10) * tests // rows)
        assert draw.test.tolist() == np.arange(1, len(toy.y_test), 2)[a:b].tolist()
        shares = np.bincount(toy.y_train[draw.train], minlength=len(toy.classes)) / 10
        assert w.distribution(1, step) == pytest.approx(shares)
    assert w.size(1) == w.most_samples == 10


@settings(max_examples=40)
@given(
    st.integers(1, 400), st.integers(1, 200), st.integers(0, 1), st.integers(0, 9), st.sampled_from(["every", "2,5"])
)
def test_every_step_has_samples_and_is_the_same_when_asked_again(
    toy: Dataset, samples: int, stride: int, device: int, step: int, schedule: str
) -> None:
    from partitions.schedule import Schedule

    one, other = (world(toy, samples, stride, schedule=Schedule(schedule)) for _ in range(2))
    for at in range(step):
        one.draw(device, at)
    a, b = one.draw(device, step), other.draw(device, step)
    assert np.array_equal(a.train, b.train) and np.array_equal(a.test, b.test) and len(a.test)
    assert len(a.train) == one.size(device) == min(samples, len(toy.y_train) // 2)
    assert set(toy.domain_train[a.train]) == set(toy.domain_test[a.test]) == {device}


def test_a_partition_that_draws_samples_is_refused(toy: Dataset) -> None:
    with pytest.raises(ValueError, match="moves along a device's own samples, .* set data.partition to 'none'"):
        world(toy, 10, 4, "iid")
