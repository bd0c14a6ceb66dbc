"""Axes and coverage: which part of a model a client gets, and how to cut that part out.

Every model names the axes of its parameters, e.g. ``{"stage1.0.block.first": ("stage1.modules", "stage1.hidden",
...)}``. A *coverage* lists, for each named axis, the indices that a sub-model contains; an axis that it does not
mention stays whole. HeteroFL (a prefix), FedRolex (a rolling window), ECLM (chosen modules) and FedAvg (everything)
differ only in coverage and weights. They share one `extract` and one `models.aggregation.weighted_sum.WeightedSum`.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

State = dict[str, Tensor]
Coverage = Mapping[str, Tensor]
Sizes = Mapping[str, int]

FULL: Coverage = {}


@dataclass(frozen=True)
class Joined:
    """A dimension that several axes share, such as channels after a concatenation, or pixels of flattened channels.

    Args:
        parts: one after the other, each a product of axes with their whole lengths, the outermost first; None: an axis
            that stays whole. A part of channels that were flattened with 7 x 7 pixels is
            ``(("channels", 512), (None, 49))``.
    """

    parts: tuple[tuple[tuple[str | None, int], ...], ...]

    def __len__(self) -> int:
        return sum(math.prod(size for _, size in part) for part in self.parts)

    @property
    def names(self) -> frozenset[str]:
        """The axes."""
        return frozenset(axis for part in self.parts for axis, _ in part if axis is not None)

    def positions(self, coverage: Coverage) -> Tensor | None:
        """Return the covered entries of the dimension, None if all are."""
        if not self.names & coverage.keys():
            return None
        start, found = 0, []
        for part in self.parts:
            at = torch.zeros(1, dtype=torch.long)
            for axis, size in part:
                kept = coverage.get(axis or "", torch.arange(size))
                at = (at[:, None] * size + kept).flatten()
            found.append(start + at)
            start += math.prod(size for _, size in part)
        return torch.cat(found)

    def weights(self, index_weights: Mapping[str, Tensor], coverage: Coverage, weight: float) -> Tensor:
        """Return a weight for each covered entry: the product of its axes' ``index_weights``, or ``weight``."""
        found = []
        for part in self.parts:
            own = torch.full([1], 1.0 if any(axis in index_weights for axis, _ in part) else weight).double()
            for axis, size in part:
                count = len(coverage[axis]) if axis in coverage else size  # type: ignore[index]
                one = index_weights[axis] if axis in index_weights else torch.ones(count)  # type: ignore[index]
                own = (own[:, None] * one).flatten()
            found.append(own)
        return torch.cat(found)


Dimension = str | Joined | None
"""What a dimension of a parameter is: an axis, several, or none that is ever cut."""
Axes = Mapping[str, tuple[Dimension, ...]]


def axis_names(dimensions: Iterable[Dimension]) -> set[str]:
    """Return the axes of some dimensions."""
    return {name for d in dimensions for name in ([d] if isinstance(d, str) else d.names if d is not None else [])}


def covered(dimension: Dimension, coverage: Coverage) -> Tensor | None:
    """Return the covered indices of a dimension, None if all are."""
    if isinstance(dimension, Joined):
        return dimension.positions(coverage)
    return None if dimension is None else coverage.get(dimension)


def covered_sizes(sizes: Sizes, coverage: Coverage) -> dict[str, int]:
    """Return the axis sizes of the sub-model that ``coverage`` cuts out of a model of ``sizes``.

    Raises:
        KeyError: the coverage names an axis that the model does not have.
    """
    unknown = coverage.keys() - sizes.keys()
    if unknown:
        raise KeyError(f"coverage names unknown axes {sorted(unknown)}; the model has {sorted(sizes)}")
    return {axis: len(coverage[axis]) if axis in coverage else size for axis, size in sizes.items()}


def entry_index(dimensions: tuple[Dimension, ...], coverage: Coverage, shape: torch.Size) -> tuple[Tensor, ...]:
    """Return an index that selects the covered entries of one parameter."""
    kept = [(covered(d, coverage), n) for d, n in zip(dimensions, shape, strict=True)]
    return torch.meshgrid(*(torch.arange(n) if i is None else i for i, n in kept), indexing="ij")


def consecutive(indices: Tensor) -> tuple[int, int] | None:
    """Return (start, length) of consecutive indices, or None for any others."""
    if not len(indices) or not torch.equal(indices, torch.arange(int(indices[0]), int(indices[0]) + len(indices))):
        return None
    return int(indices[0]), len(indices)


def under(state: Mapping[str, Tensor], prefix: str) -> State:
    """Return the entries of a state whose names begin with ``prefix``, under names without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def extract(state: Mapping[str, Tensor], axes: Axes, coverage: Coverage) -> State:
    """Copy the covered part of ``state`` into new tensors. Gradients flow through the copy.

    Args:
        state: tensors by name.
        axes: names of the axes of each tensor.
        coverage: (k,) indices per axis; axes that are missing stay whole.
    """
    cuts: dict[Dimension, tuple[Tensor | None, tuple[int, int] | None]] = {}
    submodel = {}
    for name, value in state.items():
        selected, scattered = value, []
        for dim, dimension in enumerate(axes[name]):
            if dimension not in cuts:
                kept = covered(dimension, coverage)
                cuts[dimension] = kept, None if kept is None else consecutive(kept)
            kept, range_ = cuts[dimension]
            if range_ is not None:  # a slice needs no index tensor on a GPU, and no sorting in the backward pass
                selected = selected.narrow(dim, *range_)
            elif kept is not None:
                scattered.append((dim, kept))
        for dim, index in scattered:
            selected = selected.index_select(dim, index.to(selected.device))
        submodel[name] = selected if scattered else selected.clone(memory_format=torch.contiguous_format)
    return submodel
