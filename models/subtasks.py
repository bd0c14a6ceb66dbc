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
    from scipy.spatial.distance import squareform

    classes = counts_DC.shape[1]
    shares = counts_DC / counts_DC.sum(1, keepdims=True)
    entropy = -np.where(shares > 0, shares * np.log(np.maximum(shares, 1e-300)), 0).sum(1)
    wanted = max(2, round(classes / np.exp(np.median(entropy))))
    along = shares / np.maximum(np.linalg.norm(shares, axis=0), 1e-12)
    apart = np.clip(1 - along.T @ along, 0, None)
    np.fill_diagonal(apart, 0)
    joined = cut_tree(linkage(squareform(apart, checks=False), "average"), wanted)[:, 0]
    numbers = {label: number for number, label in enumerate(dict.fromkeys(joined.tolist()))}
    return np.array([numbers[label] for label in joined.tolist()])
