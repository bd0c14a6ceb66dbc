"""Which samples leave and what enters, in cases small enough to do by hand."""

import numpy as np
import pytest

from partitions.rng import rng
from partitions.slots import renew

CELL = np.repeat([0, 1, 2], 10)  # samples 0..9, 10..19, 20..29
CELLS = [np.arange(10), np.arange(10, 20), np.arange(20, 30)]
HELD = np.array([0, 1, 2, 3, 10, 11, 12, 13])


def after(p, fraction, held=HELD, cell=CELL, cells=CELLS, size=8, seed=0):
    return renew(rng(seed), held, cell, cells, np.array(p), fraction, size)


def counts(samples):
    return np.bincount(CELL[samples], minlength=3).tolist()


@pytest.mark.parametrize("seed", range(5))
def test_samples_without_mass_leave_first(seed):
    now = after([0, 0.5, 0.5], 0.5, seed=seed)
    assert sorted(now[:4]) == [10, 11, 12, 13]
    assert counts(now) == [0, 4, 4]


@pytest.mark.parametrize("seed", range(5))
def test_a_small_step_leaves_some_behind(seed):
    now = after([0, 0.5, 0.5], 0.25, seed=seed)
    assert counts(now) == [2, 4, 2]  # two of cell 0 left, what enters goes where most is lacking
    assert set(now) >= {10, 11, 12, 13}


@pytest.mark.parametrize("seed", range(5))
def test_same_distribution_keeps_its_counts_and_takes_only_new_ones(seed):
    now = after([0.5, 0.5, 0], 0.5, seed=seed)
    assert counts(now) == [4, 4, 0]
    assert len(set(now) & set(HELD)) == 4 and len(set(now)) == 8


def test_more_slots_than_lost_samples():
    now = after([0, 0.5, 0.5], 0.75)  # 6 leave: all four of cell 0, two of cell 1
    assert len(set(now) & {10, 11, 12, 13}) == 2
    assert counts(now) == [0, 4, 4]


def test_a_first_draw_follows_the_shares():
    assert counts(after([0.5, 0.25, 0.25], 0.5, held=np.empty(0, np.int64))) == [4, 2, 2]


def test_a_small_cell_gives_all_and_the_rest_comes_from_others():
    cells = [np.arange(2), np.arange(10, 20), np.arange(20, 30)]
    assert counts(after([0.5, 0.25, 0.25], 0.5, held=np.empty(0, np.int64), cells=cells)) == [2, 3, 3]


def test_an_exhausted_pool_gives_what_it_has():
    assert len(after([1, 0, 0], 0.5, held=np.empty(0, np.int64), size=25)) == 10


def test_old_samples_return_only_when_nothing_new_is_left():
    cells = [np.arange(5), np.arange(10, 20), np.arange(20, 30)]
    now = after([1.0, 0, 0], 0.5, held=np.arange(4), cells=cells, size=4)
    assert 4 in now and len(set(now)) == 4  # one new, one of the two that left comes back
