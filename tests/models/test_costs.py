"""Costs by hand, by addition, and against the memory of real training."""

import gc
import weakref

import pytest
import torch

from models.costs import CostModel, cost, loss_bytes, macs, saved_bytes
from models.nn.mlp import mlp
from models.nn.resnet import resnet18
from models.nn.vgg import vgg16

ARCHITECTURES = {
    "mlp": mlp((20,), 5, width=32),
    "resnet18": resnet18((3, 8, 8), 5, width=8),
    "vgg16": vgg16((3, 8, 8), 5, width=8),
}


def test_mlp_by_hand() -> None:
    """20 -> 32 -> 16 -> 5: weights 640 + 512 + 80, biases 32 + 16 + 5; 1232 MACs; momentum stores one number each."""
    price = cost(ARCHITECTURES["mlp"], ARCHITECTURES["mlp"].sizes, batch_size=1, optimizer_slots=1)
    assert price.params == 1285
    assert price.bytes == 4 * 1285
    assert price.macs == 1232
    body, x, y = ARCHITECTURES["mlp"].whole(), torch.zeros(1, 20), torch.zeros(1, dtype=torch.long)
    assert price.memory == 3 * 4 * 1285 + loss_bytes(body, x, y)  # parameters, gradients, momentum, activations
    assert price.memory - cost(ARCHITECTURES["mlp"], ARCHITECTURES["mlp"].sizes, 1, 0).memory == 4 * 1285


def test_conv_by_hand() -> None:
    """The stem alone: 8 filters of 3 x 3 x 3 over 8 x 8 pixels."""
    conv = torch.nn.Conv2d(3, 8, 3, padding=1, bias=False)
    assert macs(conv, torch.zeros(1, 3, 8, 8)) == 8 * 27 * 64


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_base_plus_modules_is_the_cost_of_any_sub_model(name: str, residual: bool) -> None:
    costs = CostModel(ARCHITECTURES[name].modular(16, 8, residual), batch_size=4)
    mixed = {layer: 2 + i for i, layer in enumerate(costs.layers)} | dict.fromkeys(list(costs.bypass)[:1], 0)
    only_bypass = dict.fromkeys(costs.layers, 0) | dict.fromkeys(costs.bypass, 1)
    for counts in (mixed, mixed | dict.fromkeys(costs.bypass, 1), *([only_bypass] if residual else [])):
        direct = cost(costs.architecture, {**costs.architecture.sizes, **dict.fromkeys(costs.bypass, 0), **counts}, 4)
        assert costs.of(counts).vector == pytest.approx(direct.vector, rel=1e-6)
    full = dict.fromkeys(costs.layers, 16) | dict.fromkeys(costs.bypass, 1)
    assert costs.of(full).vector == pytest.approx(costs.whole.vector, rel=1e-6)


def test_a_residual_module_by_hand() -> None:
    """20 -> 16 linear: 320 weights, 320 MACs; it is the last entry of the layer's costs."""
    costs = CostModel(ARCHITECTURES["mlp"].modular(16, 8, residual=True), batch_size=4)
    *shrunk, bypass = costs.columns("block.modules")
    assert (bypass.params, bypass.bytes, bypass.macs) == (320, 1280, 320)
    assert len(shrunk) == 16 and {c.params for c in shrunk} == {20 * 4 + 4 + 4 * 16}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_saved_bytes_on_meta_equal_those_of_a_real_step(name: str) -> None:
    architecture = ARCHITECTURES[name]
    body = architecture.whole(0)
    x, y = torch.randn(4, *architecture.input_shape), torch.zeros(4, dtype=torch.long)
    with torch.device("meta"):
        shadow = architecture.build(architecture.sizes, None)
    on_meta = loss_bytes(shadow, torch.empty_like(x, device="meta"), torch.zeros_like(y, device="meta"))
    assert loss_bytes(body, x, y) == on_meta


def test_only_a_modular_model_pays_for_gates() -> None:
    """The backward pass saves the gates (4 x 1) and no scaled copy; no weights, no MACs."""
    dense = ARCHITECTURES["mlp"]
    gated = cost(dense.modular(2, 1), dense.sizes, batch_size=4)
    plain = cost(dense, dense.sizes, batch_size=4)
    assert gated.memory - plain.memory == 4 * 4
    assert gated.macs == plain.macs and gated.params == plain.params


def test_saved_bytes_of_one_linear_layer() -> None:
    """A linear classifier saves its input (4 x 20) and the log-probabilities (4 x 5); targets are 4 longs."""
    saved = loss_bytes(torch.nn.Linear(20, 5), torch.randn(4, 20), torch.zeros(4, dtype=torch.long))
    assert 4 * (80 + 20) + 8 * 4 <= saved <= 4 * (80 + 20) + 8 * 4 + 16


def test_saved_bytes_by_hand() -> None:
    """A product and a tanh save x and the tanh's output, each once; the weight does not count."""
    x, weight = torch.ones(8, 4), torch.ones(4, 2, requires_grad=True)

    def loss() -> torch.Tensor:
        y = (x @ weight).tanh()
        return (y * y).sum()

    assert saved_bytes(loss, [weight]) == 4 * (8 * 4 + 8 * 2)


def test_counting_frees_all_tensors() -> None:
    """An output saved by autograd would keep its own graph alive if the hook stored the output itself."""
    weight, references = torch.randn(4, 4, requires_grad=True), []

    def loss() -> torch.Tensor:
        h = (torch.randn(8, 4) @ weight).exp()
        references.append(weakref.ref(h))
        return h.sum()

    assert saved_bytes(loss, [weight]) == 4 * (8 * 4 + 8 * 4)
    gc.collect()
    assert references[0]() is None
