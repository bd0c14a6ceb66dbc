"""Sub-model derivation against brute force, and its error if nothing fits."""

import ctypes
import itertools
import os

import numpy as np
import pytest

from models.costs import CostModel
from models.modular.derive import (
    Infeasible,
    choose,
    choose_many,
    derive_counts,
    derive_many,
    derive_milp,
    importance_shift,
    silent_printf,
    smallest_submodel,
)
from models.nn.body import columns_coverage
from models.nn.mlp import mlp
from models.nn.resnet import resnet18

NAMES = ("bytes", "MACs", "memory")


def instance(seed: int) -> tuple[dict[str, np.ndarray], np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """Draw a random problem: up to 3 layers of up to 5 modules, 3 resources, limits between the least and all."""
    g = np.random.default_rng(seed)
    importance = {f"layer{i}": g.dirichlet(np.ones(g.integers(1, 6))) for i in range(g.integers(1, 4))}
    base, price = g.random(3), {layer: g.random(3) for layer in importance}
    return importance, base, price, base + sum(price.values()) + 3 * g.random(3)


def value(importance: dict[str, np.ndarray], chosen: dict[str, np.ndarray]) -> float:
    return sum(importance[layer][modules].sum() for layer, modules in chosen.items())


def brute_force(importance, base, price, limits) -> float:
    """Return the best value over all subsets that contain the most important module of every layer."""
    best, layers = -1.0, list(importance)
    subsets = [list(itertools.product((False, True), repeat=len(importance[layer]))) for layer in layers]
    for picks in itertools.product(*subsets):
        if not all(pick[importance[layer].argmax()] for pick, layer in zip(picks, layers, strict=True)):
            continue
        cost = base + sum(sum(pick) * price[layer] for pick, layer in zip(picks, layers, strict=True))
        if (cost <= limits + 1e-9).all():
            best = max(
                best, sum(importance[layer][list(pick)].sum() for pick, layer in zip(picks, layers, strict=True))
            )
    return best


@pytest.mark.parametrize("block", range(10))
def test_counts_equal_brute_force_and_milp_on_200_instances(block: int) -> None:
    for seed in range(20 * block, 20 * block + 20):
        importance, base, price, limits = instance(seed)
        best = brute_force(importance, base, price, limits)
        by_counts = derive_counts(importance, base, price, limits, NAMES)
        assert value(importance, by_counts) == pytest.approx(best), seed
        assert (base + sum(len(by_counts[layer]) * price[layer] for layer in price) <= limits + 1e-9).all(), seed
        each = {layer: np.tile(price[layer], (len(importance[layer]), 1)) for layer in price}
        assert value(importance, derive_milp(importance, base, each, limits, NAMES)) == pytest.approx(best, abs=1e-6), (
            seed
        )


@pytest.mark.parametrize(
    ("room", "score", "wanted"), [(1300, 0.4, [0, 16]), (1300, 0.25, [0, 1, 2]), (1200, 0.4, [0, 1, 2])]
)
def test_a_residual_module_has_its_own_cost(room: int, score: float, wanted: list[int]) -> None:
    """Beyond the first module, the limit allows two shrunk ones (592 bytes each) or the residual one (1280)."""
    costs = CostModel(mlp((20,), 5, width=32).modular(16, 8, residual=True), batch_size=4)
    (layer,) = costs.layers
    price = {layer: np.array([c.vector[1:] for c in costs.columns(layer)])}
    base = np.array(costs.base.vector[1:])
    importance = {layer: np.array([0.5, 0.2, 0.1, *[0.0] * 13, score])}
    limits = np.array([base[0] + 592 + room, 1e12, 1e12])
    assert derive_milp(importance, base, price, limits, NAMES)[layer].tolist() == wanted


@pytest.mark.parametrize("reserve", [True, False])
def test_derivation_with_residual_modules_equals_brute_force(reserve: bool) -> None:
    """All subsets of two shrunk modules and a residual one in each of four layers; some modules are available.

    The limits lie between those of the cheapest choice and of the whole model, so the modules to reserve may not fit.
    """
    costs = CostModel(resnet18((3, 8, 8), 5, width=8).modular(2, 8, residual=True), batch_size=4)
    price = np.array([cost.vector[1:] for layer in costs.layers for cost in costs.columns(layer)])
    base, whole = np.array(costs.base.vector[1:]), np.array(costs.whole.vector[1:])
    subsets, feasible = np.array(list(itertools.product((False, True), repeat=len(price)))), 0
    for seed in range(40):
        g = np.random.default_rng(seed)
        scores = {layer: g.dirichlet(np.ones(3)) for layer in costs.layers}
        available = {layer: np.sort(g.choice(3, g.integers(1, 4), replace=False)) for layer in costs.layers}
        usable, first = np.zeros((2, len(costs.layers), 3), bool)
        for i, (layer, modules) in enumerate(available.items()):
            usable[i, modules] = True
            first[i, modules[scores[layer][modules].argmax()]] = True
        cheapest = np.where(usable[..., None], price.reshape(len(costs.layers), 3, 3), np.inf).min(1).sum(0)
        limits = base + cheapest + g.random(3) * 0.5 * (whole - base - cheapest)
        kept = subsets.reshape(-1, len(costs.layers), 3)
        allowed = (kept <= usable).all((1, 2)) & kept.any(2).all(1) & ((kept >= first).all((1, 2)) | (not reserve))
        fits = allowed & (base + subsets @ price <= limits).all(1)
        if not fits.any():
            with pytest.raises(Infeasible):
                choose(costs, scores, limits, NAMES, available, reserve)
            continue
        feasible += 1
        chosen = choose(costs, scores, limits, NAMES, available, reserve)
        counts = {axis: len(modules) for axis, modules in columns_coverage(costs.architecture.sizes, chosen).items()}
        assert (np.array(costs.of(counts).vector[1:]) <= limits).all(), seed
        best = (subsets[fits] @ np.concatenate(list(scores.values()))).max()
        assert value(scores, chosen) == pytest.approx(best), seed
    assert feasible > 10


def test_reserving_the_most_important_module_may_leave_nothing_that_fits() -> None:
    scores, nothing = {"a": np.array([0.6, 0.4])}, np.zeros(1)
    each, limits = {"a": np.array([[3.0], [1.0]])}, np.array([2.0])
    assert derive_milp(scores, nothing, each, limits, NAMES)["a"].tolist() == [1]
    with pytest.raises(Infeasible, match="smallest needs 3 bytes, the limit is 2"):
        derive_milp(scores, nothing, each, limits, NAMES, reserve=True)


def test_each_limit_may_admit_a_module_and_all_limits_none() -> None:
    scores, each = {"a": np.array([0.6, 0.4])}, {"a": np.array([[2.0, 1.0], [1.0, 2.0]])}
    with pytest.raises(Infeasible, match="no sub-model fits all limits"):
        derive_milp(scores, np.zeros(2), each, np.array([1.5, 1.5]), NAMES[:2])


@pytest.mark.parametrize("seed", range(6))
def test_many_clients_get_the_same_as_each_client_alone(seed: int) -> None:
    """Forty clients, more than one chunk; some of them get no sub-model."""
    _, base, price, _ = instance(seed)
    g, sizes = np.random.default_rng(seed), dict(zip(price, (5, 1, 7), strict=False))
    scores = {layer: g.dirichlet(np.ones(n), 40) for layer, n in sizes.items()}
    each = (base + sum(price.values())) * g.uniform(0.7, 2.5, (40, 1))
    together = derive_many(scores, base, price, each, NAMES)
    assert {type(found) for found in together} == {dict, Infeasible}
    for client, found in enumerate(together):
        client_scores = {layer: values[client] for layer, values in scores.items()}
        try:
            alone = derive_counts(client_scores, base, price, each[client], NAMES)
        except Infeasible as error:
            assert str(found) == str(error)
            continue
        assert isinstance(found, dict) and all(np.array_equal(found[layer], alone[layer]) for layer in alone)


def test_if_nothing_fits_all_clients_get_an_error() -> None:
    scores = {layer: np.full((2, 4), 0.25) for layer in ("a", "b")}
    found = derive_many(scores, np.ones(3), dict.fromkeys(scores, np.ones(3)), np.full((2, 3), 2.5), NAMES)
    assert [type(one) for one in found] == [Infeasible, Infeasible]


@pytest.mark.parametrize("residual", [False, True])
def test_choose_many_equals_choose(residual: bool) -> None:
    costs = CostModel(mlp((6,), 3, width=16).modular(8, 8, residual), batch_size=4)
    g, whole = np.random.default_rng(0), np.array(costs.whole.vector[1:])
    scores = [{"block.modules": g.dirichlet(np.ones(8 + residual))} for _ in range(5)]
    limits = [whole * share for share in (0.01, 0.6, 0.8, 0.9, 1.0)]
    found = choose_many(costs, scores, limits, NAMES)
    assert found[0] is None
    for client_scores, limit, modules in zip(scores[1:], limits[1:], found[1:], strict=True):
        expected = choose(costs, client_scores, limit, NAMES)
        assert modules is not None and np.array_equal(modules["block.modules"], expected["block.modules"])
    assert choose_many(costs, [], [], NAMES) == []
    assert choose_many(costs, scores, [whole * 0.01] * 5, NAMES) == [None] * 5


def test_by_hand() -> None:
    """With room for three modules: the best of each layer (0.6, 0.5), then 0.4 of b rather than 0.3 of a."""
    importance = {"a": np.array([0.1, 0.6, 0.3]), "b": np.array([0.5, 0.4, 0.1])}
    price = {"a": np.ones(1), "b": np.ones(1)}
    chosen = derive_counts(importance, np.zeros(1), price, np.array([3.0]), ("bytes",))
    assert chosen["a"].tolist() == [1] and chosen["b"].tolist() == [0, 1]


def test_loose_limits_select_all_modules() -> None:
    importance, base, price, _ = instance(0)
    chosen = derive_counts(importance, base, price, np.full(3, 1e9), NAMES)
    assert {layer: len(kept) for layer, kept in chosen.items()} == {layer: len(v) for layer, v in importance.items()}


@pytest.mark.parametrize("solve", [derive_counts, derive_milp])
def test_the_error_names_the_exceeded_limit(solve) -> None:
    price = {"a": np.array([1.0, 1.0])} if solve is derive_counts else {"a": np.ones((2, 2))}
    with pytest.raises(Infeasible, match=r"smallest needs 3 MACs, the limit is 2\.5"):
        solve({"a": np.array([0.5, 0.5])}, np.array([1.0, 2.0]), price, np.array([9.0, 2.5]), ("bytes", "MACs"))


def test_the_solver_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """HiGHS prints a debug line for the last problem; Python's prints and C's later ones still appear."""
    for seed in range(30):
        importance, base, price, limits = instance(seed)
        each = {layer: np.tile(price[layer], (len(importance[layer]), 1)) for layer in price}
        derive_milp(importance, base, each, limits, NAMES)
    g = np.random.default_rng(2014)
    importance = {
        f"l{i}": g.dirichlet(np.full(g.integers(1, 18), g.choice([0.05, 1]))) for i in range(g.integers(1, 5))
    }
    each = {}
    for layer, scores in importance.items():
        each[layer] = np.tile(g.random(3) * [1e5, 1e6, 1e7], (len(scores), 1))
        each[layer][-1] = g.random(3) * [1e5, 1e6, 1e7]
    base = g.random(3) * [1e5, 1e6, 1e7]
    limits = base + sum(each[layer][scores.argmax()] for layer, scores in importance.items())
    limits = limits + g.uniform(0, 1) * sum(prices.sum(0) for prices in each.values())
    derive_milp(importance, base, each, limits, NAMES)
    libc = ctypes.CDLL(None)
    with silent_printf():
        libc.printf(b"dropped\n")
        os.write(1, b"python\n")
    libc.printf(b"c\n")
    libc.fflush(None)
    assert capfd.readouterr().out == "python\nc\n"


def test_choose_selects_among_available_modules() -> None:
    """There is room for two of the available modules 1, 3 and 6; module 4 is the most important, but not available."""
    costs = CostModel(mlp((6,), 3, width=16).modular(8, 8), batch_size=4)
    scores = {"block.modules": np.array([0.05, 0.1, 0.05, 0.2, 0.4, 0.0, 0.15, 0.05])}
    available = {"block.modules": np.array([1, 3, 6])}
    room = np.array(costs.of({"block.modules": 2}).vector[1:]) + 1
    assert choose(costs, scores, room, NAMES, available)["block.modules"].tolist() == [3, 6]
    assert choose(costs, scores, room, NAMES)["block.modules"].tolist() == [3, 4]
    assert choose(costs, scores, room * 100, NAMES, available)["block.modules"].tolist() == [1, 3, 6]
    assert smallest_submodel(scores, available)["block.modules"].tolist() == [3]
    with pytest.raises(Infeasible):
        choose(costs, scores, room * 0, NAMES, available)


def test_the_shift_is_the_largest_total_variation_of_a_layer() -> None:
    then = {"a": np.array([0.5, 0.5, 0.0]), "b": np.array([1.0, 0.0])}
    now = {"a": np.array([0.25, 0.5, 0.25]), "b": np.array([0.9, 0.1])}
    assert importance_shift(now, then) == pytest.approx(0.25)
    assert importance_shift(then, then) == 0
    assert importance_shift({"b": np.array([0.0, 1.0])}, {"b": np.array([1.0, 0.0])}) == 1
