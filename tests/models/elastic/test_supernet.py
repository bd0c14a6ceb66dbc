"""AdaptiveNet's supernet: what it is grown from, what its paths cost, and a search that finds the best of them."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from models.costs import CostModel, cost
from models.elastic.supernet import (
    TRIALS,
    Path,
    best_path,
    branches,
    coverage,
    elastic,
    fitting,
    grow,
    random_paths,
    search,
    taught,
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
    "vgg16": vgg16((3, 16, 16), 3, width=16),  # its last three blocks alone have branches
}
SLICES = 4


def part(architecture: Architecture, state: dict, path: Path, slices: int = SLICES) -> Body:
    axes, layers = architecture.part({}).axes(), architecture.part({}).layers
    kept = coverage(layers, slices, path)
    body = architecture.part(kept)
    body.load_state_dict(extract(state, axes, kept))
    return body


def test_branches_halve() -> None:
    assert branches(8) == [8, 4, 2, 1]
    assert branches(6) == [6, 3, 1]
    assert branches(1) == [1]


def test_the_modules_of_a_path_by_hand() -> None:
    """Four slices: branches of 4, 2 and 1 modules lie at 0-3, 4-5 and 6."""
    kept = coverage(("a", "b", "c"), 4, (0, 1, 2))
    assert [kept[layer].tolist() for layer in "abc"] == [[0, 1, 2, 3], [4, 5], [6]]


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize("slices", [1, 4])
def test_the_widest_path_is_the_dense_model(name: str, slices: int) -> None:
    """With one slice there is a single branch, and the whole supernet is that model."""
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
def test_paths_that_fit_are_those_whose_true_cost_fits(name: str) -> None:
    architecture = elastic(DENSE[name], SLICES)
    costs = CostModel(architecture, 4)
    layers = costs.layers
    least, most = (costs.of(dict.fromkeys(layers, modules)) for modules in (1, SLICES))
    macs, memory = (least.macs + most.macs) / 2, 0.4 * least.memory + 0.6 * most.memory
    fits = set(fitting(costs, SLICES, macs, memory))
    for path in np.ndindex(*(3,) * len(layers)):
        counts = {layer: branches(SLICES)[b] for layer, b in zip(layers, path, strict=True)}
        true = cost(architecture, {**architecture.sizes, **counts}, 4)
        assert (path in fits) == (true.macs <= macs and true.memory <= memory), path
    assert fits and len(fits) < 3 ** len(layers)


def test_where_nothing_fits_the_narrowest_path_is_left() -> None:
    assert fitting(CostModel(elastic(DENSE["resnet18"], SLICES), 4), SLICES, 1.0, 1e12) == [(2, 2, 2, 2)]


def table(branches_: int, layers: int, seed: int) -> tuple[list[Path], Callable[[Path], float], dict[Path, int]]:
    """All paths, a random loss for each, and how often each is asked for."""
    paths = list(np.ndindex(*(branches_,) * layers))
    values = dict(zip(paths, np.random.default_rng(seed).random(len(paths)), strict=True))
    asked: dict[Path, int] = {}

    def loss(path: Path) -> float:
        asked[path] = asked.get(path, 0) + 1
        return float(values[path])

    return paths, loss, asked


@pytest.mark.parametrize("seed", range(3))
def test_search_is_brute_force_where_few_paths_fit(seed: int) -> None:
    paths, loss, asked = table(3, 3, seed)
    found = search(paths, loss, np.random.default_rng(seed))
    assert all(count == 1 for count in asked.values()) and len(asked) == 27
    assert loss(found) == min(loss(path) for path in paths)


@pytest.mark.parametrize("seed", range(5))
def test_evolution_tries_each_path_once_and_beats_chance_where_genes_matter(seed: int) -> None:
    """Loss adds up over layers: 256 paths, and the best 5 % must be found in 32 trials."""
    price = np.random.default_rng(seed).random((4, 4))
    paths = list(np.ndindex(4, 4, 4, 4))
    asked: list[Path] = []

    def loss(path: Path) -> float:
        asked.append(path)
        return float(price[range(4), path].sum())

    found = search(paths, loss, np.random.default_rng(seed + 100))
    assert len(asked) == len(set(asked)) == TRIALS
    every = sorted(price[range(4), path].sum() for path in paths)
    assert price[range(4), found].sum() <= every[256 // 20]


def test_evolution_stays_within_what_fits() -> None:
    paths, loss, asked = table(4, 4, 0)
    allowed = [path for path in paths if sum(path) >= 6]
    search(allowed, loss, np.random.default_rng(0))
    assert set(asked) <= set(allowed) and len(asked) == TRIALS


def test_a_device_chooses_the_path_of_least_loss_under_its_limits() -> None:
    dense = DENSE["mlp"]
    architecture = elastic(dense, SLICES)
    supernet = architecture.part({})
    supernet.load_state_dict(grow(dense, dense.whole(0).state(), SLICES))
    costs = CostModel(architecture, 4)
    x, y = torch.randn(30, 6), torch.arange(30) % 3
    macs, memory = costs.of({"block.modules": 2}).macs, 1e12
    best = min(((1,), (2,)), key=lambda p: score(part(architecture, supernet.state(), p), x, y, 3).loss_sum)
    here, order = torch.device("cpu"), np.random.default_rng(0)
    found, spent = best_path(supernet.state(), costs, SLICES, macs, memory, x, y, 3, order, here)
    assert spent == 30 * sum(costs.of({"block.modules": modules}).macs for modules in (2, 1))
    assert found["block.modules"].tolist() == coverage(("block.modules",), SLICES, best)["block.modules"].tolist()
    assert costs.of({"block.modules": len(found["block.modules"])}).macs <= macs


def test_random_paths_and_a_teacher_make_narrow_branches_work() -> None:
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
    kept = {name: value.clone() for name, value in teacher.state().items()}
    paths = random_paths(architecture, body, 8, np.random.default_rng(1))
    fit(paths, x, y, recipe, 10, np.random.default_rng(2), cosine=True, extra=taught(teacher))
    after = [score(part(architecture, body.state(), (b,), 8), x, y, 4).accuracy for b in range(4)]
    assert after[0] > 0.97 and after[3] > 0.9 > before[3]
    assert all(torch.equal(kept[name], value) for name, value in teacher.state().items())
