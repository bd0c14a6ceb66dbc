"""What is measured of a round beside scores: how far devices' updates disagree, how evenly modules are trained."""

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
import torch

from models.aggregation.weighted_sum import WeightedSum
from models.submodel import Axes, Coverage, State

NAN = float("nan")


class Divergence:
    """How far the updates of a round's devices disagree, on a scale that holds for a whole model and for modules alike.

    With d_ke the change that device k made to entry e, over the entries that n_e >= 2 devices were sent::

        sum_e var_k(d_ke) / sum_e mean_k(d_ke ** 2),    var with n_e - 1 in the denominator

    0: all moved alike; 1: their changes are unrelated; above 1 (at most 2): they oppose each other. That is 1 minus the
    mean correlation of two devices, and does not grow with the number of devices, as the plain ratio of norms does
    (gradient diversity, Yin et al. 2018, arXiv:1706.05699, eq. 2), so that a module of three devices compares with a
    global model of twenty-five (ECLM figure 14). Updates are added one by one, in constant memory.
    """

    def __init__(self, axes: Axes, like: State):
        self._first, self._second = WeightedSum(axes, like), WeightedSum(axes, like)

    def add(self, trained: State, sent: State, coverage: Coverage) -> None:
        """Add one device's update."""
        change = {name: trained[name] - value for name, value in sent.items()}
        self._first.add(change, coverage, 1.0)
        self._second.add({name: value.square() for name, value in change.items()}, coverage, 1.0)

    def merge(self, other: "Divergence") -> None:
        """Add all the updates that ``other`` has seen."""
        self._first.merge(other._first)
        self._second.merge(other._second)

    def values(self, names: Collection[str]) -> tuple[float, float]:
        """The divergence over the named parameters, and the plain variance: that of an entry, mean over entries.

        Both are NaN if no two devices share an entry of them, and the divergence is NaN if none moved.
        """
        variance = square = entries = 0.0
        for name in names:
            n = self._first.weight[name]
            shared = n >= 2
            mean, mean_square = (
                total / n.clamp(min=1) for total in (self._first.total[name], self._second.total[name])
            )
            unbiased = n / (n - 1).clamp(min=1)
            variance += float(torch.where(shared, unbiased * (mean_square - mean.square()), 0).sum())
            square += float(torch.where(shared, mean_square, 0).sum())
            entries += float(shared.expand_as(mean).sum())
        return variance / square if square else NAN, variance / entries if entries else NAN


def load_cv(coverages: Iterable[Coverage], modules: Mapping[str, int]) -> float:
    """Coefficient of variation of how many devices trained each module of a layer, mean over the layers.

    Args:
        coverages: the modules of each sub-model trained, by layer; modules: how many there are in each layer.
    """
    counts = {layer: np.zeros(n) for layer, n in modules.items()}
    for coverage in coverages:
        for layer, count in counts.items():
            count[coverage[layer].numpy() if layer in coverage else slice(None)] += 1
    return float(np.mean([count.std() / count.mean() if count.any() else NAN for count in counts.values()]))


def forgetting(then: Mapping[int, float], now: Mapping[int, float]) -> float:
    """Accuracy lost on the test draw of the step before, mean over the devices scored both times; NaN if none was."""
    lost: Sequence[float] = [then[device] - accuracy for device, accuracy in now.items() if device in then]
    return float(np.mean(lost)) if lost else NAN
