"""The cloud's share of the training data."""

import numpy as np

from partitions.dataset import Dataset


def choose_proxy(data: Dataset, fraction: float, generator: np.random.Generator) -> np.ndarray:
    """Sorted train indices (P,), about ``fraction`` of every (domain, class).

    Examples of one recording resemble each other, so a recording goes to the proxy whole or not at all; it counts as
    the class that most of it shows. Sets without recordings are split example by example.
    """
    label = np.asarray(data.y_train)
    domain = np.zeros(len(label), np.int64) if data.domain_train is None else np.asarray(data.domain_train)
    group = np.arange(len(label)) if data.group_train is None else np.asarray(data.group_train)
    _, first, unit = np.unique(group, return_index=True, return_inverse=True)
    shows = np.zeros((len(first), data.num_classes), np.int64)
    np.add.at(shows, (unit, label), 1)
    stratum = shows.argmax(axis=1) * (domain.max() + 1) + domain[first]

    order = generator.permutation(len(first))
    order = order[np.argsort(stratum[order], kind="stable")]  # by stratum, at random inside
    # walking through all strata and taking one whenever a multiple of 1 / fraction is crossed: every stratum gets its
    # share to within one, and so do every class (its strata are neighbours) and the whole
    crossed = np.floor(np.arange(1, len(order) + 1) * fraction + 0.5) > np.floor(np.arange(len(order)) * fraction + 0.5)
    chosen = np.zeros(len(first), bool)
    chosen[order[crossed]] = True
    return np.flatnonzero(chosen[unit])
