"""Drifts: how each one changes distributions or corrupts samples."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitions import DRIFTS, PARTITIONS
from partitions.corruptions import Corruption
from partitions.drifts.drift import Shift
from partitions.rng import rng

EVEN = np.full(10, 0.1)


def shift(generator, fraction, frequencies, number=1, contexts=()):
    return Shift(0, generator, fraction, frequencies, number, lambda k: contexts[k])


@given(st.integers(0, 999), st.integers(1, 9), st.sampled_from([0.2, 0.25, 0.5, 0.6, 1.0]))
def test_class_swap_exchanges_the_given_fraction_of_classes(seed, m, fraction):
    p = PARTITIONS["m-classes"](m=m).initial(rng(seed), 0, EVEN)
    after = DRIFTS["class-swap"]().walk(p, shift(rng(seed, 1), fraction, EVEN))
    swapped = min(math.ceil(round(fraction * m, 9)), 10 - m)
    assert np.sum((p > 0) & (after == 0)) == np.sum((p == 0) & (after > 0)) == swapped
    assert sorted(after) == sorted(p)


def test_new_classes_get_the_shares_of_the_classes_that_they_replace():
    p = np.array([0.7, 0.3, 0, 0])
    after = DRIFTS["class-swap"]().walk(p, shift(rng(0), 1.0, np.full(4, 0.25)))
    assert after[:2].tolist() == [0, 0] and sorted(after[2:]) == [0.3, 0.7]


def test_class_swap_never_chooses_a_class_that_the_pool_lacks():
    for seed in range(20):
        after = DRIFTS["class-swap"]().walk(np.array([1.0, 0, 0]), shift(rng(seed), 1.0, np.array([0.5, 0, 0.5])))
        assert after.tolist() == [0, 0, 1]


def test_class_swap_rotates_the_shares_if_no_class_is_free():
    p = np.array([0.4, 0.3, 0.2, 0.1])
    after = DRIFTS["class-swap"]().walk(p, shift(rng(0), 0.5, np.full(4, 0.25)))
    assert np.sum(after != p) == 2 and sorted(after) == sorted(p)


def test_subject_drift_moves_to_another_domain_and_reaches_all():
    p = np.eye(5)[2]
    reached = {int(DRIFTS["subject"]().walk(p, shift(rng(seed), 0.5, np.full(5, 0.2))).argmax()) for seed in range(100)}
    assert reached == {0, 1, 3, 4}


@pytest.mark.parametrize("name", ["none", "resample"])
def test_these_drifts_do_not_change_the_distribution(name):
    p = np.array([0.7, 0.3, 0])
    assert DRIFTS[name]().walk(p, shift(rng(0), 0.5, p)).tolist() == p.tolist()


GAP = np.array([0.5, 0.0, 0.3, 0.2])


@given(st.integers(0, 9999), st.floats(0, 1), st.sampled_from([0.05, 0.5, 10]))
def test_label_shift_changes_at_most_its_fraction(seed, fraction, alpha):
    p = PARTITIONS["dirichlet"](alpha=0.3).initial(rng(seed), 0, GAP)
    after = DRIFTS["label-shift"](alpha=alpha).walk(p, shift(rng(seed, 1), fraction, GAP))
    assert after.sum() == pytest.approx(1) and (after >= 0).all() and after[1] == 0
    assert np.abs(after - p).sum() / 2 <= fraction + 1e-12


def test_in_the_long_run_the_mean_of_label_shift_is_the_pools_distribution():
    drift, last = DRIFTS["label-shift"](), []
    for seed in range(400):
        p = np.array([0.0, 0, 0, 1])
        for step in range(12):
            p = drift.walk(p, shift(rng(seed, step), 0.5, GAP))
        last.append(p)
    assert np.mean(last, axis=0) == pytest.approx(GAP, abs=0.03)


def test_recurring_cycles_through_its_contexts():
    contexts = np.eye(3)
    cycle = [DRIFTS["recurring"](contexts=3).walk(EVEN, shift(None, 0.5, EVEN, n, contexts)).argmax() for n in range(7)]
    assert cycle == [0, 1, 2, 0, 1, 2, 0]


def test_feature_drift_gives_every_device_a_kind_and_reflects_the_severity():
    drift = DRIFTS["feature"](severity_step=1.0)
    firsts = [drift.alter(None, shift(rng(seed), 0.5, EVEN)) for seed in range(200)]
    assert {corruption.kind for corruption in firsts} == {"blur", "brightness", "noise", "rotation"}
    moved = np.array(
        [drift.alter(Corruption("blur", 0.9), shift(rng(seed), 0.5, EVEN)).severity for seed in range(400)]
    )
    # 0.9 + U(-1, 1) is uniform in -0.1 .. 1.9; values beyond 0 and 1 are reflected, so the density is 1 everywhere
    assert ((moved >= 0) & (moved <= 1)).all()
    assert np.histogram(moved, 4, (0, 1))[0] / 400 == pytest.approx([0.25] * 4, abs=0.07)


def test_feature_drift_of_one_kind():
    corruption = DRIFTS["feature"](corruption="rotation").alter(None, shift(rng(0), 0.5, EVEN))
    assert corruption.kind == "rotation" and 0 < corruption.severity <= 0.5
