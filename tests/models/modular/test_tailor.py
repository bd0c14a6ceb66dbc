"""Tailoring: simulated clients resemble real ones, and small sub-models become more accurate."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.modular.model import ModularModel, enhance, train_end_to_end
from models.modular.modularize import modularize
from models.modular.selector import Routing, Selector, importance
from models.modular.tailor import MAX_SHARE, MIN_SHARE, gates_among, important_modules, simulate_client, tailor
from models.nn.mlp import mlp
from models.nn.resnet import resnet18
from models.submodel import extract
from models.training.loop import Recipe, fit, score


@given(seed=st.integers(0, 2**31), subtasks=st.integers(2, 12), minimum=st.integers(1, 2), size=st.integers(8, 64))
def test_a_simulated_client_has_equal_parts_of_few_subtasks(seed: int, subtasks: int, minimum: int, size: int) -> None:
    subtask = 3 * (torch.arange(30 * subtasks) % subtasks)  # the other sub-tasks have no samples
    rows, share = simulate_client(subtask, minimum, size, np.random.default_rng(seed))
    counts = torch.bincount(subtask[rows], minlength=3 * subtasks)
    count = int((counts > 0).sum())
    assert minimum <= count <= subtasks and set(counts.tolist()) <= {0, -(-size // count)}
    assert MIN_SHARE <= share <= MAX_SHARE


def test_a_simulated_client_has_its_most_important_modules() -> None:
    logits = [torch.tensor([[0.0, 3.0, 1.0, 2.0]]), torch.tensor([[5.0, 0.0, 1.0, 6.0]])]
    for share, expected in ((0.0, 1), (0.5, 2), (1.0, 4)):
        modules = important_modules(logits, share, np.random.default_rng(0))
        # the standard deviation is a tenth of a layer
        assert all(abs(len(k) - expected) <= 1 and len(k) >= 1 for k in modules)
        order = [1, 3, 2, 0], [3, 0, 2, 1]
        assert [k.tolist() for k in modules] == [sorted(o[: len(k)]) for o, k in zip(order, modules, strict=True)]


@pytest.mark.parametrize("core", [False, True])
def test_a_simulated_client_computes_the_same_as_its_sub_model(core: bool) -> None:
    """Reference: cut the modules out, as for a client, and compute gates among them only."""
    modular = resnet18((3, 8, 8), 4, width=8).modular(4, 4)
    body, routing = modular.whole(1).eval(), Routing(3, 4.0, core)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(5, 3, 8, 8, generator=g)
    logits = [torch.randn(5, 4, generator=g) for _ in body.layers]
    modules = [torch.tensor(k) for k in ([0, 2], [0], [0, 1, 3], [0, 1, 2, 3])]
    coverage = {layer: k.sort().values for layer, k in zip(body.layers, modules, strict=True)}
    part = modular.part(coverage).eval()
    part.load_state_dict(extract(body.state(), body.axes(), coverage))
    part_gates = [routing.gates(layer[:, coverage[name]]) for name, layer in zip(body.layers, logits, strict=True)]
    torch.testing.assert_close(body(x, gates_among(routing, logits, modules)), part(x, part_gates))


@pytest.fixture(scope="module")
def blobs() -> tuple[torch.Tensor, torch.Tensor]:
    """Eight overlapping clusters in 12 dimensions."""
    g = torch.Generator().manual_seed(0)
    centres = 1.5 * torch.randn(8, 12, generator=g)
    y = torch.arange(1600) % 8
    return centres[y] + torch.randn(1600, 12, generator=g), y


def small_sub_models(model: ModularModel, x: torch.Tensor, y: torch.Tensor) -> float:
    """Return the accuracy of sub-models of two modules on two classes, averaged over all pairs of classes."""
    (layer,), hits = model.body.layers, []
    for a in range(8):
        for b in range(a):
            rows = (y == a) | (y == b)
            logits = model.logits(x[rows])
            coverage = {layer: importance(logits)[0].topk(2).indices.sort().values}
            sizes = {**model.body.sizes, layer: 2}
            part = mlp((12,), 8, width=32).build(sizes, None)
            part.load_state_dict(extract(model.body.state(), model.body.axes(), coverage))
            shares = torch.zeros(8)
            shares[[a, b]] = 1
            gates = [model.routing.gates(logits[0][:, coverage[layer]])]
            hits.append(score(part, x[rows], y[rows], 8, gates, shares).accuracy)
    return float(np.mean(hits))


def test_tailoring_improves_small_sub_models(blobs: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, y = blobs
    dense, recipe = mlp((12,), 8, width=32), Recipe(lr=0.05, batch_size=32, clip=1.0)
    teacher = dense.whole(0)
    fit(teacher, x, y, recipe, 8, np.random.default_rng(0), cosine=True)
    modular, state = modularize(dense, teacher.state(), modules=8, shrink=8)
    body = modular.part({})
    body.load_state_dict(state)
    selector = Selector((12,), {"block.modules": 8}, 8, torch.Generator().manual_seed(1))
    start = ModularModel(body, selector, Routing(6, 8.0))
    train_end_to_end(start, x, y, recipe, 3, np.random.default_rng(1), balance=0.1)
    enhanced, tailored = copy.deepcopy(start), copy.deepcopy(start)
    enhance(enhanced, x, y, y, 8, recipe, 8, np.random.default_rng(2), kappa2=3)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    tailor(tailored, teacher, x, y, y, 8, recipe, 8, np.random.default_rng(2), kappa2=3)
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert small_sub_models(tailored, x, y) > small_sub_models(enhanced, x, y) + 0.02
    assert tailored.score(x, y, 8).accuracy > enhanced.score(x, y, 8).accuracy - 0.03
