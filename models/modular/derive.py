"""Sub-model derivation: select the most important modules that fit a client's limits (ECLM 5.1, a knapsack problem).

    max sum_i importance_i d_i   s.t.  sum_i resource_j(i) d_i <= limit_j for each j,  d binary,  >= 1 module per layer

The modules of a layer are shrunk copies of one block and cost the same. The best k modules of a layer are therefore its
k most important ones, and only the *counts* per layer are unknown. `derive_counts` enumerates the counts and is exact.
A residual module has a different cost; `derive_milp` (HiGHS) handles modules of mixed cost. The paper first reserves
the most important module of every layer. With modules of mixed cost that misses better sub-models, or all of them, so
it is an option there. Module numbers are those of `models.nn.body.gate_columns`.
"""

import ctypes
import math
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np

from models.costs import CostModel

Array = np.ndarray
_TOLERANCE = 1e-9
CHUNK = 16  # clients per vectorised search: 16 x 4096 combinations fit in the CPU cache
_PRINTF_LOCK = threading.Lock()  # one `silent_printf` at a time


class Infeasible(ValueError):
    """No sub-model fits a client's limits."""


def _check(base: Array, cheapest: Array, limits: Array, names: Sequence[str]) -> Array:
    """Return the limits minus the base cost and one module per layer."""
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
    """Select the most important modules under all limits, if the modules of a layer cost the same.

    Args:
        importance: (N,) per layer, non-negative.
        base: (J,) cost of every sub-model in each of J resources.
        price: (J,) per layer, cost of one of its modules.
        limits: (J,) the client's limits.
        names: (J,) units of the resources, for error messages.

    Returns:
        Sorted indices of the chosen modules, per layer.

    Raises:
        Infeasible: one module per layer exceeds a limit.
    """
    room = _check(base, np.sum(list(price.values()), axis=0), limits, names)
    (chosen,) = _best_counts(
        {layer: scores[None] for layer, scores in importance.items()}, price, room[None], limits[None]
    )
    return chosen


def derive_many(
    importance: Mapping[str, Array], base: Array, price: Mapping[str, Array], limits: Array, names: Sequence[str]
) -> list[dict[str, Array] | Infeasible]:
    """Apply `derive_counts` to D clients: ``importance`` is (D, N) per layer, ``limits`` (D, J)."""
    cheapest = np.sum(list(price.values()), axis=0)
    results: list[dict[str, Array] | Infeasible] = []
    room = np.zeros_like(limits)
    for client, limit in enumerate(limits):
        try:
            room[client] = _check(base, cheapest, limit, names)
            results.append({})
        except Infeasible as error:
            results.append(error)
    feasible = np.array([client for client, result in enumerate(results) if isinstance(result, dict)], int)
    for start in range(0, len(feasible), CHUNK):
        chunk = feasible[start : start + CHUNK]
        scores = {layer: values[chunk] for layer, values in importance.items()}
        for client, result in zip(chunk.tolist(), _best_counts(scores, price, room[chunk], limits[chunk]), strict=True):
            results[client] = result
    return results


def _best_counts(
    importance: Mapping[str, Array], price: Mapping[str, Array], room: Array, limits: Array
) -> list[dict[str, Array]]:
    """Find the module counts per layer that fit and gain the most importance.

    Args:
        importance: (D, N) per layer.
        price: (J,) per layer.
        room: (D, J) limits minus the base cost and one module per layer.
        limits: (D, J).
    """
    layers = list(importance)
    ranked = {layer: np.argsort(-importance[layer], axis=1, kind="stable") for layer in layers}
    value = {}  # (D, N): importance gained by k = 0 ... N - 1 modules beyond the first
    for layer in layers:
        rest = np.take_along_axis(importance[layer], ranked[layer][:, 1:], 1)
        value[layer] = np.concatenate([np.zeros((len(rest), 1)), np.cumsum(rest, axis=1)], axis=1)
    *outer, last = layers
    shape = [importance[layer].shape[1] for layer in outer]
    counts = np.indices(shape).reshape(len(outer), math.prod(shape))  # all combinations of the layers except the last
    spent = (
        np.array([price[layer] for layer in outer]).reshape(len(outer), room.shape[1]).T @ counts
    )  # (J, combinations)
    gain = np.zeros((len(room), 1))
    for layer in outer:
        gain = (gain[:, :, None] + value[layer][:, None, :]).reshape(len(room), -1)
    # With the other counts fixed, the last layer takes as many modules as the scarcest resource allows.
    budget = room + _TOLERANCE * np.maximum(1, limits)
    count_limit = np.full(gain.shape, float(value[last].shape[1] - 1))
    for j, module_price in enumerate(price[last]):
        left = budget[:, j, None] - spent[j]
        gain[left < 0] = -np.inf
        if module_price > 0:
            np.minimum(count_limit, left / module_price, out=count_limit)
    last_counts = np.maximum(count_limit, 0).astype(int)
    gain += np.take_along_axis(value[last], last_counts, 1)
    best = gain.argmax(axis=1)
    chosen = []
    for client, index in enumerate(best.tolist()):
        count = dict(zip(outer, counts[:, index].tolist(), strict=True)) | {last: int(last_counts[client, index])}
        chosen.append({layer: np.sort(ranked[layer][client, : 1 + count[layer]]) for layer in layers})
    return chosen


def derive_milp(
    importance: Mapping[str, Array],
    base: Array,
    price: Mapping[str, Array],
    limits: Array,
    names: Sequence[str],
    reserve: bool = False,
) -> dict[str, Array]:
    """Solve the same problem by mixed-integer programming, for modules of mixed cost.

    Args:
        importance, base, limits, names: as in `derive_counts`.
        price: (N, J) per layer, cost of each module.
        reserve: choose the most important module of every layer, whatever it costs (ECLM 5.1).

    Raises:
        Infeasible: no choice of one module per layer, or not the one to reserve, fits the limits.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp  # slow import, needed only for modules of mixed cost

    layers = list(importance)
    value = np.concatenate([importance[layer] for layer in layers])
    weight = np.concatenate([price[layer] for layer in layers])
    offsets = np.cumsum([0] + [len(importance[layer]) for layer in layers])
    lower, in_layer = np.zeros(len(value)), np.zeros((len(layers), len(value)))
    for one, start, end in zip(in_layer, offsets, offsets[1:], strict=False):
        one[start:end] = 1
        if reserve:
            lower[start + value[start:end].argmax()] = 1
    least = weight[lower == 1].sum(axis=0) if reserve else sum(price[layer].min(axis=0) for layer in layers)
    room = _check(base, least, limits, names) + least
    scale = np.maximum(weight.max(axis=0), 1e-12)
    with silent_printf():
        solution = milp(
            -value,
            constraints=[
                LinearConstraint((weight / scale).T, -np.inf, room / scale),
                LinearConstraint(in_layer, 1, np.inf),
            ],
            integrality=np.ones(len(value)),
            bounds=Bounds(lower, 1),
            options={"mip_rel_gap": 0},
        )
    if solution.x is None:  # each limit admits some choice, but no choice keeps all of them
        raise Infeasible(f"no sub-model fits all limits: {', '.join(names)}")
    selected = np.round(solution.x).astype(bool)
    return {
        layer: np.flatnonzero(selected[start:end])
        for layer, start, end in zip(layers, offsets, offsets[1:], strict=False)
    }


def choose(
    costs: CostModel,
    importance: Mapping[str, Array],
    limits: Array,
    names: Sequence[str],
    available: Mapping[str, Array] | None = None,
    reserve: bool = False,
) -> dict[str, Array]:
    """Choose the most important modules within a client's limits; cloud and client share this code.

    Args:
        costs: costs of the modular model.
        importance: (N,) per layer.
        limits: (3,) bytes, MACs per sample, bytes of training memory.
        names: (3,) units, for error messages.
        available: sorted indices per layer to choose from; all by default.
        reserve: see `derive_milp`. Modules of equal cost need no reservation: the most important one is always chosen.

    Raises:
        Infeasible: no sub-model fits.
    """
    available = available or {layer: np.arange(len(scores)) for layer, scores in importance.items()}
    scores = {layer: importance[layer][modules] for layer, modules in available.items()}
    base = np.array(costs.base.vector[1:])
    if costs.bypass:
        each = {layer: np.array([c.vector[1:] for c in costs.columns(layer)])[i] for layer, i in available.items()}
        chosen = derive_milp(scores, base, each, limits, names, reserve)
    else:
        price = {layer: np.array(cost.vector[1:]) for layer, cost in costs.module.items()}
        chosen = derive_counts(scores, base, price, limits, names)
    return {layer: available[layer][indices] for layer, indices in chosen.items()}


def choose_many(
    costs: CostModel,
    importance: Sequence[Mapping[str, Array]],
    limits: Sequence[Array],
    names: Sequence[str],
    reserve: bool = False,
) -> list[dict[str, Array] | None]:
    """Apply `choose` to many clients; None if nothing fits.

    It is one vectorised search if the modules of a layer cost the same.
    """
    if not costs.bypass and importance:
        price = {layer: np.array(cost.vector[1:]) for layer, cost in costs.module.items()}
        scores = {layer: np.stack([own[layer] for own in importance]) for layer in importance[0]}
        chosen = derive_many(scores, np.array(costs.base.vector[1:]), price, np.stack(limits), names)
        return [None if isinstance(modules, Infeasible) else modules for modules in chosen]
    chosen_: list[dict[str, Array] | None] = []
    for own, limit in zip(importance, limits, strict=True):
        try:
            chosen_.append(choose(costs, own, limit, names, reserve=reserve))
        except Infeasible:
            chosen_.append(None)
    return chosen_


def smallest_submodel(
    importance: Mapping[str, Array], available: Mapping[str, Array] | None = None
) -> dict[str, Array]:
    """Return the most important available module of each layer, for clients that no sub-model fits."""
    available = available or {layer: np.arange(len(scores)) for layer, scores in importance.items()}
    return {layer: modules[[importance[layer][modules].argmax()]] for layer, modules in available.items()}


def importance_shift(current: Mapping[str, Array], previous: Mapping[str, Array]) -> float:
    """Measure how far a client's data moved: the largest total variation of a layer's importance, 0 to 1.

    Importance is a distribution over the modules of a layer, so the total variation is half its L1 distance.
    """
    return max(float(np.abs(current[layer] - previous[layer]).sum()) / 2 for layer in current)


@contextmanager
def silent_printf() -> Iterator[None]:
    """Within the context, drop what C code prints with ``printf``.

    HiGHS 1.12 (in scipy 1.17.1) prints a debug line with ``printf`` when it repairs a solution, even with
    ``disp=False``. The context points glibc's variable ``stdout`` to /dev/null. File descriptor 1 and Python's
    ``sys.stdout`` do not change, so other threads can print. On other systems than Linux it does nothing.
    """
    if sys.platform != "linux":
        yield
        return
    libc = ctypes.CDLL(None)
    libc.fopen.restype = ctypes.c_void_p
    with _PRINTF_LOCK:
        stdout = ctypes.c_void_p.in_dll(libc, "stdout")
        saved, stdout.value = stdout.value, libc.fopen(b"/dev/null", b"w")
        try:
            yield
        finally:
            sink, stdout.value = stdout.value, saved
            libc.fclose(ctypes.c_void_p(sink))
