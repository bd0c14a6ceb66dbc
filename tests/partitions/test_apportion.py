"""Apportionment: examples by hand, and properties of all results."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitions.apportion import apportion

PLENTY = 10**6


@pytest.mark.parametrize(
    ("total", "share", "limit", "counts"),
    [
        (10, [0.5, 0.3, 0.2], None, [5, 3, 2]),  # 0.3 * 10 is slightly less than 3 in floating point
        (7, [0.5, 0.5], None, [4, 3]),  # equal remainders: the first cell wins
        (10, [0.55, 0.25, 0.2], None, [6, 2, 2]),  # 5.5 and 2.5 have equal remainders
        (10, [0.46, 0.27, 0.27], None, [4, 3, 3]),  # 4.6, 2.7, 2.7: two go to the larger remainders
        (5, [0.0, 1.0, 0.0], None, [0, 5, 0]),
        (10, [0.5, 0.3, 0.2], [2, 9, 9], [2, 5, 3]),  # 3 more are split 0.3 : 0.2, i.e. 1.8 and 1.2
        (10, [1.0, 1.0, 0.0], [2, 3, 9], [2, 3, 0]),  # a cell without a share gets nothing
        (0, [1.0], None, [0]),
        (3, [0.0, 0.0], None, [0, 0]),
    ],
)
def test_by_hand(total, share, limit, counts):
    limit = np.array(limit or [PLENTY] * len(share))
    assert apportion(total, np.array(share), limit).tolist() == counts


@given(st.data())
def test_properties(data):
    cells = data.draw(st.integers(1, 8))
    share = np.array(data.draw(st.lists(st.integers(0, 50), min_size=cells, max_size=cells)), float)
    limit = np.array(data.draw(st.lists(st.integers(0, 40), min_size=cells, max_size=cells)))
    total = data.draw(st.integers(0, 200))
    counts = apportion(total, share, limit)
    assert (counts >= 0).all() and (counts <= limit).all() and not counts[share == 0].any()
    assert counts.sum() == min(total, limit[share > 0].sum())
    free = apportion(total, share, np.full(cells, PLENTY))
    if share.any():
        assert (np.abs(free - total * share / share.sum()) < 1 + 1e-6).all()
