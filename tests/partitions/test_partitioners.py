"""Partitions: the distribution that each one chooses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitions import DRIFTS, PARTITIONS
from partitions.rng import rng

EVEN = np.full(10, 0.1)
GAP = np.array([0.5, 0.0, 0.25, 0.25])


@given(
    st.sampled_from(sorted({*PARTITIONS} - {"none"})),
    st.integers(0, 2**32),
    st.integers(0, 10**6),
    st.sampled_from([EVEN, GAP]),
)
def test_every_partition_gives_probabilities_of_cells_in_the_pool(name, seed, device, frequencies):
    p = PARTITIONS[name]().initial(rng(seed), device, frequencies)
    assert p.sum() == pytest.approx(1) and (p >= 0).all() and not p[frequencies == 0].any()


def test_m_classes_gives_m_equal_shares_and_in_the_long_run_every_class():
    draws = np.stack([PARTITIONS["m-classes"](m=3).initial(rng(1, d), d, EVEN) for d in range(500)])
    assert {tuple(sorted(set(p))) for p in draws} == {(0, 1 / 3)}
    assert ((draws > 0).sum(axis=1) == 3).all()
    assert np.abs(draws.mean(axis=0) - 0.1).max() < 0.02


def test_m_out_of_range():
    with pytest.raises(ValueError, match=r"m-classes.m must be 1 to 10, the number of classes .*, not 11"):
        PARTITIONS["m-classes"](m=11).check(EVEN)
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        PARTITIONS["m-classes"](m=0)


def test_dirichlet_concentrates_as_alpha_falls_and_keeps_the_mean():
    largest = {}
    for alpha in (0.05, 0.5, 100):
        draws = np.stack([PARTITIONS["dirichlet"](alpha=alpha).initial(rng(1, d), d, GAP) for d in range(800)])
        largest[alpha] = draws.max(axis=1).mean()
        assert np.abs(draws.mean(axis=0) - GAP).max() < 0.06
    assert largest[0.05] > 0.85 > largest[0.5] > largest[100] and largest[100] < 0.56


@pytest.mark.parametrize("alpha", [0, -1, float("nan"), float("inf")])
def test_alpha_out_of_range(alpha):
    for component in (PARTITIONS["dirichlet"], DRIFTS["label-shift"]):
        with pytest.raises(ValueError, match="alpha\n.*(greater than 0|finite number)"):
            component(alpha=alpha)


def test_subject_partition_gives_domains_in_turn_and_skips_empty_ones():
    firsts = [PARTITIONS["subject"]().initial(rng(0), device, GAP).argmax() for device in range(5)]
    assert firsts == [0, 2, 3, 0, 2]


def test_a_similar_name_is_suggested():
    with pytest.raises(ValueError) as error:
        PARTITIONS["subjct"]
    assert str(error.value) == (
        "unknown partition 'subjct'; known: dirichlet, iid, m-classes, none, subject (did you mean 'subject'?)"
    )
    with pytest.raises(ValueError, match="subject$"):
        PARTITIONS["zzz"]
