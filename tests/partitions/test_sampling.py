"""Which samples are removed and which are drawn, in cases small enough to check by hand."""

import numpy as np
import pytest

from partitions.rng import rng
from partitions.sampling import replace_samples

CELL = np.repeat([0, 1, 2], 10)  # samples 0..9, 10..19, 20..29
CELLS = [np.arange(10), np.arange(10, 20), np.arange(20, 30)]
INDICES = np.array([0, 1, 2, 3, 10, 11, 12, 13])


def after(p, fraction, indices=INDICES, cell=CELL, cells=CELLS, size=8, seed=0):
    return replace_samples(rng(seed), indices, cell, cells, np.array(p), fraction, size)


def counts(samples):
    return np.bincount(CELL[samples], minlength=3).tolist()


@pytest.mark.parametrize("seed", range(5))
def test_samples_of_cells_with_probability_0_are_removed_first(seed):
    now = after([0, 0.5, 0.5], 0.5, seed=seed)
    assert sorted(now[:4]) == [10, 11, 12, 13]
    assert counts(now) == [0, 4, 4]


@pytest.mark.parametrize("seed", range(5))
def test_a_small_step_keeps_some_of_them(seed):
    now = after([0, 0.5, 0.5], 0.25, seed=seed)
    assert counts(now) == [2, 4, 2]  # two of cell 0 were removed; new samples are drawn where most are missing
    assert set(now) >= {10, 11, 12, 13}


@pytest.mark.parametrize("seed", range(5))
def test_the_same_distribution_keeps_its_counts_and_gets_new_samples(seed):
    now = after([0.5, 0.5, 0], 0.5, seed=seed)
    assert counts(now) == [4, 4, 0]
    assert len(set(now) & set(INDICES)) == 4 and len(set(now)) == 8


def test_more_samples_are_removed_than_have_probability_0():
    now = after([0, 0.5, 0.5], 0.75)  # 6 are removed: all four of cell 0, two of cell 1
    assert len(set(now) & {10, 11, 12, 13}) == 2
    assert counts(now) == [0, 4, 4]


def test_a_first_draw_follows_the_shares():
    assert counts(after([0.5, 0.25, 0.25], 0.5, indices=np.empty(0, np.int64))) == [4, 2, 2]


def test_a_small_cell_gives_all_its_samples_and_other_cells_give_the_rest():
    cells = [np.arange(2), np.arange(10, 20), np.arange(20, 30)]
    assert counts(after([0.5, 0.25, 0.25], 0.5, indices=np.empty(0, np.int64), cells=cells)) == [2, 3, 3]


def test_a_small_pool_gives_all_its_samples():
    assert len(after([1, 0, 0], 0.5, indices=np.empty(0, np.int64), size=25)) == 10


def test_removed_samples_return_only_if_there_are_no_new_ones():
    cells = [np.arange(5), np.arange(10, 20), np.arange(20, 30)]
    now = after([1.0, 0, 0], 0.5, indices=np.arange(4), cells=cells, size=4)
    assert 4 in now and len(set(now)) == 4  # one is new, one of the two removed ones returns
