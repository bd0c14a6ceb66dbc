"""Robust aggregation that resists a few poisoned updates; each entry uses the clients that cover it.

    norm-bound    no update may change more than the median update: longer ones are scaled to the median norm
                  (Sun et al. 2019, arXiv:1911.07963)
    trimmed-mean  per entry, drop a share of the largest and of the smallest values (Yin et al. 2018,
                  arXiv:1803.01498)
    median        per entry, with equal weights of all clients (the same paper)

Unlike `models.aggregation.weighted_sum.WeightedSum`, it stores all updates until `finish`.
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
    """A robust replacement of `WeightedSum` with the same `add`, `merge` and `finish`.

    Args:
        axes: names of the axes of each parameter.
        rule: which rule.
        trim: for each entry, share of its clients dropped at either end, rounded up. At least one or two clients
            remain.
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
        """Add one sub-model; arguments as in `WeightedSum.add`."""
        self.parts.append((part, coverage, weight, index_weights))

    def merge(self, other: "Robust") -> None:
        """Add all sub-models of another instance."""
        self.parts += other.parts

    def finish(self, old: Mapping[str, Tensor]) -> State:
        """Apply the rule to all covered entries, and return ``old`` for all others."""
        if self.rule != "norm-bound":
            return {name: self._ranked(name, value) for name, value in old.items()}
        total = WeightedSum(self.axes, old)
        starts = [extract(old, self.axes, coverage) for _, coverage, _, _ in self.parts]
        norms = [_rms(part, start) for (part, *_), start in zip(self.parts, starts, strict=True)]
        bound = float(np.median(norms)) if norms else 0.0
        for (part, coverage, weight, index_weights), start, norm in zip(self.parts, starts, norms, strict=True):
            clipped = {k: _interpolate(start[k], v, bound / norm) for k, v in part.items()} if norm > bound else part
            total.add(clipped, coverage, weight, index_weights)
        return total.finish(old)

    def _ranked(self, name: str, old: Tensor) -> Tensor:
        """Return the mean of the middle values of one parameter."""
        like = {name: old}
        values, weights = [], []
        for part, coverage, share, index_weights in self.parts:
            single = WeightedSum({name: self.axes[name]}, like)
            single.add({name: part[name]}, coverage, share, index_weights)
            coverage_weight = single.weight[name].expand(old.shape)
            values.append(torch.where(coverage_weight > 0, single.total[name] / coverage_weight, torch.inf))
            weights.append(coverage_weight)
        if not values:
            return old
        value, order = torch.stack(values).sort(dim=0)  # (K, ...); clients without the entry come last
        weight = torch.stack(weights).gather(0, order)
        n = (weight > 0).sum(dim=0)
        largest_cut = (n - 1).clamp(min=0) // 2
        cut = largest_cut if self.rule == "median" else (self.trim * n - 1e-9).ceil().long().minimum(largest_cut)
        rank = torch.arange(len(value)).reshape(-1, *[1] * old.dim())
        middle = (rank >= cut) & (rank < n - cut)
        counts = torch.where(middle, torch.ones_like(weight) if self.rule == "median" else weight, 0)
        mean = torch.where(middle, counts * value, 0).sum(dim=0) / counts.sum(dim=0).clamp(min=1e-300)
        mean = mean if old.dtype.is_floating_point else mean.round()
        return torch.where(n > 0, mean.to(old.dtype), old)


def _rms(part: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> float:
    """Return the root mean square of a change, which is comparable between sub-models of different sizes."""
    changes = [(v.double() - start[k]).square() for k, v in part.items() if v.is_floating_point()]
    return math.sqrt(sum(float(c.sum()) for c in changes) / max(1, sum(c.numel() for c in changes)))


def _interpolate(start: Tensor, end: Tensor, share: float) -> Tensor:
    return torch.lerp(start.double(), end.double(), share).to(end.dtype) if end.is_floating_point() else end
