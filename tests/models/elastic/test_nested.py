"""Nested widths: coverage of a rate, gradients through a cut, and ordered dropout."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from models.elastic.nested import (
    RATES,
    RandomSubmodel,
    groups_of,
    ordered_dropout,
    recalibrate_batch_norm,
    self_distillation,
    width,
)
from models.nn.blocks import Norm
from models.nn.body import Architecture
from models.nn.mlp import mlp
from models.nn.resnet import resnet18
from models.nn.vgg import vgg16
from models.submodel import covered_sizes, extract
from models.training.loop import Recipe, fit, score

MLP = mlp((6,), 3, width=10)  # 10 hidden, 5 before the head
VGG = vgg16((3, 16, 16), 3, width=16)
RESNET = resnet18((3, 8, 8), 3, width=16)  # 8 groups a layer: of 2, 4, 8 and 16 channels


def test_channels_are_cut_in_norm_groups() -> None:
    assert set(groups_of(MLP).values()) == {1}
    assert set(groups_of(resnet18((3, 8, 8), 3, width=16, norm="batch")).values()) == {1}
    found = groups_of(RESNET)
    assert [found[f"stage{s}.out"] for s in (1, 2, 3, 4)] == [2, 4, 8, 16]
    assert [found[f"stage{s}.hidden"] for s in (1, 2, 3, 4)] == [2, 4, 8, 16]
    assert found["stage1.modules"] == found["classes"] == 1


def test_widths_round_up_and_keep_all_classes() -> None:
    covered = covered_sizes(MLP.sizes, width(MLP, 0.5))
    assert covered == {"block.modules": 1, "block.hidden": 5, "out": 3, "classes": 3}
    assert width(MLP, 1.0) == {}


def test_widths_are_whole_groups() -> None:
    """An eighth of the width is one of eight groups, and so is a sixteenth: half a group would compute otherwise."""
    for rate in (0.125, 0.0625):
        covered = covered_sizes(RESNET.sizes, width(RESNET, rate))
        assert [covered[f"stage{s}.out"] for s in (1, 2, 3, 4)] == [2, 4, 8, 16]


def test_windows_wrap_around_and_cover_all_channels_equally() -> None:
    assert width(MLP, 0.3, offset=8)["block.hidden"].tolist() == [8, 9, 0]
    assert width(RESNET, 0.25, offset=7)["stage2.hidden"].tolist() == [28, 29, 30, 31, 0, 1, 2, 3]
    counts = np.zeros(32, int)
    for offset in range(8):
        counts[width(RESNET, 0.25, offset)["stage2.hidden"]] += 1
    assert (counts == 2).all()


@pytest.mark.parametrize("offset", [0, 1, 7])
def test_a_window_of_whole_groups_is_normalised_as_in_the_whole(offset: int) -> None:
    covered = width(RESNET, 0.25, offset)["stage2.hidden"]
    whole, part = Norm(1, 32, "group", 4), Norm(1, 8, "group", 4)
    torch.nn.init.normal_(whole.weight)
    part.weight.data = whole.weight.data[:, covered]
    x = torch.randn(2, 32, 3, 3)
    torch.testing.assert_close(part(x[:, covered]), whole(x)[:, covered])


@pytest.mark.parametrize("architecture", [MLP, RESNET, VGG], ids=["mlp", "resnet18", "vgg16"])
def test_gradients_through_a_cut_are_those_of_the_part_alone(architecture: Architecture) -> None:
    body = architecture.whole(0)
    coverage = width(architecture, 0.5, offset=3)
    part = architecture.part(coverage)
    part.load_state_dict(extract(body.state(), body.axes(), coverage))
    part.rate = 0.5
    x, y = torch.randn(4, *architecture.input_shape), torch.tensor([0, 1, 2, 0])
    sampled = RandomSubmodel(body, architecture.build, lambda: (coverage, 0.5))
    F.cross_entropy(sampled(x), y).backward()
    F.cross_entropy(part(x), y).backward()
    gradients = {name: p.grad for name, p in body.named_parameters()}
    alone = {name: p.grad for name, p in part.named_parameters()}
    inside = extract(gradients, body.axes(), coverage)  # type: ignore[arg-type]
    for name, gradient in alone.items():
        torch.testing.assert_close(inside[name], gradient, msg=name)
        assert gradients[name].count_nonzero() <= gradient.numel(), name  # type: ignore[union-attr]
    assert torch.equal(sampled.eval()(x), body(x))


def test_ordered_dropout_at_full_width_is_plain_training() -> None:
    x, y = torch.randn(40, 6), torch.arange(40) % 3
    plain, dropped = MLP.whole(0), MLP.whole(0)
    fit(plain, x, y, Recipe(), 2, np.random.default_rng(0))
    fit(ordered_dropout(MLP, dropped, (1.0,), np.random.default_rng(1)), x, y, Recipe(), 2, np.random.default_rng(0))
    for name, value in plain.state().items():
        assert torch.equal(dropped.state()[name], value), name


def test_ordered_dropout_of_a_slice_trains_the_same_prefixes() -> None:
    """A client with half of the model draws a quarter of the whole model, not a quarter of its half."""
    body = MLP.whole(0)
    coverage = width(MLP, 0.5)
    half = MLP.part(coverage)
    half.load_state_dict(extract(body.state(), body.axes(), coverage))
    ordered_dropout(MLP, half, (0.25,), np.random.default_rng(0))(torch.randn(8, 6)).sum().backward()
    touched = half.block.first.grad.abs().sum((0, 2)) > 0  # type: ignore[attr-defined,union-attr]
    assert not touched[3:].any() and touched[:3].any()  # ceil(10 / 4) = 3 of 5


def test_rates_are_drawn_evenly() -> None:
    sampled = ordered_dropout(MLP, MLP.whole(0), (1.0, 0.5, 0.1), np.random.default_rng(0))
    rates_ = [sampled._draw()[1] for _ in range(3000)]
    assert np.unique(rates_, return_counts=True)[1] == pytest.approx([1000] * 3, rel=0.1)


def test_rolling_windows_start_anywhere() -> None:
    sampled = ordered_dropout(MLP, MLP.whole(0), (0.1,), np.random.default_rng(0), rolling=True)
    assert {int(sampled._draw()[0]["block.hidden"][0]) for _ in range(300)} == set(range(10))


def test_self_distillation_makes_slices_accurate() -> None:
    """On four clusters, a plain network's quarter is far worse than the nested one's.

    The logits of the widest network get no gradient.
    """
    g = torch.Generator().manual_seed(0)
    y = torch.arange(400) % 4
    x = (3 * torch.randn(4, 8, generator=g))[y] + torch.randn(400, 8, generator=g)
    architecture, recipe = mlp((8,), 4, width=64), Recipe(lr=0.05, batch_size=32, clip=1.0)
    plain, nested = architecture.whole(0), architecture.whole(0)
    term = self_distillation(ordered_dropout(architecture, nested, RATES[1:], np.random.default_rng(1)))
    fit(plain, x, y, recipe, 10, np.random.default_rng(0), cosine=True)
    fit(nested, x, y, recipe, 10, np.random.default_rng(0), cosine=True, extra=term)

    def narrow(body: torch.nn.Module) -> float:
        part = architecture.part(coverage := width(architecture, 0.25))
        part.rate = 0.25
        part.load_state_dict(extract(body.state_dict(), architecture.part({}).axes(), coverage))
        return score(part, x, y, 4).accuracy

    assert score(nested, x, y, 4).accuracy > 0.97
    assert narrow(nested) > 0.95 > 0.8 > narrow(plain)

    logits = torch.randn(400, 4, requires_grad=True)
    term(x, logits).backward()
    assert logits.grad is None


@torch.no_grad()
def test_recalibrated_batch_norm_computes_as_in_training() -> None:
    """With the statistics of the very same batches, evaluation equals training, except for n / (n - 1)."""
    architecture = resnet18((3, 16, 16), 3, width=8, norm="batch")
    body = architecture.whole(0)
    x = 2 + 3 * torch.randn(64, 3, 16, 16)
    weights = {name: p.clone() for name, p in body.named_parameters()}

    def gap() -> float:
        """Return the difference between evaluation and training, relative to the logits.

        Training moves the statistics, so evaluation comes first.
        """
        used, trained = body.eval()(x), body.train()(x)
        return float((used - trained).norm() / trained.norm())

    assert gap() > 0.2
    recalibrate_batch_norm(body, x)
    assert all(torch.equal(weights[name], p) for name, p in body.named_parameters())
    recalibrated = body.state()
    assert gap() < 0.02
    body.load_state_dict(recalibrated)
    recalibrate_batch_norm(body, torch.cat([x, x]), batch_size=64)  # two equal batches: their mean is the same
    for name, value in recalibrated.items():
        torch.testing.assert_close(body.state()[name], value, msg=name)


def test_the_parameters_of_the_part_itself_are_never_used() -> None:
    """functional_call replaces every parameter of the part, so uninitialised values cannot have an effect."""
    body = RESNET.whole(0)
    part = RESNET.part(width(RESNET, 0.5))
    for parameter in part.parameters():
        torch.nn.init.constant_(parameter, float("nan"))
    given = extract(dict(body.named_parameters()), body.axes(), width(RESNET, 0.5))
    assert torch.isfinite(functional_call(part, given, (torch.randn(2, 3, 8, 8),))).all()
