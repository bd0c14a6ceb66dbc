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


def test_if_fewer_modules_than_top_k_are_available_all_are_active() -> None:
    gates = Routing(8, 8.0).gates(torch.zeros(3, 2))
    torch.testing.assert_close(gates, torch.full((3, 2), 4.0))


def test_a_single_module_has_gate_one_for_any_logit() -> None:
    torch.testing.assert_close(Routing(1, 1.0).gates(torch.tensor([[-9.0], [9.0]])), torch.ones(2, 1))


def test_gates_with_a_core_by_hand() -> None:
    """Top 3 of scale 6: the core has gate 2; the best two of ln 1, ln 3, ln 6 share 4; a single other module has 2."""
    routing = Routing(3, 6.0, core=True)
    logits = torch.log(torch.tensor([[9.0, 1.0, 3.0, 6.0]]))
    torch.testing.assert_close(routing.gates(logits), torch.tensor([[2.0, 0.0, 4 / 3, 8 / 3]]))
    torch.testing.assert_close(routing.gates(logits[:, :2]), torch.tensor([[2.0, 2.0]]))
    torch.testing.assert_close(routing.gates(logits[:, :1]), torch.tensor([[2.0]]))


def test_a_core_has_the_importance_of_all_other_modules() -> None:
    selector = Selector((12,), {"a": 5}, 8, torch.Generator().manual_seed(0), core=True)
    torch.nn.init.normal_(selector.heads[0].weight, generator=torch.Generator().manual_seed(1))
    x = torch.randn(40, 12, generator=torch.Generator().manual_seed(2))
    (scores,) = importance(selector.logits(x))
    assert scores[0].item() == pytest.approx(0.5) and scores[1:].sum().item() == pytest.approx(0.5)
    (clean, noisy, _), *_ = selector.noisy(x, torch.Generator().manual_seed(3))
    assert torch.equal(noisy[:, 0], noisy[:, 1:].logsumexp(1)) and torch.equal(
        selector.specialists(clean), clean[:, 1:]
    )
    assert torch.equal(Selector((12,), {"a": 5}, 8).specialists(clean), clean)


def test_importance_is_the_mean_gate_and_sums_to_one() -> None:
    logits = torch.log(torch.tensor([[1.0, 3.0], [3.0, 1.0], [1.0, 1.0]]))
    (values,) = importance([logits])
    torch.testing.assert_close(values, torch.tensor([0.5, 0.5]))


def test_a_new_selector_has_equal_logits() -> None:
    selector = Selector((12,), {"a": 4, "b": 3}, 8, torch.Generator().manual_seed(0))
    a, b = selector(torch.randn(5, 12))
    assert a.shape == (5, 4) and b.shape == (5, 3)
    assert (a == 0).all() and (b == 0).all()


@pytest.mark.parametrize("shape", [(3, 16, 16), (3, 32, 32), (1, 28, 28), (1, 40, 98), (1, 98, 40), (3, 8, 8), (2, 9)])
def test_images_of_any_size_are_embedded(shape: tuple[int, ...]) -> None:
    """Images whose three halvings end at 2 x 2 are not pooled; all others are averaged over quarters."""
    selector = Selector(shape, {"a": 4}, 8, torch.Generator().manual_seed(0))
    x = torch.randn(5, *shape)
    if len(shape) == 3:
        *convolutions, flat, last, _ = selector.embed.children()
        h = torch.nn.Sequential(*convolutions)(x)
        if shape[1:] in ((16, 16), (32, 32)):
            assert torch.equal(selector.embed(x), F.relu(last(h.flatten(1))))
        else:
            torch.testing.assert_close(flat(h), F.adaptive_avg_pool2d(h, 2).flatten(1))
    assert selector(x)[0].shape == (5, 4)


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
    """MACs at the default width, models of ECLM 7.1; measured: 2.6 % for the MLP, under 0.01 % for the others."""
    modular = dense.modular(modules, 8)
    layers = {layer: modular.sizes[layer] for layer in modular.sizes if layer.endswith(".modules")}
    assert set(layers.values()) == {modules}
    with torch.device("meta"):
        selector = Selector(modular.input_shape, layers, 16)
    spent = macs(selector, torch.empty(1, *modular.input_shape, device="meta"))
    assert spent < 0.05 * cost(modular, modular.sizes, batch_size=1).macs


def test_load_balance_is_zero_when_even_and_large_when_collapsed() -> None:
    """16 samples over 4 modules with top-1: 4 samples per module, against all samples on module 0."""
    even = 20.0 * torch.eye(4).repeat(4, 1)
    collapsed = torch.zeros(16, 4)
    collapsed[:, 0] = 20.0
    std = torch.full((16, 4), 0.1)
    assert load_balance([(even, even, std)], 1) < 1e-6
    # One of four is loaded: the mean is 1/4 of the total, the variance 3 (1/4)^2, so CV^2 = 3, for importance and for
    # load.
    torch.testing.assert_close(load_balance([(collapsed, collapsed, std)], 1), torch.tensor(6.0), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("core", [False, True])
def test_every_sample_may_begin_with_one_copy_of_each_slice(core: bool) -> None:
    """Modules i and i + 4 are copies. With a core, module 0 is active anyway, and its copy is not."""
    selector = Selector((12,), {"a": 8, "b": 4, "c": 8}, 16, torch.Generator().manual_seed(0), core)
    x = torch.randn(200, 12, generator=torch.Generator().manual_seed(1))
    selector.choose_one_copy_of_each(x, 4, torch.Generator().manual_seed(2))
    routing, (a, b, c) = Routing(4, 4.0, core), selector.logits(x)
    for logits in (a, c):
        active = routing.gates(logits) > 0
        assert (active[:, :4] ^ active[:, 4:]).all()
        assert core == active[:, 0].all()
        usage = active.float().mean(0)[1:4]
        assert (usage > 0.2).all() and (usage < 0.8).all()  # both copies are in use
    assert (routing.gates(b) == 1).all()  # four modules: no copies, nothing changes
    assert not torch.equal(a, c)


def test_the_cost_of_the_embedding_by_hand() -> None:
    """32 x 32 pixels are averaged to 16 x 16; three convolutions of 3 x 3 halve them to 8, 4 and 2."""
    selector = Selector((3, 32, 32), {"a": 4}, 8)
    convolutions = 8 * 8 * 2 * (3 * 9) + 4 * 4 * 4 * (2 * 9) + 2 * 2 * 8 * (4 * 9)
    assert macs(selector, torch.zeros(1, 3, 32, 32)) == convolutions + 4 * 8 * 8 + 8 * 4
    weights = 2 * 3 * 9 + 2 + 4 * 2 * 9 + 4 + 8 * 4 * 9 + 8 + 8 * 32 + 8
    assert sum(p.numel() for p in selector.parameters()) == weights + 2 * (8 * 4 + 4)  # a head and its noise
