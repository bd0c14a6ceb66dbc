"""Tests of every architecture: correct axes, additive modules, exact conversion. A new model is one more row."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn

from models.aggregation.weighted_sum import WeightedSum
from models.elastic.nested import recalibrate_batch_norm, width
from models.modular.modularize import modularize
from models.modular.selector import Routing
from models.nn.any_module import from_module
from models.nn.blocks import ConvBlock, Execution, LinearBlock, Norm, set_execution, use_dispatch
from models.nn.body import Architecture, Body, columns_coverage, gate_columns
from models.nn.cnn import cnn
from models.nn.mlp import mlp
from models.nn.registry import MODELS
from models.nn.resnet import resnet18, resnet34
from models.nn.vgg import vgg16
from models.submodel import FULL, State, covered_sizes, extract
from models.training.loop import Precision, Recipe, fit, flip_and_shift, score
from partitions.components import options_of
from partitions.errors import UnknownName
from tests.elsewhere import elsewhere

ARCHITECTURES = {
    "cnn": cnn((3, 11, 8), 5, width=8),
    "mlp": mlp((20,), 5, width=32),
    "resnet18": resnet18((3, 16, 16), 5, width=16),
    "resnet18-batch": resnet18((3, 16, 16), 5, width=16, norm="batch"),
    "resnet18-two": resnet18((3, 16, 16), 5, width=16, layers=2),
    "resnet34": resnet34((1, 20, 49), 5, width=16),
    "vgg16": vgg16((3, 32, 32), 5, width=16),
    "vgg16-odd": vgg16((1, 28, 17), 5, width=16, norm="batch"),
}
CUTS = [(name, residual) for name in ARCHITECTURES for residual in (False, True)]


def inputs(architecture: Architecture, n: int = 6) -> torch.Tensor:
    return torch.randn(n, *architecture.input_shape, generator=torch.Generator().manual_seed(3))


def gates_of(body: Body, n: int = 6, active: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    widths = [len(gate_columns(body.sizes, layer)) for layer in body.layers]
    return [Routing(active, 2.0).gates(torch.randn(n, width, generator=generator)) for width in widths]


def with_random_statistics(body: Body) -> Body:
    """Change the running statistics, if any, from their initial values."""
    generator = torch.Generator().manual_seed(6)
    for value in body.buffers():
        value += torch.rand(value.shape, generator=generator)
    return body


def run_as(body: Body, execution: Execution) -> Body:
    set_execution(body, execution)
    return body


def test_an_external_model_is_found_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module outside the source tree, named as "module:function"; its keyword parameters are its options."""
    (tmp_path / "outside_model.py").write_text(
        "from models.nn.mlp import mlp\n\n\n"
        "def tiny(input_shape, classes, width: int = 8, depth: int = 2):\n    return mlp(input_shape, classes, width)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    family = MODELS["outside_model:tiny"]
    assert family((20,), 5, width=4).sizes == mlp((20,), 5, width=4).sizes
    assert set(options_of(family, ("width", "norm", "layers")).model_fields) == {"depth"}
    with pytest.raises(UnknownName, match="model 'outside_model:huge' cannot be imported"):
        MODELS["outside_model:huge"]


def test_options_of_a_model_are_checked() -> None:
    options = options_of(MODELS["vgg16"], ("width", "norm", "layers"))
    assert options().groups == 8  # type: ignore[attr-defined]
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        options(groups=0)


def test_the_table_has_every_model() -> None:
    assert {name.split("-")[0] for name in ARCHITECTURES} == set(MODELS)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_axes_name_every_entry_with_its_true_length(name: str) -> None:
    body = ARCHITECTURES[name].whole(0)
    axes, state = body.axes(), body.state()
    assert set(axes) == set(state)
    for entry, value in state.items():
        assert len(axes[entry]) == value.dim(), entry
        for axis, length in zip(axes[entry], value.shape, strict=True):
            assert axis is None or body.sizes[axis] == length, (entry, axis)


@pytest.mark.parametrize(("name", "residual"), CUTS)
def test_conversion_with_all_gates_one_equals_the_dense_model(name: str, residual: bool) -> None:
    dense = ARCHITECTURES[name]
    body = dense.whole(1)
    modular, state = modularize(dense, body.state(), modules=8, shrink=8, residual=residual)
    converted = modular.part(FULL)
    converted.load_state_dict(state)
    ones = [torch.cat([torch.ones(6, 8), torch.zeros(6, int(residual))], dim=1) for _ in converted.layers]
    x = inputs(dense)
    torch.testing.assert_close(converted(x, ones), body(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(converted(x), body(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "residual"), CUTS)
def test_more_modules_than_slices_repeat_the_slices(name: str, residual: bool) -> None:
    """16 modules from 8 slices with gates of one half compute the dense model."""
    dense = ARCHITECTURES[name]
    body = dense.whole(1)
    modular, state = modularize(dense, body.state(), modules=16, shrink=8, residual=residual)
    converted = modular.part(FULL)
    converted.load_state_dict(state)
    x = inputs(dense)
    halves = [torch.cat([torch.full((6, 16), 0.5), torch.zeros(6, int(residual))], dim=1) for _ in converted.layers]
    torch.testing.assert_close(converted(x, halves), body(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "residual"), CUTS)
def test_fused_and_dispatch_agree_in_outputs_and_gradients(name: str, residual: bool) -> None:
    modular = ARCHITECTURES[name].modular(16, 8, residual)
    body = with_random_statistics(modular.whole(2)).double().eval()  # float32 rounding can flip a ReLU
    gates, x = [gate.double() for gate in gates_of(body)], inputs(modular).double()
    results = []
    executions: tuple[Execution, ...] = ("fused", "dispatch")
    for execution in executions:
        run_as(body, execution).zero_grad()
        out = body(x, gates)
        out.square().sum().backward()
        results.append((out.detach(), {n: p.grad.clone() for n, p in body.named_parameters()}))
    (fused, fused_grads), (dispatch, dispatch_grads) = results
    torch.testing.assert_close(fused, dispatch, rtol=1e-5, atol=1e-5)
    for entry, grad in fused_grads.items():
        torch.testing.assert_close(grad, dispatch_grads[entry], rtol=1e-3, atol=1e-4, msg=entry)


@pytest.mark.parametrize(
    ("name", "residual", "covered"),
    [(*cut, covered) for cut in CUTS for covered in ((1, 4, 7), (3, 16), (16,)) if cut[1] or 16 not in covered],
)  # module 16 is the residual one
@pytest.mark.parametrize("training", [True, False])
def test_a_sub_model_is_the_whole_with_the_other_gates_zero(
    name: str, residual: bool, covered: tuple[int, ...], training: bool
) -> None:
    modular = ARCHITECTURES[name].modular(16, 8, residual)
    whole = run_as(with_random_statistics(modular.whole(2)), "fused").train(training)
    columns = torch.tensor(covered)
    coverage = columns_coverage(whole.sizes, dict.fromkeys(whole.layers, np.array(covered)))
    for layer in whole.layers:
        assert gate_columns(whole.sizes, layer, coverage).tolist() == list(covered)
    part = modular.part(coverage).train(training)
    part.load_state_dict(extract(whole.state(), whole.axes(), coverage))
    x = inputs(modular)
    part_gates = [torch.rand(6, len(covered), generator=torch.Generator().manual_seed(5)) for _ in whole.layers]
    spread = [torch.zeros(6, 16 + residual).index_copy(1, columns, gates) for gates in part_gates]
    torch.testing.assert_close(run_as(part, "fused")(x, part_gates), whole(x, spread), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("rate", [1.0, 0.5, 0.25, 0.0625])
def test_every_width_builds_and_runs(name: str, rate: float) -> None:
    architecture = ARCHITECTURES[name]
    body = architecture.whole(0)
    coverage = width(architecture, rate)
    part = architecture.part(coverage)
    part.load_state_dict(extract(body.state(), body.axes(), coverage))
    assert part.sizes == covered_sizes(architecture.sizes, coverage)
    assert part(inputs(architecture)).shape == (6, 5)


@pytest.mark.parametrize(
    ("architecture", "params", "layers"),
    [
        (resnet18((3, 32, 32), 10), 11_173_962, 4),  # as in common CIFAR implementations
        (resnet34((3, 32, 32), 10), 21_282_122, 3),
        (vgg16((3, 32, 32), 10), 14_724_042, 3),  # 13 convolutions 14_710_464, their norms 8_448, head 5_130
    ],
    ids=["resnet18", "resnet34", "vgg16"],
)
def test_the_paper_models_have_their_parameters(architecture: Architecture, params: int, layers: int) -> None:
    with torch.device("meta"):
        body = architecture.build(architecture.sizes, None)
    assert sum(p.numel() for p in body.parameters()) == params
    assert len(body.layers) == layers


def test_other_stages_stay_dense_and_whole() -> None:
    dense = ARCHITECTURES["resnet34"]
    modular = dense.modular(16, 8)
    assert modular.part(FULL).layers == ("stage2.modules", "stage3.modules", "stage4.modules")
    assert modular.sizes["stage1.hidden"] == dense.sizes["stage1.hidden"] == 8 * modular.sizes["stage2.hidden"] // 2
    assert "stage1.modules" not in modular.sizes
    coverage = dict.fromkeys(modular.part(FULL).layers, torch.tensor([3]))
    body = modular.whole(0)
    part = extract(body.state(), body.axes(), coverage)
    shared = [name for name in part if name.startswith("stages.0.")]
    assert shared and all(torch.equal(part[name], body.state_dict()[name]) for name in shared)


@pytest.mark.parametrize("layers", [0, 5])
def test_more_module_layers_than_stages_are_refused(layers: int) -> None:
    with pytest.raises(ValueError, match=f"4 stages cannot have {layers} module layers; give 1 to 4"):
        resnet34((3, 8, 8), 5, layers=layers)


def test_a_dense_stage_is_pruned_in_width_alone() -> None:
    covered = covered_sizes(ARCHITECTURES["vgg16"].sizes, width(ARCHITECTURES["vgg16"], 0.25))
    assert covered["block1.hidden"] == 4 and covered["block1.out"] == 8 and covered["block6.modules"] == 1


@pytest.mark.parametrize(("stride", "pool", "outputs"), [(1, False, 3), (2, False, 6), (1, True, 6), (1, True, 3)])
def test_a_residual_module_adds_its_gated_input(stride: int, pool: bool, outputs: int) -> None:
    """With all other gates 0, the output is the gated input, halved and padded with zero channels if needed."""
    block = ConvBlock(2, 3, 4, outputs, stride, "group", 2, torch.Generator().manual_seed(0), pool, bypass=1)
    x, gate = torch.randn(5, 3, 8, 6), torch.rand(5, 1)
    expected = x[:, :, ::stride, ::stride] if not pool else F.max_pool2d(x, 2)
    expected = gate[:, :, None, None] * F.pad(expected, (0, 0, 0, 0, 0, outputs - 3))
    for execution in ("fused", "dispatch"):
        block.execution = execution
        torch.testing.assert_close(block(x, torch.cat([torch.zeros(5, 2), gate], dim=1)), expected)


def test_a_linear_residual_module_adds_its_gated_input() -> None:
    block = LinearBlock(2, 3, 4, 2, torch.Generator().manual_seed(0), bypass=1)
    x, gates = torch.randn(5, 3), torch.rand(5, 3)
    torch.testing.assert_close(block(x, gates) - block(x, gates * torch.tensor([1, 1, 0])), gates[:, 2:] * x[:, :2])


def test_linear_block_is_the_sum_of_its_modules() -> None:
    """Compute sum_i g_i W2_i relu(W1_i x + b1_i) + b module by module in plain torch."""
    block = LinearBlock(5, 7, 4, 3, torch.Generator().manual_seed(0))
    x, gates = torch.randn(6, 7), torch.rand(6, 5)
    expected = block.bias.expand(6, 3).clone()
    for m in range(5):
        expected = expected + gates[:, m, None] * F.linear(
            F.relu(F.linear(x, block.first[m], block.first_bias[m])), block.second[:, m]
        )
    block.execution = "fused"
    torch.testing.assert_close(block(x, gates), expected, rtol=1e-5, atol=1e-5)


def test_conv_block_is_the_sum_of_its_modules() -> None:
    block = ConvBlock(4, 3, 4, 6, stride=2, group_size=2, generator=torch.Generator().manual_seed(0))
    x, gates = torch.randn(5, 3, 8, 8), torch.rand(5, 4)
    expected = torch.zeros(5, 6, 4, 4)
    for m in range(4):
        h = F.group_norm(F.conv2d(x, block.first[m], stride=2, padding=1), 2, block.norm.weight[m], block.norm.bias[m])
        expected = expected + gates[:, m, None, None, None] * F.conv2d(F.relu(h), block.second[:, m], padding=1)
    block.execution = "fused"
    torch.testing.assert_close(block(x, gates), expected, rtol=1e-5, atol=1e-5)


def test_pooling_inside_a_conv_block_keeps_the_sum_of_modules() -> None:
    block = ConvBlock(3, 2, 4, 5, group_size=2, pool=True, generator=torch.Generator().manual_seed(0))
    x, gates = torch.randn(5, 2, 8, 6), torch.rand(5, 3)
    expected = torch.zeros(5, 5, 4, 3)
    for m in range(3):
        h = F.group_norm(F.conv2d(x, block.first[m], padding=1), 2, block.norm.weight[m], block.norm.bias[m])
        pooled = F.max_pool2d(F.relu(h), 2)
        expected = expected + gates[:, m, None, None, None] * F.conv2d(pooled, block.second[:, m], padding=1)
    block.execution = "fused"
    torch.testing.assert_close(block(x, gates), expected, rtol=1e-5, atol=1e-5)


def test_batch_norm_trains_on_the_whole_batch_however_a_block_runs() -> None:
    """One step from 0 with momentum 0.1 gives a tenth of the mean over all samples, gated or not."""
    block = ConvBlock(3, 2, 4, 5, norm="batch", generator=torch.Generator().manual_seed(0))
    x, gates = torch.randn(5, 2, 4, 4), torch.eye(3)[torch.tensor([0, 0, 1, 1, 2])]
    block.execution = "dispatch"
    block(x, gates)
    for m in range(3):
        hidden = F.conv2d(x, block.first[m], padding=1)
        torch.testing.assert_close(block.norm.mean[m], 0.1 * hidden.mean((0, 2, 3)))


def test_batch_norm_of_a_single_value_uses_the_running_statistics() -> None:
    """(2 - 1) / sqrt(4 + eps) = 1 / 2, in training too; the statistics do not change."""
    norm = Norm(1, 1, "batch")
    norm.mean.fill_(1.0)
    norm.var.fill_(4.0)
    assert norm(torch.full((1, 1, 1, 1), 2.0)).item() == pytest.approx(0.5, abs=1e-5)
    assert norm.mean.item() == 1.0 and norm.var.item() == 4.0


def test_running_statistics_are_merged_with_their_modules() -> None:
    """Of 4 modules, client A has 0 and 1, client B 1 and 2, with importance (., 1) and (3, .); examples 1 and 1.

    Module 1's own mean: (1 * 2 + 3 * 6) / 4 = 5. The mean after the sum, which both clients have: (2 + 6) / 2 = 4.
    """
    modular = resnet18((3, 8, 8), 5, width=8, norm="batch", layers=1).modular(4, 4)
    body, layer = modular.whole(0), "stage4.modules"
    inner, after = "stages.3.0.block.norm.mean", "stages.3.0.norm.mean"
    total = WeightedSum(body.axes(), body.state())
    for value, modules, importance in ((2.0, [0, 1], [1.0, 1.0]), (6.0, [1, 2], [3.0, 1.0])):
        coverage = {layer: torch.tensor(modules)}
        part = extract(body.state(), body.axes(), coverage)
        assert part[inner].shape == (2, 16) and part[after].shape == (1, 64)
        part[inner].fill_(value)
        part[after].fill_(value)
        total.add(part, coverage, 1.0, {layer: torch.tensor(importance)})
    merged = total.finish(body.state())
    assert merged[inner][:, 0].tolist() == [2.0, 5.0, 6.0, 0.0]
    assert merged[after][0, 0] == 4.0


def test_an_unknown_norm_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown norm 'layer'; known: batch, group"):
        resnet18((3, 8, 8), 5, width=8, norm="layer").whole()


def test_auto_dispatches_if_few_of_many_large_modules_are_active() -> None:
    few = Routing(2, 1.0).gates(torch.randn(4, 16))
    most = Routing(12, 1.0).gates(torch.randn(4, 16))
    assert use_dispatch(few, "auto", macs=1e8)
    assert not use_dispatch(most, "auto", macs=1e8)
    assert not use_dispatch(few, "auto", macs=1e6)


def test_a_shrink_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="shrink = 5 does not divide"):
        ARCHITECTURES["mlp"].modular(16, 5)


def test_a_modular_model_is_not_cut_again() -> None:
    with pytest.raises(ValueError, match="already cut into 16 modules"):
        ARCHITECTURES["mlp"].modular(16, 8).modular(4, 2)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_training_and_scoring_are_the_same_on_another_device(name: str) -> None:
    """Covers residual modules, gates, batch norm statistics and augmentation."""
    modular = ARCHITECTURES[name].modular(4, 4, residual=True)
    x, y, class_shares = inputs(modular, 10), torch.arange(10) % 5, torch.tensor([0.5, 2.0, 1.0, 1.0, 1.0])

    def trained(device: torch.device) -> tuple[State, float, float]:
        body, order = modular.whole(1).to(device), np.random.default_rng(0)
        gates, augment = gates_of(body, 10), flip_and_shift if x.dim() == 4 else None
        loss = fit(body, x, y, Recipe(lr=0.05, batch_size=4), 2, order, gates, class_shares, "prior", augment=augment)
        recalibrate_batch_norm(body, x)
        return body.state(), loss, score(body, x, y, 5, gates, class_shares).loss_sum

    on_cpu = trained(torch.device("cpu"))
    with elsewhere() as device:
        on_other_device = trained(device)
    assert on_other_device[1:] == on_cpu[1:]
    assert all(torch.equal(on_other_device[0][entry], value) for entry, value in on_cpu[0].items())


@pytest.mark.parametrize(("name", "residual"), CUTS)
def test_a_bfloat16_step_has_nearly_the_same_direction(name: str, residual: bool) -> None:
    """The parameters themselves stay in float32."""
    modular = ARCHITECTURES[name].modular(4, 4, residual)
    x, y, start = inputs(modular, 20), torch.arange(20) % 5, modular.whole(1).state()

    def step(precision: Precision) -> torch.Tensor:
        body, how = modular.whole(1), Recipe(lr=0.1, batch_size=20, momentum=0.0, precision=precision)
        fit(body, x, y, how, 1, np.random.default_rng(0), gates_of(body, 20))
        return torch.cat([(own.detach() - start[entry]).flatten() for entry, own in body.named_parameters()])

    exact, rounded = step("float32"), step("bfloat16")
    assert not torch.allclose(exact, rounded, rtol=1e-3)
    assert float(torch.cosine_similarity(rounded, exact, dim=0)) > 0.9


@pytest.mark.parametrize("momentum", [0.1, None])
def test_frozen_statistics_stay_and_normalise_also_in_training(momentum: float | None) -> None:
    """In a network of ours and of torch's; one epoch of one batch, so the loss is that of evaluation."""
    norm = nn.BatchNorm1d(8, momentum=momentum)
    theirs = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), norm, nn.ReLU(), nn.Linear(8, 3))
    architectures = [resnet18((3, 8, 8), 3, width=8, norm="batch"), from_module(theirs, (3, 8, 8), 3)]
    statistics = {"mean", "var", "running_mean", "running_var", "num_batches_tracked"}
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(12, 3, 8, 8, generator=generator), torch.arange(12) % 3
    for architecture in architectures:
        body = architecture.whole(1)
        before = {name: value.clone() for name, value in body.state().items()}
        loss = score(body, x, y, 3).loss_sum / 12
        how = Recipe(lr=0.1, batch_size=12, frozen_statistics=True)
        assert fit(body, x, y, how, 1, np.random.default_rng(0)) == pytest.approx(loss, rel=1e-5)
        after = body.state()
        kept = {name for name, value in after.items() if torch.equal(value, before[name])}
        assert kept == {name for name in after if name.rpartition(".")[2] in statistics}
        assert fit(body, x, y, replace(how, frozen_statistics=False), 1, np.random.default_rng(0)) > 0
        assert not any(torch.equal(body.state()[name], before[name]) for name in kept)
