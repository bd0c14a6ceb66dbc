"""Tailoring: an imagined device holds what a device would hold, and small sub-models gain by it."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.modular.model import ModularModel, enhance, train_end_to_end
from models.modular.modularize import modularize
from models.modular.selector import Routing, Selector, importance
from models.modular.tailor import LARGEST, SMALLEST, gates_among, held, imagine, tailor
from models.nn.mlp import mlp
from models.nn.resnet import resnet18
from models.submodel import extract
from models.training.loop import Recipe, fit, score


@given(seed=st.integers(0, 2**31), subtasks=st.integers(2, 12), least=st.integers(1, 2), size=st.integers(8, 64))
def test_an_imagined_device_has_few_subtasks_in_equal_parts(seed: int, subtasks: int, least: int, size: int) -> None:
    subtask = 3 * (torch.arange(30 * subtasks) % subtasks)  # of the others the cloud has no sample
    rows, share = imagine(subtask, least, size, np.random.default_rng(seed))
    counts = torch.bincount(subtask[rows], minlength=3 * subtasks)
    many = int((counts > 0).sum())
    assert least <= many <= subtasks and set(counts.tolist()) <= {0, -(-size // many)}
    assert SMALLEST <= share <= LARGEST


def test_an_imagined_device_holds_its_most_important_modules() -> None:
    logits = [torch.tensor([[0.0, 3.0, 1.0, 2.0]]), torch.tensor([[5.0, 0.0, 1.0, 6.0]])]
    for share, expected in ((0.0, 1), (0.5, 2), (1.0, 4)):
        kept = held(logits, share, np.random.default_rng(0))
        assert all(abs(len(k) - expected) <= 1 and len(k) >= 1 for k in kept)  # its spread is a tenth of a layer
        order = [1, 3, 2, 0], [3, 0, 2, 1]
        assert [k.tolist() for k in kept] == [sorted(o[: len(k)]) for o, k in zip(order, kept, strict=True)]


@pytest.mark.parametrize("core", [False, True])
def test_an_imagined_device_computes_what_the_sub_model_computes(core: bool) -> None:
    """The oracle: cut the modules out, as a device gets them, and serve with gates among these alone."""
    modular = resnet18((3, 8, 8), 4, width=8).modular(4, 4)
    body, routing = modular.whole(1).eval(), Routing(3, 4.0, core)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(5, 3, 8, 8, generator=g)
    logits = [torch.randn(5, 4, generator=g) for _ in body.layers]
    kept = [torch.tensor(k) for k in ([0, 2], [0], [0, 1, 3], [0, 1, 2, 3])]
    coverage = {layer: k.sort().values for layer, k in zip(body.layers, kept, strict=True)}
    part = modular.part(coverage).eval()
    part.load_state_dict(extract(body.state(), body.axes(), coverage))
    own = [routing.gates(layer[:, coverage[name]]) for name, layer in zip(body.layers, logits, strict=True)]
    torch.testing.assert_close(body(x, gates_among(routing, logits, kept)), part(x, own))


@pytest.fixture(scope="module")
def blobs() -> tuple[torch.Tensor, torch.Tensor]:
    """Eight blobs in 12 dimensions that overlap."""
    g = torch.Generator().manual_seed(0)
    centres = 1.5 * torch.randn(8, 12, generator=g)
    y = torch.arange(1600) % 8
    return centres[y] + torch.randn(1600, 12, generator=g), y


def small_sub_models(model: ModularModel, x: torch.Tensor, y: torch.Tensor) -> float:
    """Accuracy among its classes of a sub-model of two modules, mean over all pairs of classes."""
    (layer,), hits = model.body.layers, []
    for a in range(8):
        for b in range(a):
            mine = (y == a) | (y == b)
            logits = model.logits(x[mine])
            coverage = {layer: importance(logits)[0].topk(2).indices.sort().values}
            sizes = {**model.body.sizes, layer: 2}
            part = mlp((12,), 8, width=32).build(sizes, None)
            part.load_state_dict(extract(model.body.state(), model.body.axes(), coverage))
            shares = torch.zeros(8)
            shares[[a, b]] = 1
            gates = [model.routing.gates(logits[0][:, coverage[layer]])]
            hits.append(score(part, x[mine], y[mine], 8, gates, shares).accuracy)
    return float(np.mean(hits))


def test_tailored_modules_serve_small_devices_better(blobs: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, y = blobs
    dense, recipe = mlp((12,), 8, width=32), Recipe(lr=0.05, batch_size=32, clip=1.0)
    teacher = dense.whole(0)
    fit(teacher, x, y, recipe, 8, np.random.default_rng(0), cosine=True)
    modular, state = modularize(dense, teacher.state(), modules=8, shrink=8)
    body = modular.part({})
    body.load_state_dict(state)
    chooser = Selector((12,), {"block.modules": 8}, 8, torch.Generator().manual_seed(1))
    start = ModularModel(body, chooser, Routing(6, 8.0))
    train_end_to_end(start, x, y, recipe, 3, np.random.default_rng(1), balance=0.1)
    enhanced, tailored = copy.deepcopy(start), copy.deepcopy(start)
    enhance(enhanced, x, y, y, 8, recipe, 8, np.random.default_rng(2), kappa2=3)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    tailor(tailored, teacher, x, y, y, 8, recipe, 8, np.random.default_rng(2), kappa2=3)
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert small_sub_models(tailored, x, y) > small_sub_models(enhanced, x, y) + 0.02
    assert tailored.score(x, y, 8).accuracy > enhanced.score(x, y, 8).accuracy - 0.03
