"""Convert shares to whole numbers by the largest-remainder method."""

import numpy as np


def apportion(total: int, share: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """Split ``total`` into counts in proportion to ``share``, with no count above its ``limit``.

    If a cell is full, its part goes to the other cells that have a share, in proportion.

    Args:
        total: number of items to split.
        share: weight of each cell (K,), 0 or more; the weights need not sum to 1.
        limit: largest count of each cell (K,).

    Returns:
        Counts int64 (K,). They sum to less than ``total`` only if all cells with a share are full.
    """
    counts = np.zeros(len(share), np.int64)
    open_ = (share > 0) & (limit > 0)
    while (left := total - int(counts.sum())) > 0 and open_.any():
        more = largest_remainder(left, np.where(open_, share, 0.0))
        counts = np.minimum(counts + more, limit)
        open_ &= counts < limit
    return counts


def largest_remainder(total: int, share: np.ndarray) -> np.ndarray:
    """Split ``total`` by ``share`` (K,) without limits; of equal remainders the first cell wins."""
    quota = total * (share / share.sum())
    counts = np.floor(quota + 1e-9).astype(np.int64)  # 0.3 * 10 must be 3
    # Only cells with a share may gain an item. Rounding makes equal remainders equal in floating point, too.
    remainder = np.where(share > 0, np.round(quota - counts, 9), -np.inf)
    counts[np.argsort(-remainder, kind="stable")[: total - int(counts.sum())]] += 1
    return counts
