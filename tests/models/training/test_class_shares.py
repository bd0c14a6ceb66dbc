"""Class shares by empirical Bayes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import dirichlet_multinomial

from models.training.class_shares import GRID, posterior_shares

counts = st.lists(st.integers(0, 40), min_size=2, max_size=8).filter(any)


def test_samples_that_look_like_the_clouds_give_its_shares_and_others_their_own() -> None:
    """2 of 4 samples and (2 + 0.5 A) / (4 + A) are both a half; one class of two: A = 0.01, (9 + 0.005) / 9.01."""
    assert posterior_shares(np.array([2, 2]), np.array([0.5, 0.5])) == pytest.approx([0.5, 0.5])
    assert posterior_shares(np.array([0, 9]), np.array([3, 3])) == pytest.approx([0.005 / 9.01, 9.005 / 9.01])
    drawn = posterior_shares(np.array([6, 3, 4, 5, 0, 7]), np.ones(6))
    assert drawn[4] > 0.05 and drawn.argmax() == 5


@given(counts, st.integers(0, 99))
def test_the_concentration_is_the_most_likely_one(observed: list[int], seed: int) -> None:
    cloud = np.random.default_rng(seed).dirichlet(np.ones(len(observed))) + 0.01
    cloud, own = cloud / cloud.sum(), np.array(observed)
    best = max(GRID, key=lambda a: dirichlet_multinomial.logpmf(own, a * cloud, own.sum()))
    found = posterior_shares(own, cloud)
    assert found == pytest.approx((own + best * cloud) / (own.sum() + best), rel=1e-6)
    assert found.sum() == pytest.approx(1) and (found > 0).all()


@given(counts)
def test_the_order_of_the_classes_does_not_matter(observed: list[int]) -> None:
    own, cloud = np.array(observed), np.arange(1.0, len(observed) + 1)
    assert posterior_shares(own[::-1], cloud[::-1]) == pytest.approx(posterior_shares(own, cloud)[::-1])
