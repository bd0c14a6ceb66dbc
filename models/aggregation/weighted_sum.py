"""The running weighted mean of sub-models."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from models.submodel import Axes, Coverage, State, consecutive, entry_index

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
        ranges = {axis: consecutive(indices) for axis, indices in coverage.items()}
        buffer = torch.empty(CHUNK, dtype=torch.float64)
        for name, value in part.items():
            names = self._axes[name]
            partial = any(axis in index_weights or axis in coverage for axis in names)
            total, weights = self.total[name], self._entry_weights(name) if partial else self.weight[name]
            scattered = []  # axes whose indices are not consecutive, or have their own weights
            for dim, axis in enumerate(names):
                range_ = ranges.get(axis) if axis is not None else None
                if axis in index_weights or (axis in coverage and range_ is None):
                    scattered.append(dim)
                elif range_ is not None:
                    total, weights = total.narrow(dim, *range_), weights.narrow(dim, *range_)
            if not scattered:
                _add(total, value, weight, buffer)
                weights += weight
            elif len(scattered) == 1:
                (dim,) = scattered
                axis = names[dim]
                indices = coverage.get(axis, torch.arange(value.shape[dim]))  # type: ignore[arg-type]
                index_weight = index_weights[axis].tolist() if axis in index_weights else [weight] * len(indices)  # type: ignore[index]
                for i, (index, w) in enumerate(zip(indices.tolist(), index_weight, strict=True)):
                    _add(total.select(dim, index), value.select(dim, i), w, buffer)
                    weights.select(dim, index).add_(w)
            else:
                self._add_scattered(name, value, coverage, weight, index_weights)

    def _entry_weights(self, name: str) -> Tensor:
        """Return a parameter's weights, expanded along its named axes and of length 1 along the others."""
        axes, full_shape = self._axes[name], self.total[name].shape
        shape = torch.Size(n if axis is not None else 1 for axis, n in zip(axes, full_shape, strict=True))
        if self.weight[name].shape != shape:
            self.weight[name] = self.weight[name].expand(shape).clone()
        return self.weight[name]

    def _add_scattered(
        self, name: str, value: Tensor, coverage: Coverage, weight: float, index_weights: Mapping[str, Tensor]
    ) -> None:
        names, total, weights = self._axes[name], self.total[name], self.weight[name]
        w: float | Tensor = weight
        for dim, axis in enumerate(names):
            if axis is not None and axis in index_weights:
                w = index_weights[axis].to(total.dtype).reshape([-1 if d == dim else 1 for d in range(len(names))])
        index, narrow = entry_index(names, coverage, total.shape), entry_index(names, coverage, weights.shape)
        total[index] += w * value.to(total.dtype)
        weights[narrow] += w

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
