"""The proxy data set: the server's share of the training data."""

import numpy as np

from partitions.dataset import Dataset


def choose_proxy(data: Dataset, fraction: float, generator: np.random.Generator) -> np.ndarray:
    """Choose the proxy data set, stratified by domain and class.

    A recording (see ``Dataset.group_train``) goes to the proxy as a whole or not at all, and counts as its most
    frequent class. Data sets without recordings are split sample by sample.

    Args:
        fraction: share of the training samples, 0 to 1.

    Returns:
        Sorted training indices (P,), about ``fraction`` of every pair of domain and class.
    """
    label = np.asarray(data.y_train)
    domain = np.zeros(len(label), np.int64) if data.domain_train is None else np.asarray(data.domain_train)
    group = np.arange(len(label)) if data.group_train is None else np.asarray(data.group_train)
    _, first, unit = np.unique(group, return_index=True, return_inverse=True)
    class_counts = np.zeros((len(first), data.num_classes), np.int64)
    np.add.at(class_counts, (unit, label), 1)
    stratum = class_counts.argmax(axis=1) * (domain.max() + 1) + domain[first]

    order = generator.permutation(len(first))
    order = order[np.argsort(stratum[order], kind="stable")]  # by stratum, in random order within a stratum
    # Walk through all strata and take a unit whenever the running count crosses a multiple of 1 / fraction. Every
    # stratum, every class (its strata are neighbours) and the whole then get their share to within one unit.
    crossed = np.floor(np.arange(1, len(order) + 1) * fraction + 0.5) > np.floor(np.arange(len(order)) * fraction + 0.5)
    chosen = np.zeros(len(first), bool)
    chosen[order[crossed]] = True
    return np.flatnonzero(chosen[unit])
