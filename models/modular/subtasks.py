"""Sub-tasks of co-occurring classes: those that usually appear together on a device are one (ECLM 4.3, label skew)."""

import numpy as np


def co_occurring(counts_DC: np.ndarray) -> np.ndarray:
    """The sub-task of every class, (C,), numbered from 0 in the order of their first classes.

    Two classes are as alike as the cosine of the devices that hold them, and are joined by average linkage until there
    are as many sub-tasks as devices of a typical kind would need to have all classes between them: C over the median
    device's number of classes (the exponential of its entropy), at least two.

    Args:
        counts_DC: samples of each of C classes on each of D devices.
    """
    from scipy.cluster.hierarchy import cut_tree, linkage  # slow to import, and no device needs it
    from scipy.spatial.distance import pdist
    from scipy.stats import entropy

    shares = counts_DC / counts_DC.sum(1, keepdims=True)
    wanted = max(2, round(shares.shape[1] / np.exp(np.median(entropy(shares, axis=1)))))
    apart = np.nan_to_num(pdist(shares.T, "cosine"), nan=1.0)  # NaN: of a class that nobody holds
    return cut_tree(linkage(np.maximum(apart, 0), "average"), wanted)[:, 0]
