"""The proxy data set: the server's share of the training data."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

import numpy as np

from partitions.dataset import Dataset


def matching(patterns: str, names: Sequence[str], key: str, what: str) -> np.ndarray:
    """Return which ``names`` (K,) match one of the comma-separated ``patterns``, such as ``person-0*,person-12-watch``.

    Args:
        key: of the run-config, for the message; what: the names are: ``classes``.

    Raises:
        ValueError: a pattern matches nothing.
    """
    found = np.zeros(len(names), bool)
    for pattern in filter(None, (part.strip() for part in patterns.split(","))):
        matches = [fnmatchcase(name, pattern) for name in names]
        if not any(matches):
            more = [f"and {len(names) - 20} more"] if len(names) > 20 else []
            known = f"known: {', '.join([*names[:20], *more])}" if names else "the data set has none"
            raise ValueError(f"{key} = '{patterns}': '{pattern}' matches none of the {what}; {known}")
        found |= matches
    return found


def choose_proxy(
    data: Dataset, fraction: float, generator: np.random.Generator, allowed: np.ndarray | None = None
) -> np.ndarray:
    """Choose the proxy data set, stratified by domain and class.

    A recording (see ``Dataset.group_train``) goes to the proxy as a whole or not at all, and counts as its most
    frequent class. Data sets without recordings are split sample by sample.

    Args:
        fraction: share of the training samples, 0 to 1.
        allowed: the samples that may be in the proxy (N,), by default all. A recording is chosen if it has one of them.

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
    if allowed is not None:
        chosen &= np.bincount(unit, allowed, len(first)) > 0
    return np.flatnonzero(chosen[unit])
