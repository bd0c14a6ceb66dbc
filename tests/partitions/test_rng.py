"""Addresses of random numbers: one stream each, and the same ones for ever."""

from enum import unique
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from partitions import Purpose, rng


def test_no_two_purposes_share_a_stream():
    unique(Purpose)  # raises for an alias, which iteration would hide
    drawn = {purpose: rng(1, purpose, 0).integers(2**62) for purpose in Purpose}
    assert all(drawn[a] != drawn[b] for a, b in combinations(Purpose, 2))


def test_numbers_that_committed_results_rest_on():
    assert [purpose.name for purpose in sorted(Purpose)][:13] == [
        "PROXY", "CONTEXT", "DRIFT", "DRAW", "TEST", "COHORT", "TRAIN", "INIT", "OFFLINE", "PROFILE", "LOAD", "LOOK",
        "SEARCH",
    ]  # fmt: skip
    assert [int(purpose) for purpose in sorted(Purpose)][:13] == list(range(1, 14))


@given(st.integers(0, 2**32), st.lists(st.integers(0, 2**31), max_size=3))
def test_an_address_gives_the_same_numbers_whatever_was_drawn_before(seed, where):
    first = rng(seed, *where)
    first.random(5)
    assert rng(seed, *where).random() == rng(seed, *where).random() != rng(seed, *where, 1).random()
