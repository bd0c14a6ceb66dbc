"""Axes and coverage: one description of "which part of the model", one way to cut it out, one way to merge it back.

Every model names the axes of its parameters, e.g. ``{"stage1.0.block.first": ("stage1.modules", "stage1.hidden",
...)}``. A *coverage* lists, for each named axis, the indices that a sub-model keeps; an axis it does not mention is
kept whole. HeteroFL (a prefix), FedRolex (a rolling window), ECLM (chosen modules) and FedAvg (everything) are
choices of coverage and weight over one `extract` and one `models.aggregation.weighted_sum.WeightedSum`.
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
    """The axis sizes of the sub-model that ``coverage`` cuts out of a model of ``sizes``.

    Raises:
        KeyError: the coverage names an axis that the model does not have.
    """
    unknown = coverage.keys() - sizes.keys()
    if unknown:
        raise KeyError(f"coverage names unknown axes {sorted(unknown)}; the model has {sorted(sizes)}")
    return {axis: len(coverage[axis]) if axis in coverage else size for axis, size in sizes.items()}


def entry_index(
    axes: tuple[str | None, ...], coverage: Coverage, shape: torch.Size
) -> tuple[Tensor | slice, ...] | None:
    """An index that selects the covered entries of one parameter, or None where it is kept whole."""
    kept = [coverage.get(axis) if axis is not None else None for axis in axes]
    if all(k is None for k in kept):
        return None
    if sum(k is not None for k in kept) == 1:  # one axis only: plain slices keep the fast indexing path
        return tuple(slice(None) if k is None else k for k in kept)
    full = [torch.arange(n) if k is None else k for k, n in zip(kept, shape, strict=True)]
    return torch.meshgrid(*full, indexing="ij")


def consecutive(kept: Tensor) -> tuple[int, int] | None:
    """(start, length) of indices that follow each other, None of any others."""
    if not len(kept) or not torch.equal(kept, torch.arange(int(kept[0]), int(kept[0]) + len(kept))):
        return None
    return int(kept[0]), len(kept)


def under(state: Mapping[str, Tensor], prefix: str) -> State:
    """What of a state has names that begin with ``prefix``, without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def extract(state: Mapping[str, Tensor], axes: Axes, coverage: Coverage) -> State:
    """The covered part of ``state``, as new tensors that share no memory with it; gradients flow through."""
    runs, part = {axis: consecutive(kept) for axis, kept in coverage.items()}, {}
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
