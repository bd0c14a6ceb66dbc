import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitions import DRIFTS, PARTITIONS
from partitions.corruptions import CORRUPTIONS, Change
from partitions.drifts.drift import Shift
from partitions.rng import rng

EVEN = np.full(10, 0.1)


def shift(generator, fraction, frequencies, number=1, contexts=()):
    return Shift(0, generator, fraction, frequencies, number, lambda k: contexts[k])


@given(st.integers(0, 999), st.integers(1, 9), st.sampled_from([0.2, 0.25, 0.5, 0.6, 1.0]))
def test_class_swap_exchanges_as_many_classes_as_it_says(seed, m, fraction):
    p = PARTITIONS["m-classes"](classes_per_device=m).initial(rng(seed), 0, EVEN)
    after = DRIFTS["class-swap"]().walk(p, shift(rng(seed, 1), fraction, EVEN))
    swapped = min(math.ceil(round(fraction * m, 9)), 10 - m)
    assert np.sum((p > 0) & (after == 0)) == np.sum((p == 0) & (after > 0)) == swapped
    assert sorted(after) == sorted(p)


def test_class_swap_hands_the_shares_over():
    p = np.array([0.7, 0.3, 0, 0])
    after = DRIFTS["class-swap"]().walk(p, shift(rng(0), 1.0, np.full(4, 0.25)))
    assert after[:2].tolist() == [0, 0] and sorted(after[2:]) == [0.3, 0.7]


def test_class_swap_never_enters_a_class_that_the_pool_lacks():
    for seed in range(20):
        after = DRIFTS["class-swap"]().walk(np.array([1.0, 0, 0]), shift(rng(seed), 1.0, np.array([0.5, 0, 0.5])))
        assert after.tolist() == [0, 0, 1]


def test_class_swap_with_mass_everywhere_turns_the_shares_round():
    p = np.array([0.4, 0.3, 0.2, 0.1])
    after = DRIFTS["class-swap"]().walk(p, shift(rng(0), 0.5, np.full(4, 0.25)))
    assert np.sum(after != p) == 2 and sorted(after) == sorted(p)


def test_subject_passes_to_another_domain_and_reaches_all():
    p = np.eye(5)[2]
    seen = {int(DRIFTS["subject"]().walk(p, shift(rng(seed), 0.5, np.full(5, 0.2))).argmax()) for seed in range(100)}
    assert seen == {0, 1, 3, 4}


@pytest.mark.parametrize("name", ["none", "resample"])
def test_these_leave_the_distribution_alone(name):
    p = np.array([0.7, 0.3, 0])
    assert DRIFTS[name]().walk(p, shift(rng(0), 0.5, p)).tolist() == p.tolist()


GAP = np.array([0.5, 0.0, 0.3, 0.2])


@given(st.integers(0, 9999), st.floats(0, 1), st.sampled_from([0.05, 0.5, 10]))
def test_label_shift_moves_no_more_than_its_fraction(seed, fraction, alpha):
    p = PARTITIONS["dirichlet"](alpha=0.3).initial(rng(seed), 0, GAP)
    after = DRIFTS["label-shift"](alpha=alpha).walk(p, shift(rng(seed, 1), fraction, GAP))
    assert after.sum() == pytest.approx(1) and (after >= 0).all() and after[1] == 0
    assert np.abs(after - p).sum() / 2 <= fraction + 1e-12


def test_label_shift_forgets_where_it_began_and_keeps_the_pools_mean():
    drift, walks = DRIFTS["label-shift"](), []
    for seed in range(400):
        p = np.array([0.0, 0, 0, 1])
        for step in range(12):
            p = drift.walk(p, shift(rng(seed, step), 0.5, GAP))
        walks.append(p)
    assert np.mean(walks, axis=0) == pytest.approx(GAP, abs=0.03)


def test_recurring_goes_round_its_contexts():
    contexts = np.eye(3)
    walked = [
        DRIFTS["recurring"](contexts=3).walk(EVEN, shift(None, 0.5, EVEN, n, contexts)).argmax() for n in range(7)
    ]
    assert walked == [0, 1, 2, 0, 1, 2, 0]


def test_feature_gives_every_device_a_kind_and_reflects_the_severity():
    drift = DRIFTS["feature"](severity_step=1.0)
    firsts = [drift.alter(None, shift(rng(seed), 0.5, EVEN)) for seed in range(200)]
    assert {change.kind for change in firsts} == set(CORRUPTIONS)
    moved = np.array([drift.alter(Change("blur", 0.9), shift(rng(seed), 0.5, EVEN)).severity for seed in range(400)])
    # 0.9 + U(-1, 1) lies evenly in -0.1 .. 1.9; what is beyond 0 and 1 comes back: density 1 everywhere
    assert ((moved >= 0) & (moved <= 1)).all()
    assert np.histogram(moved, 4, (0, 1))[0] / 400 == pytest.approx([0.25] * 4, abs=0.07)


def test_feature_of_one_kind():
    change = DRIFTS["feature"](corruption="rotation").alter(None, shift(rng(0), 0.5, EVEN))
    assert change.kind == "rotation" and 0 < change.severity <= 0.5
