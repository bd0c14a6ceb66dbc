"""Sub-model derivation: the most important modules that fit a device (ECLM 5.1, the multi-dimensional knapsack).

    max sum_i importance_i d_i   s.t.  sum_i resource_j(i) d_i <= limit_j for each j,  d binary,  >= 1 module per layer

The modules of a layer are shrunk copies of one block and cost the same, so the best k of a layer are its k most
important and only the *counts* per layer are open: `derive_counts` enumerates them and is exact. A residual module has
a price of its own; `derive_milp` (HiGHS) takes modules of mixed cost. Both first reserve the most important module of
every layer, as the paper does. Modules are numbered as `models.nn.body.gate_columns` does.
"""

import ctypes
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np

from models.costs import CostModel

Array = np.ndarray
_TOLERANCE = 1e-9
AT_ONCE = 16  # devices whose combinations are weighed at the same time: 16 x 4096 of them stay in the cache


class Infeasible(ValueError):
    """Even one module per layer does not fit; the message names the limit that binds."""


def _check(base: Array, cheapest: Array, limits: Array, names: Sequence[str]) -> Array:
    """What is left of the limits after the base and one module per layer."""
    room = limits - base - cheapest
    if (room < -_TOLERANCE * np.maximum(1, limits)).any():
        j = int((room / np.maximum(limits, 1e-12)).argmin())
        raise Infeasible(
            f"no sub-model fits: the smallest needs {base[j] + cheapest[j]:.4g} {names[j]}, "
            f"the limit is {limits[j]:.4g}"
        )
    return np.maximum(room, 0)


def derive_counts(
    importance: Mapping[str, Array], base: Array, price: Mapping[str, Array], limits: Array, names: Sequence[str]
) -> dict[str, Array]:
    """The best modules under all limits, where the modules of a layer cost the same.

    Args:
        importance: (N,) per layer, non-negative.
        base: (J,) what every sub-model costs in each of J resources.
        price: (J,) per layer, what one of its modules costs.
        limits: (J,) what the device allows.
        names: (J,) units of the resources, for the error.

    Returns:
        Sorted indices of the chosen modules, per layer.

    Raises:
        Infeasible: not even one module per layer fits.
    """
    room = _check(base, np.sum(list(price.values()), axis=0), limits, names)
    (chosen,) = _best_counts(
        {layer: scores[None] for layer, scores in importance.items()}, price, room[None], limits[None]
    )
    return chosen


def derive_many(
    importance: Mapping[str, Array], base: Array, price: Mapping[str, Array], limits: Array, names: Sequence[str]
) -> list[dict[str, Array] | Infeasible]:
    """`derive_counts` for D devices at once: ``importance`` is (D, N) per layer, ``limits`` (D, J)."""
    cheapest = np.sum(list(price.values()), axis=0)
    out: list[dict[str, Array] | Infeasible] = []
    rooms = np.zeros_like(limits)
    for device, limit in enumerate(limits):
        try:
            rooms[device] = _check(base, cheapest, limit, names)
            out.append({})
        except Infeasible as error:
            out.append(error)
    able = np.array([device for device, found in enumerate(out) if isinstance(found, dict)], int)
    for at in range(0, len(able), AT_ONCE):
        some = able[at : at + AT_ONCE]
        scores = {layer: values[some] for layer, values in importance.items()}
        for device, found in zip(some.tolist(), _best_counts(scores, price, rooms[some], limits[some]), strict=True):
            out[device] = found
    return out


def _best_counts(
    importance: Mapping[str, Array], price: Mapping[str, Array], room: Array, limits: Array
) -> list[dict[str, Array]]:
    """Of all counts of modules beyond the first of each layer, those that fit and gain most.

    Args:
        importance: (D, N) per layer; room, limits: (D, J).
    """
    layers = list(importance)
    ranked = {layer: np.argsort(-importance[layer], axis=1, kind="stable") for layer in layers}
    value = {}  # (D, N): importance gained by k = 0 ... N - 1 modules beyond the first
    for layer in layers:
        rest = np.take_along_axis(importance[layer], ranked[layer][:, 1:], 1)
        value[layer] = np.concatenate([np.zeros((len(rest), 1)), np.cumsum(rest, axis=1)], axis=1)
    *outer, last = layers
    shape = [importance[layer].shape[1] for layer in outer]
    counts = np.indices(shape).reshape(len(outer), math.prod(shape))  # every combination in the layers but the last
    spent = (
        np.array([price[layer] for layer in outer]).reshape(len(outer), room.shape[1]).T @ counts
    )  # (J, combinations)
    gain = np.zeros((len(room), 1))
    for layer in outer:
        gain = (gain[:, :, None] + value[layer][:, None, :]).reshape(len(room), -1)
    # With the other counts fixed, the last layer takes as many as the scarcest resource allows.
    reach = room + _TOLERANCE * np.maximum(1, limits)
    most = np.full(gain.shape, float(value[last].shape[1] - 1))
    for j, each in enumerate(price[last]):
        left = reach[:, j, None] - spent[j]
        gain[left < 0] = -np.inf
        if each > 0:
            np.minimum(most, left / each, out=most)
    taken = np.maximum(most, 0).astype(int)
    gain += np.take_along_axis(value[last], taken, 1)
    best = gain.argmax(axis=1)
    out = []
    for device, at in enumerate(best.tolist()):
        own = dict(zip(outer, counts[:, at].tolist(), strict=True)) | {last: int(taken[device, at])}
        out.append({layer: np.sort(ranked[layer][device, : 1 + own[layer]]) for layer in layers})
    return out


def derive_milp(
    importance: Mapping[str, Array], base: Array, price: Mapping[str, Array], limits: Array, names: Sequence[str]
) -> dict[str, Array]:
    """The same by mixed-integer programming, for modules of mixed cost: ``price[layer]`` is (N, J).

    Raises:
        Infeasible: the base and the most important module of each layer do not fit.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp  # slow to import, and modules of one cost need none

    layers = list(importance)
    first = {layer: int(importance[layer].argmax()) for layer in layers}
    room = _check(base, np.sum([price[layer][first[layer]] for layer in layers], axis=0), limits, names)
    value = np.concatenate([importance[layer] for layer in layers])
    weight = np.concatenate([price[layer] for layer in layers])
    offsets = np.cumsum([0] + [len(importance[layer]) for layer in layers])
    value = value.copy()
    open_ = np.ones(len(value))
    for layer, at in zip(layers, offsets, strict=False):
        open_[at + first[layer]] = 0  # already taken
    scale = np.maximum(weight.max(axis=0), 1e-12)
    with quiet_stdout():
        solution = milp(
            -value,
            constraints=LinearConstraint((weight / scale).T, -np.inf, room / scale),
            integrality=np.ones(len(value)),
            bounds=Bounds(0, open_),
            options={"mip_rel_gap": 0},
        )
    taken = np.round(solution.x).astype(bool)
    return {
        layer: np.sort(np.append(np.flatnonzero(taken[at:to]), first[layer]))
        for layer, at, to in zip(layers, offsets, offsets[1:], strict=False)
    }


def choose(
    costs: CostModel,
    importance: Mapping[str, Array],
    limits: Array,
    names: Sequence[str],
    held: Mapping[str, Array] | None = None,
) -> dict[str, Array]:
    """The modules that matter most within a device's limits; the same code in the cloud and on the device.

    Args:
        limits: (3,) bytes, MACs of a sample, bytes of training memory.
        held: sorted indices per layer to choose from, by default all.

    Raises:
        Infeasible: not even one module per layer fits.
    """
    held = held or {layer: np.arange(len(scores)) for layer, scores in importance.items()}
    among = {layer: importance[layer][kept] for layer, kept in held.items()}
    base = np.array(costs.base.vector[1:])
    if costs.bypass:
        each = {layer: np.array([cost.vector[1:] for cost in costs.columns(layer)])[held[layer]] for layer in held}
        chosen = derive_milp(among, base, each, limits, names)
    else:
        price = {layer: np.array(cost.vector[1:]) for layer, cost in costs.module.items()}
        chosen = derive_counts(among, base, price, limits, names)
    return {layer: held[layer][at] for layer, at in chosen.items()}


def choose_many(
    costs: CostModel, importance: Sequence[Mapping[str, Array]], limits: Sequence[Array], names: Sequence[str]
) -> list[dict[str, Array] | None]:
    """`choose` for many devices, in one call where modules of a layer cost the same; None where nothing fits."""
    if not costs.bypass and importance:
        price = {layer: np.array(cost.vector[1:]) for layer, cost in costs.module.items()}
        scores = {layer: np.stack([own[layer] for own in importance]) for layer in importance[0]}
        found = derive_many(scores, np.array(costs.base.vector[1:]), price, np.stack(limits), names)
        return [None if isinstance(one, Infeasible) else one for one in found]
    out: list[dict[str, Array] | None] = []
    for own, limit in zip(importance, limits, strict=True):
        try:
            out.append(choose(costs, own, limit, names))
        except Infeasible:
            out.append(None)
    return out


def smallest(importance: Mapping[str, Array], held: Mapping[str, Array] | None = None) -> dict[str, Array]:
    """The most important module of each layer, of those held: what a device uses that nothing fits."""
    held = held or {layer: np.arange(len(scores)) for layer, scores in importance.items()}
    return {layer: kept[[importance[layer][kept].argmax()]] for layer, kept in held.items()}


def shift(now: Mapping[str, Array], then: Mapping[str, Array]) -> float:
    """How far a device's data moved, seen by the selector: the largest total variation of a layer's importance, 0..1.

    Importance is a distribution over the modules of a layer, so this is half its L1 distance.
    """
    return max(float(np.abs(now[layer] - then[layer]).sum()) / 2 for layer in now)


@contextmanager
def quiet_stdout() -> Iterator[None]:
    """Hold back what HiGHS prints on the C level of descriptor 1. Not thread-safe: it acts on the whole process."""
    libc = ctypes.CDLL(None)
    libc.fflush(None)
    with tempfile.TemporaryFile() as sink:
        saved = os.dup(1)
        os.dup2(sink.fileno(), 1)
        try:
            yield
        finally:
            libc.fflush(None)
            os.dup2(saved, 1)
            os.close(saved)
