"""A running weighted mean of sub-models."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from models.submodel import Axes, Coverage, State, consecutive, entry_index

PIECE = 1 << 18  # numbers converted at a time: two megabytes, the fastest size in measurements


class WeightedSum:
    """A running weighted mean of sub-models in memory that does not grow with their number.

    A monoid: `add` and `merge` commute, and an empty sum changes nothing. Sums are kept in double precision, so that
    the float32 result does not depend on the order of the answers. Entries that no sub-model covered keep their old
    value in `finish`: never 0/0, never 0. Integer buffers come back as integers.
    """

    def __init__(self, axes: Axes, like: Mapping[str, Tensor]):
        self._axes = axes
        self.total: State = {}
        self.weight: State = {}  # one number per parameter, until a part of it is added: then see `_apart`
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
            part: the parameters of the sub-model, shaped as `extract` shapes them.
            coverage: where they belong.
            weight: how much the part counts, e.g. its number of examples.
            index_weights: for an axis, one weight per kept index *instead of* ``weight``, for the parameters that have that
                axis (ECLM: the importance of each module).
        """
        index_weights = index_weights or {}
        runs = {axis: consecutive(kept) for axis, kept in coverage.items()}
        piece = torch.empty(PIECE, dtype=torch.float64)
        for name, value in part.items():
            names = self._axes[name]
            partial = any(axis in index_weights or axis in coverage for axis in names)
            total, weights = self.total[name], self._apart(name) if partial else self.weight[name]
            scattered = []  # axes along which what is kept is no run, or is weighed one by one
            for dim, axis in enumerate(names):
                run = runs.get(axis) if axis is not None else None
                if axis in index_weights or (axis in coverage and run is None):
                    scattered.append(dim)
                elif run is not None:
                    total, weights = total.narrow(dim, *run), weights.narrow(dim, *run)
            if not scattered:
                _add(total, value, weight, piece)
                weights += weight
            elif len(scattered) == 1:
                (dim,) = scattered
                axis = names[dim]
                kept = coverage.get(axis, torch.arange(value.shape[dim]))  # type: ignore[arg-type]
                each = index_weights[axis].tolist() if axis in index_weights else [weight] * len(kept)  # type: ignore[index]
                for i, (at, w) in enumerate(zip(kept.tolist(), each, strict=True)):
                    _add(total.select(dim, at), value.select(dim, i), w, piece)
                    weights.select(dim, at).add_(w)
            else:
                self._add_scattered(name, value, coverage, weight, index_weights)

    def _apart(self, name: str) -> Tensor:
        """A parameter's weight entry by entry along axes with a name, and 1 along the others."""
        axes, whole = self._axes[name], self.total[name].shape
        shape = torch.Size(n if axis is not None else 1 for axis, n in zip(axes, whole, strict=True))
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
        assert index is not None and narrow is not None
        total[index] += w * value.to(total.dtype)
        weights[narrow] += w

    def merge(self, other: "WeightedSum") -> None:
        """Add everything that ``other`` has seen."""
        for name in self.total:
            self.total[name] += other.total[name]
            self.weight[name] = self.weight[name] + other.weight[name]

    def __getstate__(self) -> tuple[Any, ...]:
        """For another process."""
        return self._axes, {n: v.numpy() for n, v in self.total.items()}, {n: v.numpy() for n, v in self.weight.items()}

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._axes, *arrays = state
        self.total, self.weight = ({name: torch.from_numpy(v) for name, v in of.items()} for of in arrays)

    def finish(self, old: Mapping[str, Tensor]) -> State:
        """The weighted mean where anything was added, and ``old`` everywhere else."""
        new = {}
        for name, value in old.items():
            weight = self.weight[name]
            mean = self.total[name] / torch.where(weight > 0, weight, 1)
            mean = (mean if value.dtype.is_floating_point else mean.round_()).to(value.dtype)
            new[name] = mean if bool((weight > 0).all()) else torch.where(weight > 0, mean, value)
        return new


def _add(total: Tensor, value: Tensor, weight: float, piece: Tensor) -> None:
    """``total += weight * value`` by way of ``piece``, which has the precision of ``total`` and stays in the cache."""
    if not (total.is_contiguous() and value.is_contiguous()):
        total.add_(value.to(total.dtype), alpha=weight)
    elif (n := value.numel()) <= PIECE:
        total.view(-1).add_(piece[:n].copy_(value.view(-1)), alpha=weight)
    else:
        for into, what in zip(total.view(-1).split(PIECE), value.view(-1).split(PIECE), strict=True):
            into.add_(piece[: what.numel()].copy_(what), alpha=weight)
