"""Sub-tasks of co-occurring classes, for label skew (ECLM 4.3)."""

import numpy as np


def co_occurring(counts_DC: np.ndarray) -> np.ndarray:
    """Group classes that often occur together on clients into sub-tasks.

    The similarity of two classes is the cosine of their shares over clients. Average linkage joins classes until the
    wanted number of sub-tasks is left: C over the effective number of classes of the median client (the exponential of
    its entropy), at least two.

    Args:
        counts_DC: samples of each of C classes on each of D clients.

    Returns:
        (C,) the sub-task of every class, numbered from 0 in order of first occurrence.
    """
    from scipy.cluster.hierarchy import cut_tree, linkage  # slow import; clients do not need it
    from scipy.spatial.distance import pdist
    from scipy.stats import entropy

    shares = counts_DC / counts_DC.sum(1, keepdims=True)
    clusters = max(2, round(shares.shape[1] / np.exp(np.median(entropy(shares, axis=1)))))
    distance = np.nan_to_num(pdist(shares.T, "cosine"), nan=1.0)  # NaN: a class without samples
    return cut_tree(linkage(np.maximum(distance, 0), "average"), clusters)[:, 0]
