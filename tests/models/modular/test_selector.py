"""Gates, importance and load balance."""

import pytest
import torch
import torch.nn.functional as F

from models.costs import cost, macs
from models.modular.selector import Routing, Selector, importance, load_balance
from models.nn.body import Architecture
from models.nn.mlp import mlp
from models.nn.resnet import resnet18, resnet34
from models.nn.vgg import vgg16


def test_gates_by_hand() -> None:
    """Logits ln 1, ln 3, ln 6 with top 2: softmax over {3, 6} is 1/3, 2/3, scaled to sum to 4."""
    gates = Routing(2, 4.0).gates(torch.log(torch.tensor([[1.0, 3.0, 6.0]])))
    torch.testing.assert_close(gates, torch.tensor([[0.0, 4 / 3, 8 / 3]]))


def test_fewer_modules_held_than_wanted_are_all_active() -> None:
    gates = Routing(8, 8.0).gates(torch.zeros(3, 2))
    torch.testing.assert_close(gates, torch.full((3, 2), 4.0))


def test_one_module_has_the_gate_one_whatever_its_logit() -> None:
    torch.testing.assert_close(Routing(1, 1.0).gates(torch.tensor([[-9.0], [9.0]])), torch.ones(2, 1))


def test_a_core_has_the_mean_gate_and_the_others_share_the_rest_by_hand() -> None:
    """Top 3 of scale 6: the core has 2, and of ln 1, ln 3, ln 6 the best two share 4; alone, one has 2 and none 0."""
    routing = Routing(3, 6.0, core=True)
    logits = torch.log(torch.tensor([[9.0, 1.0, 3.0, 6.0]]))
    torch.testing.assert_close(routing.gates(logits), torch.tensor([[2.0, 0.0, 4 / 3, 8 / 3]]))
    torch.testing.assert_close(routing.gates(logits[:, :2]), torch.tensor([[2.0, 2.0]]))
    torch.testing.assert_close(routing.gates(logits[:, :1]), torch.tensor([[2.0]]))


def test_a_core_matters_as_much_as_all_the_others_and_so_every_sub_model_holds_it() -> None:
    chooser = Selector((12,), {"a": 5}, 8, torch.Generator().manual_seed(0), core=True)
    torch.nn.init.normal_(chooser.heads[0].weight, generator=torch.Generator().manual_seed(1))
    x = torch.randn(40, 12, generator=torch.Generator().manual_seed(2))
    (scores,) = importance(chooser.logits(x))
    assert scores[0].item() == pytest.approx(0.5) and scores[1:].sum().item() == pytest.approx(0.5)
    (clean, noisy, _), *_ = chooser.noisy(x, torch.Generator().manual_seed(3))
    assert torch.equal(noisy[:, 0], noisy[:, 1:].logsumexp(1)) and torch.equal(chooser.specialists(clean), clean[:, 1:])
    assert torch.equal(Selector((12,), {"a": 5}, 8).specialists(clean), clean)


def test_importance_is_the_mean_gate_and_sums_to_one() -> None:
    logits = torch.log(torch.tensor([[1.0, 3.0], [3.0, 1.0], [1.0, 1.0]]))
    (values,) = importance([logits])
    torch.testing.assert_close(values, torch.tensor([0.5, 0.5]))


def test_a_new_selector_prefers_no_module() -> None:
    chooser = Selector((12,), {"a": 4, "b": 3}, 8, torch.Generator().manual_seed(0))
    a, b = chooser(torch.randn(5, 12))
    assert a.shape == (5, 4) and b.shape == (5, 3)
    assert (a == 0).all() and (b == 0).all()


@pytest.mark.parametrize("shape", [(3, 16, 16), (3, 32, 32), (1, 28, 28), (1, 40, 98), (1, 98, 40), (3, 8, 8), (2, 9)])
def test_images_of_any_size_are_embedded(shape: tuple[int, ...]) -> None:
    """Where three halvings end at 2 x 2 nothing is pooled on top; elsewhere quarters of the image are averaged."""
    chooser = Selector(shape, {"a": 4}, 8, torch.Generator().manual_seed(0))
    x = torch.randn(5, *shape)
    if len(shape) == 3:
        *convolutions, flat, last, _ = chooser.embed.children()
        h = torch.nn.Sequential(*convolutions)(x)
        if shape[1:] in ((16, 16), (32, 32)):
            assert torch.equal(chooser.embed(x), F.relu(last(h.flatten(1))))
        else:
            torch.testing.assert_close(flat(h), F.adaptive_avg_pool2d(h, 2).flatten(1))
    assert chooser(x)[0].shape == (5, 4)


@pytest.mark.parametrize(
    ("dense", "modules"),
    [
        (mlp((561,), 6), 16),
        (resnet18((3, 32, 32), 10), 16),
        (vgg16((3, 32, 32), 100), 32),
        (resnet34((1, 40, 98), 35), 32),
    ],
    ids=["mlp", "resnet18", "vgg16", "resnet34"],
)
def test_the_selector_costs_under_a_twentieth_of_the_cloud_model(dense: Architecture, modules: int) -> None:
    """MACs at the default width, for the models of ECLM 7.1; seen: 2.6 % for the MLP, under 0.01 % for the others."""
    modular = dense.modular(modules, 8)
    layers = {layer: modular.sizes[layer] for layer in modular.sizes if layer.endswith(".modules")}
    assert set(layers.values()) == {modules}
    with torch.device("meta"):
        chooser = Selector(modular.input_shape, layers, 16)
    spent = macs(chooser, torch.empty(1, *modular.input_shape, device="meta"))
    assert spent < 0.05 * cost(modular, modular.sizes, batch_size=1).macs


def test_load_balance_is_zero_when_even_and_large_when_collapsed() -> None:
    """16 samples over 4 modules with top-1: each module 4 samples, against all samples on module 0."""
    even = 20.0 * torch.eye(4).repeat(4, 1)
    collapsed = torch.zeros(16, 4)
    collapsed[:, 0] = 20.0
    std = torch.full((16, 4), 0.1)
    assert load_balance([(even, even, std)], 1) < 1e-6
    # One of four loaded: mean 1/4 of the total, variance 3 (1/4)^2: CV^2 = 3, for importance and for load.
    torch.testing.assert_close(load_balance([(collapsed, collapsed, std)], 1), torch.tensor(6.0), rtol=1e-3, atol=1e-3)
