"""Axes and coverage: one description of "which part of the model", one way to cut it out, one way to merge it back.

Every model names the axes of its parameters, e.g. ``{"stage1.0.block.first": ("stage1.modules", "stage1.hidden",
...)}``. A *coverage* lists, for each named axis, the indices that a sub-model keeps; an axis it does not mention is
kept whole. HeteroFL (a prefix), FedRolex (a rolling window), ECLM (chosen modules) and FedAvg (everything) are
choices of coverage and weight over the one `extract` and the one `WeightedSum` below.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

State = dict[str, Tensor]
Axes = Mapping[str, tuple[str | None, ...]]
Coverage = Mapping[str, Tensor]
Sizes = Mapping[str, int]

FULL: Coverage = {}
PIECE = 1 << 18  # numbers that are converted at a time: two megabytes, measured the fastest


def covered_sizes(sizes: Sizes, coverage: Coverage) -> dict[str, int]:
    """The axis sizes of the sub-model that ``coverage`` cuts out of a model of ``sizes``.

    Raises:
        KeyError: the coverage names an axis that the model does not have.
    """
    unknown = coverage.keys() - sizes.keys()
    if unknown:
        raise KeyError(f"coverage names unknown axes {sorted(unknown)}; the model has {sorted(sizes)}")
    return {axis: len(coverage[axis]) if axis in coverage else size for axis, size in sizes.items()}


def _index(axes: tuple[str | None, ...], coverage: Coverage, shape: torch.Size) -> tuple[Tensor | slice, ...] | None:
    """An index that selects the covered entries of one parameter, or None where it is kept whole."""
    kept = [coverage.get(axis) if axis is not None else None for axis in axes]
    if all(k is None for k in kept):
        return None
    if sum(k is not None for k in kept) == 1:  # one axis only: plain slices keep the fast indexing path
        return tuple(slice(None) if k is None else k for k in kept)
    full = [torch.arange(n) if k is None else k for k, n in zip(kept, shape, strict=True)]
    return torch.meshgrid(*full, indexing="ij")


def _run(kept: Tensor) -> tuple[int, int] | None:
    """(start, length) of indices that follow each other, None of any others."""
    if not len(kept) or not torch.equal(kept, torch.arange(int(kept[0]), int(kept[0]) + len(kept))):
        return None
    return int(kept[0]), len(kept)


def under(state: Mapping[str, Tensor], prefix: str) -> State:
    """What of a state has names that begin with ``prefix``, without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def extract(state: Mapping[str, Tensor], axes: Axes, coverage: Coverage) -> State:
    """The covered part of ``state``, as new tensors that share no memory with it; gradients flow through."""
    runs, part = {axis: _run(kept) for axis, kept in coverage.items()}, {}
    for name, value in state.items():
        kept, scattered = value, []
        for dim, axis in enumerate(axes[name]):
            if axis is None or axis not in coverage:
                continue
            if (run := runs[axis]) is None:
                scattered.append((dim, coverage[axis]))
            else:  # spares a GPU the indices, and in the backward pass their sorting
                kept = kept.narrow(dim, *run)
        for dim, at in scattered:
            kept = kept.index_select(dim, at.to(kept.device))
        part[name] = kept if scattered else kept.clone(memory_format=torch.contiguous_format)
    return part


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
        self, part: Mapping[str, Tensor], coverage: Coverage, weight: float, along: Mapping[str, Tensor] | None = None
    ) -> None:
        """Add one sub-model.

        Args:
            part: the parameters of the sub-model, shaped as `extract` shapes them.
            coverage: where they belong.
            weight: how much the part counts, e.g. its number of examples.
            along: for an axis, one weight per kept index *instead of* ``weight``, for the parameters that have that
                axis (ECLM: the importance of each module).
        """
        along = along or {}
        runs = {axis: _run(kept) for axis, kept in coverage.items()}
        piece = torch.empty(PIECE, dtype=torch.float64)
        for name, value in part.items():
            names = self._axes[name]
            partial = any(axis in along or axis in coverage for axis in names)
            total, weights = self.total[name], self._apart(name) if partial else self.weight[name]
            scattered = []  # axes along which what is kept is no run, or is weighed one by one
            for dim, axis in enumerate(names):
                run = runs.get(axis) if axis is not None else None
                if axis in along or (axis in coverage and run is None):
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
                each = along[axis].tolist() if axis in along else [weight] * len(kept)  # type: ignore[index]
                for i, (at, w) in enumerate(zip(kept.tolist(), each, strict=True)):
                    _add(total.select(dim, at), value.select(dim, i), w, piece)
                    weights.select(dim, at).add_(w)
            else:
                self._add_scattered(name, value, coverage, weight, along)

    def _apart(self, name: str) -> Tensor:
        """A parameter's weight entry by entry along axes with a name, and 1 along the others."""
        axes, whole = self._axes[name], self.total[name].shape
        shape = torch.Size(n if axis is not None else 1 for axis, n in zip(axes, whole, strict=True))
        if self.weight[name].shape != shape:
            self.weight[name] = self.weight[name].expand(shape).clone()
        return self.weight[name]

    def _add_scattered(
        self, name: str, value: Tensor, coverage: Coverage, weight: float, along: Mapping[str, Tensor]
    ) -> None:
        names, total, weights = self._axes[name], self.total[name], self.weight[name]
        w: float | Tensor = weight
        for dim, axis in enumerate(names):
            if axis is not None and axis in along:
                w = along[axis].to(total.dtype).reshape([-1 if d == dim else 1 for d in range(len(names))])
        index, narrow = _index(names, coverage, total.shape), _index(names, coverage, weights.shape)
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
