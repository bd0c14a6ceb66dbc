"""The running weighted mean of sub-models."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from models.submodel import Axes, Coverage, Dimension, Joined, State, consecutive, covered, entry_index

CHUNK = 1 << 18  # values converted at a time: two megabytes, the fastest size in measurements


class WeightedSum:
    """A running weighted mean of sub-models whose memory does not grow with their number.

    It is a monoid: `add` and `merge` commute, and an empty sum changes nothing. Sums use double precision, so the
    float32 result does not depend on the order of the updates. Entries that no sub-model covers keep their old value in
    `finish`. Integer buffers stay integers.

    Args:
        axes: names of the axes of each parameter.
        like: state with the shapes of the whole model.
    """

    def __init__(self, axes: Axes, like: Mapping[str, Tensor]):
        self._axes = axes
        self.total: State = {}
        self.weight: State = {}  # one value per parameter until a partial update arrives, see `_entry_weights`
        for name, value in like.items():
            self.total[name] = torch.zeros(value.shape, dtype=torch.float64)
            self.weight[name] = torch.zeros([1] * value.dim(), dtype=torch.float64)

    def add(
        self,
        part: Mapping[str, Tensor],
        coverage: Coverage,
        weight: float,
        index_weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Add one sub-model.

        Args:
            part: parameters of the sub-model, shaped as `extract` shapes them.
            coverage: position of the sub-model in the whole model.
            weight: weight of the sub-model, e.g. its number of examples.
            index_weights: for an axis, one weight per covered index. For parameters with that axis they *replace*
                ``weight`` (ECLM: the importance of each module).
        """
        index_weights = index_weights or {}
        cuts: dict[Dimension, tuple[Tensor | None, tuple[int, int] | None, Tensor | None]] = {}
        buffer = torch.empty(CHUNK, dtype=torch.float64)
        for name, value in part.items():
            dimensions = self._axes[name]
            for dimension in dimensions:
                if dimension not in cuts:
                    kept, own = covered(dimension, coverage), None
                    if isinstance(dimension, Joined) and dimension.names & index_weights.keys():
                        own = dimension.weights(index_weights, coverage, weight)
                    elif isinstance(dimension, str) and dimension in index_weights:
                        own = index_weights[dimension]
                    cuts[dimension] = kept, None if kept is None else consecutive(kept), own
            partial = any(cuts[d][0] is not None or cuts[d][2] is not None for d in dimensions)
            total, weights = self.total[name], self._entry_weights(name) if partial else self.weight[name]
            scattered = []  # dimensions whose indices are not consecutive, or have their own weights
            for dim, dimension in enumerate(dimensions):
                kept, range_, own = cuts[dimension]
                if own is not None or (kept is not None and range_ is None):
                    scattered.append(dim)
                elif range_ is not None:
                    total, weights = total.narrow(dim, *range_), weights.narrow(dim, *range_)
            if not scattered:
                _add(total, value, weight, buffer)
                weights += weight
                continue
            (dim, *others) = scattered
            kept, _, own = cuts[dimensions[dim]]
            indices = torch.arange(value.shape[dim]) if kept is None else kept
            if others:
                self._add_scattered(name, value, coverage, weight, {d: cuts[dimensions[d]][2] for d in scattered})
            elif isinstance(dimensions[dim], Joined):
                shape = [-1 if d == dim else 1 for d in range(value.dim())]
                each = (torch.full([len(indices)], float(weight)) if own is None else own).double().reshape(shape)
                total.index_add_(dim, indices, value.double() * each)
                weights.index_add_(
                    dim, indices, each.expand([len(indices) if d == dim else n for d, n in enumerate(weights.shape)])
                )
            else:
                index_weight = [weight] * len(indices) if own is None else own.tolist()
                for i, (index, w) in enumerate(zip(indices.tolist(), index_weight, strict=True)):
                    _add(total.select(dim, index), value.select(dim, i), w, buffer)
                    weights.select(dim, index).add_(w)

    def _entry_weights(self, name: str) -> Tensor:
        """Return a parameter's weights, expanded along its named axes and of length 1 along the others."""
        axes, full_shape = self._axes[name], self.total[name].shape
        shape = torch.Size(n if axis is not None else 1 for axis, n in zip(axes, full_shape, strict=True))
        if self.weight[name].shape != shape:
            self.weight[name] = self.weight[name].expand(shape).clone()
        return self.weight[name]

    def _add_scattered(
        self, name: str, value: Tensor, coverage: Coverage, weight: float, own: Mapping[int, Tensor | None]
    ) -> None:
        names, total, weights = self._axes[name], self.total[name], self.weight[name]
        w: float | Tensor = weight
        for dim, each in own.items():
            if each is not None:
                w = each.to(total.dtype).reshape([-1 if d == dim else 1 for d in range(len(names))])
        total[entry_index(names, coverage, total.shape)] += w * value.to(total.dtype)
        weights[entry_index(names, coverage, weights.shape)] += w

    def merge(self, other: "WeightedSum") -> None:
        """Add all sub-models of another sum."""
        for name in self.total:
            self.total[name] += other.total[name]
            self.weight[name] = self.weight[name] + other.weight[name]

    def __getstate__(self) -> tuple[Any, ...]:
        """Convert tensors to arrays for another process."""
        return self._axes, {n: v.numpy() for n, v in self.total.items()}, {n: v.numpy() for n, v in self.weight.items()}

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._axes, *arrays = state
        self.total, self.weight = ({name: torch.from_numpy(v) for name, v in values.items()} for values in arrays)

    def finish(self, old: Mapping[str, Tensor]) -> State:
        """Return the weighted mean of all covered entries, and ``old`` for all others."""
        new = {}
        for name, value in old.items():
            weight = self.weight[name]
            mean = self.total[name] / torch.where(weight > 0, weight, 1)
            mean = (mean if value.dtype.is_floating_point else mean.round_()).to(value.dtype)
            new[name] = mean if bool((weight > 0).all()) else torch.where(weight > 0, mean, value)
        return new


def _add(total: Tensor, value: Tensor, weight: float, buffer: Tensor) -> None:
    """Compute ``total += weight * value`` through ``buffer``, which has total's precision and fits in the CPU cache."""
    if not (total.is_contiguous() and value.is_contiguous()):
        total.add_(value.to(total.dtype), alpha=weight)
    elif (n := value.numel()) <= CHUNK:
        total.view(-1).add_(buffer[:n].copy_(value.view(-1)), alpha=weight)
    else:
        for target, source in zip(total.view(-1).split(CHUNK), value.view(-1).split(CHUNK), strict=True):
            target.add_(buffer[: source.numel()].copy_(source), alpha=weight)
