"""Merging that a few poisoned updates cannot steer, module by module: over the devices that hold an entry.

    norm-bound    no update counts for more than the median one: its change is shortened to the median norm
                  (Sun et al. 2019, arXiv:1911.07963)
    trimmed-mean  entry by entry, a share of the largest and of the smallest values is left out (Yin et al. 2018,
                  arXiv:1803.01498)
    median        entry by entry, and every device counts alike (the same paper)

Unlike `models.aggregation.weighted_sum.WeightedSum`, all updates of a merge are kept until it is made.
"""

import math
from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from models.aggregation.weighted_sum import WeightedSum
from models.submodel import Axes, Coverage, State, extract

Rule = Literal["none", "norm-bound", "trimmed-mean", "median"]
RULES: tuple[Rule, ...] = get_args(Rule)


class Robust:
    """Takes the place of a `WeightedSum`: the same `add`, `merge` and `finish`.

    Args:
        trim: share of the devices that hold an entry left out at either end, rounded up; one device, or two, are left
            in any case.
    """

    def __init__(self, axes: Axes, rule: Rule, trim: float):
        self.axes, self.rule, self.trim = axes, rule, trim
        self.parts: list[tuple[Mapping[str, Tensor], Coverage, float, Mapping[str, Tensor] | None]] = []

    def add(
        self,
        part: Mapping[str, Tensor],
        coverage: Coverage,
        weight: float,
        index_weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        """As `WeightedSum.add`."""
        self.parts.append((part, coverage, weight, index_weights))

    def merge(self, other: "Robust") -> None:
        """Add everything that ``other`` has seen."""
        self.parts += other.parts

    def finish(self, old: Mapping[str, Tensor]) -> State:
        """What the rule makes of the parts, and ``old`` where there is none."""
        if self.rule != "norm-bound":
            return {name: self._ranked(name, value) for name, value in old.items()}
        total = WeightedSum(self.axes, old)
        sent = [extract(old, self.axes, coverage) for _, coverage, _, _ in self.parts]
        lengths = [_rms(part, start) for (part, *_), start in zip(self.parts, sent, strict=True)]
        bound = float(np.median(lengths)) if lengths else 0.0
        for (part, coverage, weight, index_weights), start, length in zip(self.parts, sent, lengths, strict=True):
            shortened = {k: _towards(start[k], v, bound / length) for k, v in part.items()} if length > bound else part
            total.add(shortened, coverage, weight, index_weights)
        return total.finish(old)

    def _ranked(self, name: str, old: Tensor) -> Tensor:
        """The mean of the middle values of one parameter."""
        like = {name: old}
        values, weights = [], []
        for part, coverage, share, index_weights in self.parts:
            one = WeightedSum({name: self.axes[name]}, like)
            one.add({name: part[name]}, coverage, share, index_weights)
            held = one.weight[name].expand(old.shape)
            values.append(torch.where(held > 0, one.total[name] / held, torch.inf))
            weights.append(held)
        if not values:
            return old
        value, order = torch.stack(values).sort(dim=0)  # (K, ...), those who do not hold the entry come last
        weight = torch.stack(weights).gather(0, order)
        n = (weight > 0).sum(dim=0)
        most = (n - 1).clamp(min=0) // 2
        cut = most if self.rule == "median" else (self.trim * n - 1e-9).ceil().long().minimum(most)
        rank = torch.arange(len(value)).reshape(-1, *[1] * old.dim())
        middle = (rank >= cut) & (rank < n - cut)
        counts = torch.where(middle, torch.ones_like(weight) if self.rule == "median" else weight, 0)
        mean = torch.where(middle, counts * value, 0).sum(dim=0) / counts.sum(dim=0).clamp(min=1e-300)
        mean = mean if old.dtype.is_floating_point else mean.round()
        return torch.where(n > 0, mean.to(old.dtype), old)


def _rms(part: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> float:
    """Root mean square of a change, so that sub-models of different sizes compare."""
    changes = [(v.double() - start[k]).square() for k, v in part.items() if v.is_floating_point()]
    return math.sqrt(sum(float(c.sum()) for c in changes) / max(1, sum(c.numel() for c in changes)))


def _towards(start: Tensor, end: Tensor, share: float) -> Tensor:
    return torch.lerp(start.double(), end.double(), share).to(end.dtype) if end.is_floating_point() else end
