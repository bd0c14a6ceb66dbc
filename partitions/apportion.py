"""Whole numbers from shares: the largest-remainder method, with limits."""

import numpy as np


def apportion(total: int, share: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """Splits ``total`` into counts (K,) in proportion to ``share`` (K,) >= 0, none above ``limit`` (K,).

    Floors first, then one more to the largest remainders (the first cell wins a tie). What a limited cell cannot take
    goes to the others with a share, in proportion; fewer than ``total`` come back only if all of those are full.
    """
    counts = np.zeros(len(share), np.int64)
    open_ = (share > 0) & (limit > 0)
    while (left := total - int(counts.sum())) > 0 and open_.any():
        more = largest_remainder(left, np.where(open_, share, 0.0))
        counts = np.minimum(counts + more, limit)
        open_ &= counts < limit
    return counts


def largest_remainder(total: int, share: np.ndarray) -> np.ndarray:
    quota = total * (share / share.sum())
    counts = np.floor(quota + 1e-9).astype(np.int64)  # 0.3 * 10 must be 3
    # only cells with a share may gain one; rounding keeps ties ties in floating point
    remainder = np.where(share > 0, np.round(quota - counts, 9), -np.inf)
    counts[np.argsort(-remainder, kind="stable")[: total - int(counts.sum())]] += 1
    return counts
