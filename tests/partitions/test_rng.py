"""Addresses of random numbers: each has one stream, which never changes."""

from enum import unique
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from partitions import Purpose, rng


def test_no_two_purposes_share_a_stream():
    unique(Purpose)  # raises for an alias, which iteration skips
    drawn = {purpose: rng(1, purpose, 0).integers(2**62) for purpose in Purpose}
    assert all(drawn[a] != drawn[b] for a, b in combinations(Purpose, 2))


def test_committed_results_depend_on_these_numbers():
    assert [purpose.name for purpose in sorted(Purpose)][:13] == [
        "PROXY", "CONTEXT", "DRIFT", "DRAW", "TEST", "COHORT", "TRAIN", "INIT", "OFFLINE", "PROFILE", "LOAD",
        "CORRUPTION", "SEARCH",
    ]  # fmt: skip
    assert [int(purpose) for purpose in sorted(Purpose)][:13] == list(range(1, 14))


@given(st.integers(0, 2**32), st.lists(st.integers(0, 2**31), max_size=3))
def test_an_address_gives_the_same_numbers_regardless_of_earlier_draws(seed, address):
    first = rng(seed, *address)
    first.random(5)
    assert rng(seed, *address).random() == rng(seed, *address).random() != rng(seed, *address, 1).random()
