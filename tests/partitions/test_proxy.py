"""The proxy data set: stratified, recordings as a whole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitions.proxy import choose_proxy
from partitions.rng import rng


@settings(max_examples=20)
@given(seed=st.integers(0, 999), fraction=st.sampled_from([0.1, 0.3, 0.5]))
def test_every_class_of_every_domain_contributes_its_share(toy, seed, fraction):
    proxy = choose_proxy(toy, fraction, rng(seed))
    assert len(proxy) == len(set(proxy)) == round(fraction * len(toy.y_train))
    cell = toy.domain_train * 6 + toy.y_train
    share = np.bincount(cell[proxy], minlength=36) / np.bincount(cell)
    assert np.abs(share - fraction).max() <= 0.02  # 50 samples in a cell: at most one too many or too few


def test_unbalanced_classes_keep_their_shares(toy_maker):
    data = toy_maker(counts=(900, 400, 200, 100, 50, 25))
    proxy = choose_proxy(data, 0.3, rng(3))
    share = np.bincount(data.y_train[proxy]) / np.bincount(data.y_train)
    assert np.abs(share - 0.3).max() <= 1 / 25 and len(proxy) == pytest.approx(0.3 * len(data.y_train), abs=1)


@settings(max_examples=20)
@given(seed=st.integers(0, 999))
def test_a_recording_is_never_split(toy_maker, seed):
    data = toy_maker(groups=True)
    proxy = choose_proxy(data, 0.3, rng(seed))
    rest = np.setdiff1d(np.arange(len(data.y_train)), proxy)
    assert not set(data.group_train[proxy]) & set(data.group_train[rest])
    cell = data.domain_train * 6 + data.y_train
    assert np.abs(np.bincount(cell[proxy], minlength=36) / 50 - 0.3).max() <= 0.101  # 10 recordings in a cell


def test_another_seed_chooses_other_samples(toy):
    assert set(choose_proxy(toy, 0.3, rng(1))) != set(choose_proxy(toy, 0.3, rng(2)))
