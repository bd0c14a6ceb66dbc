"""Axes and coverage: which part of a model a client gets, and how to cut that part out.

Every model names the axes of its parameters, e.g. ``{"stage1.0.block.first": ("stage1.modules", "stage1.hidden",
...)}``. A *coverage* lists, for each named axis, the indices that a sub-model contains; an axis that it does not
mention stays whole. HeteroFL (a prefix), FedRolex (a rolling window), ECLM (chosen modules) and FedAvg (everything)
differ only in coverage and weights. They share one `extract` and one `models.aggregation.weighted_sum.WeightedSum`.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

State = dict[str, Tensor]
Axes = Mapping[str, tuple[str | None, ...]]
Coverage = Mapping[str, Tensor]
Sizes = Mapping[str, int]

FULL: Coverage = {}


def covered_sizes(sizes: Sizes, coverage: Coverage) -> dict[str, int]:
    """Return the axis sizes of the sub-model that ``coverage`` cuts out of a model of ``sizes``.

    Raises:
        KeyError: the coverage names an axis that the model does not have.
    """
    unknown = coverage.keys() - sizes.keys()
    if unknown:
        raise KeyError(f"coverage names unknown axes {sorted(unknown)}; the model has {sorted(sizes)}")
    return {axis: len(coverage[axis]) if axis in coverage else size for axis, size in sizes.items()}


def entry_index(axes: tuple[str | None, ...], coverage: Coverage, shape: torch.Size) -> tuple[Tensor, ...]:
    """Return an index that selects the covered entries of one parameter."""
    kept = [coverage.get(axis or "", torch.arange(n)) for axis, n in zip(axes, shape, strict=True)]
    return torch.meshgrid(*kept, indexing="ij")


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
    ranges, submodel = {axis: consecutive(indices) for axis, indices in coverage.items()}, {}
    for name, value in state.items():
        selected, scattered = value, []
        for dim, axis in enumerate(axes[name]):
            if axis is None or axis not in coverage:
                continue
            if (range_ := ranges[axis]) is None:
                scattered.append((dim, coverage[axis]))
            else:  # a slice needs no index tensor on a GPU, and no sorting in the backward pass
                selected = selected.narrow(dim, *range_)
        for dim, index in scattered:
            selected = selected.index_select(dim, index.to(selected.device))
        submodel[name] = selected if scattered else selected.clone(memory_format=torch.contiguous_format)
    return submodel
