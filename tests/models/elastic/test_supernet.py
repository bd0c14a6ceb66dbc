"""AdaptiveNet's supernet: its initial state, the costs of its paths, and the search for the best one."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from models.costs import CostModel, cost
from models.elastic.supernet import (
    TRIALS,
    Path,
    affordable_paths,
    best_path,
    branches,
    coverage,
    distillation,
    elastic,
    grow,
    random_paths,
    search,
)
from models.nn.body import Architecture, Body
from models.nn.mlp import mlp
from models.nn.resnet import resnet18
from models.nn.vgg import vgg16
from models.submodel import extract
from models.training.loop import Recipe, fit, score

DENSE = {
    "mlp": mlp((6,), 3, width=16),
    "resnet18": resnet18((3, 8, 8), 3, width=16),
    "vgg16": vgg16((3, 16, 16), 3, width=16),  # only its last three blocks have branches
}
SLICES = 4


def part(architecture: Architecture, state: dict, path: Path, slices: int = SLICES) -> Body:
    axes, layers = architecture.part({}).axes(), architecture.part({}).layers
    covered = coverage(layers, slices, path)
    body = architecture.part(covered)
    body.load_state_dict(extract(state, axes, covered))
    return body


def test_branches_halve() -> None:
    assert branches(8) == [8, 4, 2, 1]
    assert branches(6) == [6, 3, 1]
    assert branches(1) == [1]


def test_the_modules_of_a_path_by_hand() -> None:
    """Four slices: branches of 4, 2 and 1 modules lie at 0-3, 4-5 and 6."""
    covered = coverage(("a", "b", "c"), 4, (0, 1, 2))
    assert [covered[layer].tolist() for layer in "abc"] == [[0, 1, 2, 3], [4, 5], [6]]


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize("slices", [1, 4])
def test_the_widest_path_is_the_dense_model(name: str, slices: int) -> None:
    """With one slice there is a single branch, and the whole supernet is the dense model."""
    dense = DENSE[name]
    body, architecture = dense.whole(0), elastic(dense, slices)
    state = grow(dense, body.state(), slices)
    x = torch.randn(5, *dense.input_shape)
    widest = part(architecture, state, (0,) * len(body.layers), slices)
    torch.testing.assert_close(widest(x), body(x), rtol=1e-4, atol=1e-5)
    if slices == 1:
        assert architecture.sizes == dense.sizes


def test_branches_start_from_the_slices_of_largest_norm() -> None:
    dense = mlp((6,), 3, width=16)
    state = dense.whole(0).state()
    state["block.first"][:, 8:12] *= 100  # slice 2 of 4
    state["block.first"][:, 0:4] *= 10  # slice 0
    grown = grow(dense, state, 4)["block.first"]
    slices = state["block.first"].view(4, 4, 6)
    assert torch.equal(grown[:4], slices)
    assert torch.equal(grown[4:6], slices[[0, 2]])
    assert torch.equal(grown[6], slices[2])


@pytest.mark.parametrize("name", DENSE)
def test_affordable_paths_are_those_whose_true_cost_fits(name: str) -> None:
    architecture = elastic(DENSE[name], SLICES)
    costs = CostModel(architecture, 4)
    layers = costs.layers
    least, most = (costs.of(dict.fromkeys(layers, modules)) for modules in (1, SLICES))
    macs, memory = (least.macs + most.macs) / 2, 0.4 * least.memory + 0.6 * most.memory
    fits = set(affordable_paths(costs, SLICES, macs, memory))
    for path in np.ndindex(*(3,) * len(layers)):
        counts = {layer: branches(SLICES)[b] for layer, b in zip(layers, path, strict=True)}
        true = cost(architecture, {**architecture.sizes, **counts}, 4)
        assert (path in fits) == (true.macs <= macs and true.memory <= memory), path
    assert fits and len(fits) < 3 ** len(layers)


def test_if_nothing_fits_the_narrowest_path_is_returned() -> None:
    assert affordable_paths(CostModel(elastic(DENSE["resnet18"], SLICES), 4), SLICES, 1.0, 1e12) == [(2, 2, 2, 2)]


def random_losses(
    branches_: int, layers: int, seed: int
) -> tuple[list[Path], Callable[[Path], float], dict[Path, int]]:
    """Return all paths, a function with a random loss for each, and its calls per path."""
    paths = list(np.ndindex(*(branches_,) * layers))
    values = dict(zip(paths, np.random.default_rng(seed).random(len(paths)), strict=True))
    calls: dict[Path, int] = {}

    def loss(path: Path) -> float:
        calls[path] = calls.get(path, 0) + 1
        return float(values[path])

    return paths, loss, calls


@pytest.mark.parametrize("seed", range(3))
def test_search_is_brute_force_where_few_paths_fit(seed: int) -> None:
    paths, loss, calls = random_losses(3, 3, seed)
    found = search(paths, loss, np.random.default_rng(seed))
    assert all(count == 1 for count in calls.values()) and len(calls) == 27
    assert loss(found) == min(loss(path) for path in paths)


@pytest.mark.parametrize("seed", range(5))
def test_evolution_tries_each_path_once_and_beats_chance(seed: int) -> None:
    """The loss adds up over layers. Of 256 paths, 32 trials must find one of the best 5 %."""
    price = np.random.default_rng(seed).random((4, 4))
    paths = list(np.ndindex(4, 4, 4, 4))
    calls: list[Path] = []

    def loss(path: Path) -> float:
        calls.append(path)
        return float(price[range(4), path].sum())

    found = search(paths, loss, np.random.default_rng(seed + 100))
    assert len(calls) == len(set(calls)) == TRIALS
    every = sorted(price[range(4), path].sum() for path in paths)
    assert price[range(4), found].sum() <= every[256 // 20]


def test_evolution_tries_only_candidates() -> None:
    paths, loss, calls = random_losses(4, 4, 0)
    candidates = [path for path in paths if sum(path) >= 6]
    search(candidates, loss, np.random.default_rng(0))
    assert set(calls) <= set(candidates) and len(calls) == TRIALS


def test_a_client_chooses_the_path_of_least_loss_under_its_limits() -> None:
    dense = DENSE["mlp"]
    architecture = elastic(dense, SLICES)
    supernet = architecture.part({})
    supernet.load_state_dict(grow(dense, dense.whole(0).state(), SLICES))
    costs = CostModel(architecture, 4)
    x, y = torch.randn(30, 6), torch.arange(30) % 3
    macs, memory = costs.of({"block.modules": 2}).macs, 1e12
    best = min(((1,), (2,)), key=lambda p: score(part(architecture, supernet.state(), p), x, y, 3).loss_sum)
    device, order = torch.device("cpu"), np.random.default_rng(0)
    found, spent = best_path(supernet.state(), costs, SLICES, macs, memory, x, y, 3, order, device)
    assert spent == 30 * sum(costs.of({"block.modules": modules}).macs for modules in (2, 1))
    assert found["block.modules"].tolist() == coverage(("block.modules",), SLICES, best)["block.modules"].tolist()
    assert costs.of({"block.modules": len(found["block.modules"])}).macs <= macs


def test_random_paths_and_a_teacher_make_narrow_branches_accurate() -> None:
    g = torch.Generator().manual_seed(0)
    y = torch.arange(400) % 4
    x = (3 * torch.randn(4, 8, generator=g))[y] + torch.randn(400, 8, generator=g)
    dense, recipe = mlp((8,), 4, width=32), Recipe(lr=0.05, batch_size=32, clip=1.0)
    teacher = dense.whole(0)
    fit(teacher, x, y, recipe, 10, np.random.default_rng(0), cosine=True)
    architecture = elastic(dense, 8)
    body = architecture.part({})
    body.load_state_dict(grow(dense, teacher.state(), 8))
    before = [score(part(architecture, body.state(), (b,), 8), x, y, 4).accuracy for b in range(4)]
    before_ = {name: value.clone() for name, value in teacher.state().items()}
    paths = random_paths(architecture, body, 8, np.random.default_rng(1))
    fit(paths, x, y, recipe, 10, np.random.default_rng(2), cosine=True, extra=distillation(teacher))
    after = [score(part(architecture, body.state(), (b,), 8), x, y, 4).accuracy for b in range(4)]
    assert after[0] > 0.97 and after[3] > 0.9 > before[3]
    assert all(torch.equal(before_[name], value) for name, value in teacher.state().items())


def test_a_path_keeps_the_servers_batch_norm_statistics_also_on_a_client_of_one_class() -> None:
    g = torch.Generator().manual_seed(0)
    y = torch.arange(240) % 3
    x = torch.randn(3, 3, 8, 8, generator=g)[y] + 0.5 * torch.randn(240, 3, 8, 8, generator=g)
    dense = resnet18((3, 8, 8), 3, width=8, norm="batch")
    architecture, recipe = elastic(dense, 2), Recipe(lr=0.02, batch_size=24, clip=1.0)
    body = architecture.part({})
    body.load_state_dict(grow(dense, dense.whole(0).state(), 2))
    before = body.state()
    paths = random_paths(architecture, body, 2, np.random.default_rng(1))
    fit(paths, x, y, recipe, 2, np.random.default_rng(2))
    state = body.state()
    moved = {name: (before[name] - state[name]).abs().max() > 0 for name in state if name.endswith((".mean", ".var"))}
    assert moved and all(moved.values())  # every branch has statistics of the data that the server has

    one = x[y == 0], y[y == 0]
    every = list(np.ndindex(2, 2, 2, 2))
    losses = {path: score(part(architecture, state, path, 2), *one, 3).loss_sum for path in every}
    found, _ = best_path(
        state, CostModel(architecture, 4), 2, 1e12, 1e12, *one, 3, np.random.default_rng(0), torch.device("cpu")
    )
    best = coverage(body.layers, 2, min(losses, key=lambda path: losses[path]))
    assert all(torch.equal(found[layer], best[layer]) for layer in body.layers)
