import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitions import DRIFTS, PARTITIONS
from partitions.rng import rng

EVEN = np.full(10, 0.1)


@given(st.integers(0, 999), st.integers(1, 9), st.sampled_from([0.2, 0.25, 0.5, 0.6, 1.0]))
def test_class_swap_exchanges_as_many_classes_as_it_says(seed, m, fraction):
    p = PARTITIONS["m-classes"](classes_per_device=m).initial(rng(seed), 0, EVEN)
    after = DRIFTS["class-swap"]().walk(rng(seed, 1), p, fraction, EVEN)
    swapped = min(math.ceil(round(fraction * m, 9)), 10 - m)
    assert np.sum((p > 0) & (after == 0)) == np.sum((p == 0) & (after > 0)) == swapped
    assert sorted(after) == sorted(p)


def test_class_swap_hands_the_shares_over():
    p = np.array([0.7, 0.3, 0, 0])
    after = DRIFTS["class-swap"]().walk(rng(0), p, 1.0, np.full(4, 0.25))
    assert after[:2].tolist() == [0, 0] and sorted(after[2:]) == [0.3, 0.7]


def test_class_swap_never_enters_a_class_that_the_pool_lacks():
    for seed in range(20):
        after = DRIFTS["class-swap"]().walk(rng(seed), np.array([1.0, 0, 0]), 1.0, np.array([0.5, 0, 0.5]))
        assert after.tolist() == [0, 0, 1]


def test_class_swap_with_mass_everywhere_turns_the_shares_round():
    p = np.array([0.4, 0.3, 0.2, 0.1])
    after = DRIFTS["class-swap"]().walk(rng(0), p, 0.5, np.full(4, 0.25))
    assert np.sum(after != p) == 2 and sorted(after) == sorted(p)


def test_subject_passes_to_another_domain_and_reaches_all():
    p = np.eye(5)[2]
    seen = {int(DRIFTS["subject"]().walk(rng(seed), p, 0.5, np.full(5, 0.2)).argmax()) for seed in range(100)}
    assert seen == {0, 1, 3, 4}


@pytest.mark.parametrize("name", ["none", "resample"])
def test_these_leave_the_distribution_alone(name):
    p = np.array([0.7, 0.3, 0])
    assert DRIFTS[name]().walk(rng(0), p, 0.5, p).tolist() == p.tolist()
