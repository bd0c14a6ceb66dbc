"""Networks of the user: axes that are found, sub-models that compute what the whole does without the other channels."""

import copy
import re
import threading
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.aggregation.weighted_sum import WeightedSum
from models.costs import CostModel
from models.elastic.nested import groups_of, width
from models.modular.modularize import modularize
from models.nn.any_body import AnyBody
from models.nn.any_module import architecture_of, from_module
from models.nn.body import Architecture
from models.submodel import Coverage, Joined, extract


class Picture(nn.Module):
    """Residual, depthwise and grouped convolutions, a concatenation, a bare parameter, pixels that are flattened."""

    def __init__(self, num_classes: int = 3, norm: str = "batch"):
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(32) if norm == "batch" else nn.Identity()
        self.wide, self.depthwise = nn.Conv2d(32, 64, 1), nn.Conv2d(64, 64, 3, padding=1, groups=64)
        self.wide_norm = nn.BatchNorm2d(64) if norm == "batch" else nn.Identity()
        self.narrow = nn.Conv2d(64, 32, 1)
        self.scale = nn.Parameter(torch.rand(40, 1, 1))
        self.side = nn.Conv2d(3, 16, 3, padding=1)
        self.joined = nn.Conv2d(48, 40, 3, padding=1)
        self.head = nn.Linear(40 * 4, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        stem = F.relu(self.norm(self.stem(x)))
        h = self.narrow(F.relu(self.wide_norm(self.depthwise(self.wide(stem)))))
        h = torch.cat([stem + h, F.relu(self.side(x))], dim=1)
        return self.head(F.adaptive_max_pool2d(F.relu(self.joined(h) * self.scale), 2).flatten(1))


class Words(nn.Module):
    """A transformer block on vectors, whose attention stays whole: it reads the input itself."""

    def __init__(self, num_classes: int = 3):
        super().__init__()
        self.attention = nn.TransformerEncoderLayer(16, 2, 64, batch_first=True)
        self.head = nn.Linear(16, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(x).mean(1))


class Series(nn.Module):
    """A recurrent layer, which stays whole, before a perceptron with a layer norm."""

    def __init__(self, num_classes: int = 3):
        super().__init__()
        self.read = nn.LSTM(4, 12, batch_first=True)
        self.head = nn.Sequential(nn.Linear(12, 20), nn.LayerNorm(20), nn.ReLU(), nn.Linear(20, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.read(x)[0][:, -1])


PICTURE, WORDS = (3, 6, 6), (5, 16)


def randomised(body: AnyBody) -> AnyBody:
    """Give a network random parameters, and running statistics that are not their initial values."""
    for name, value in body.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape) + 0.5 if name.endswith("var") else torch.randn(value.shape) / 4)
    return body.eval()


def random_part(sizes: dict[str, int], seed: int) -> Coverage:
    """Return some indices of every axis but those of classes and modules."""
    generator = np.random.default_rng(seed)
    return {
        axis: torch.from_numpy(np.sort(generator.choice(n, int(generator.integers(1, n + 1)), replace=False)))
        for axis, n in sizes.items()
        if axis != "classes" and not axis.endswith(".modules")
    }


def assert_parts_are_exact(architecture: Architecture, seed: int) -> None:
    """Cut, run, and merge into zeros, for channels drawn by the seed. Layer norms, which mix channels, do nothing."""
    body, x = randomised(architecture.whole()), torch.randn(4, *architecture.input_shape)  # type: ignore[arg-type]
    groups = groups_of(architecture)
    coverage = random_part({axis: n // groups[axis] for axis, n in architecture.sizes.items()}, seed)
    coverage = {a: (kept[:, None] * groups[a] + torch.arange(groups[a])).flatten() for a, kept in coverage.items()}
    part = architecture.part(coverage).eval()
    part.load_state_dict(extract(body.state(), body.axes(), coverage))
    merged = WeightedSum(body.axes(), body.state())
    merged.add(part.state(), coverage, 2.0)
    for name, value in merged.finish(body.state()).items():
        assert torch.equal(value, body.state()[name])
    zeroed = architecture.part({}).eval()
    zeroed.load_state_dict(merged.finish({name: torch.zeros_like(value) for name, value in body.state().items()}))
    for module in [*zeroed.modules(), *part.modules()]:
        if isinstance(module, nn.LayerNorm):
            module.register_forward_hook(lambda norm, args, out: args[0])
    with torch.no_grad():
        out, expected = part(x), zeroed(x)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5 * max(1.0, float(expected.abs().max())))


class Scaled(Picture):
    """torch-pruning takes this concatenation for a sum: its channels must stay whole, and everything else be right."""

    def __init__(self, num_classes: int = 3):
        super().__init__(num_classes)
        self.before = nn.Parameter(torch.rand(32, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.cat([self.norm(self.stem(x)) * self.before, F.relu(self.side(x))], dim=1)
        h = F.relu(self.joined(h) * self.scale)
        return self.head(F.adaptive_max_pool2d(h, 2).flatten(1))


@pytest.mark.parametrize("make", [Picture, Scaled])
@pytest.mark.parametrize("seed", range(5))
def test_a_sub_model_is_the_whole_with_the_other_channels_zeroed(make: type[Picture], seed: int) -> None:
    torch.manual_seed(seed)
    assert_parts_are_exact(from_module(make, PICTURE, 3), seed)


def test_what_belongs_together_is_one_axis() -> None:
    body = from_module(Picture, PICTURE, 3).part({})
    axes = body.axes()
    assert axes["net.stem.weight"] == ("stem", None, None, None)
    assert axes["net.narrow.bias"] == ("stem",) and axes["net.scale"] == ("joined", None, None)
    assert axes["net.norm.running_var"] == ("stem",) and axes["net.norm.num_batches_tracked"] == ()
    wide = Joined(((("wide.modules", 1), ("wide.hidden", 64)),))  # what ECLM cuts into modules
    assert axes["net.wide.weight"][0] == axes["net.depthwise.bias"][0] == axes["net.narrow.weight"][1] == wide
    assert axes["net.joined.weight"][1] == Joined(((("stem", 32),), (("side", 16),)))
    assert axes["net.head.weight"] == ("classes", Joined(((("joined", 40), (None, 4)),)))


@pytest.mark.parametrize("modules", [4, 8])
def test_eclm_cuts_layers_into_modules_that_gates_switch(modules: int) -> None:
    dense = from_module(Picture, PICTURE, 3)
    body, x = randomised(dense.whole()), torch.randn(5, *PICTURE)  # type: ignore[arg-type]
    modular, state = modularize(dense, body.state(), modules, modules)
    whole = modular.part({}).eval()
    whole.load_state_dict(state)
    assert whole.layers == ("wide.modules",)
    assert torch.equal(whole(x, [torch.ones(5, modules)]), body(x))
    kept = torch.tensor([1, 3])
    part = modular.part({"wide.modules": kept}).eval()
    part.load_state_dict(extract(state, whole.axes(), {"wide.modules": kept}))
    gates = torch.zeros(5, modules)
    gates[:, kept] = torch.tensor([0.5, 2.0])
    torch.testing.assert_close(part(x, [gates[:, kept]]), whole(x, [gates]))


def test_importance_weighs_the_channels_of_each_module() -> None:
    """By hand: two clients hold modules 0, 1 and 1, 2 of three modules with two channels each."""
    axes = {"w": (Joined(((("l.modules", 3), ("l.hidden", 2)),)), None), "b": ("out",)}
    like = {"w": torch.zeros(6, 1), "b": torch.zeros(1)}
    total = WeightedSum(axes, like)
    for modules, weights, value in (([0, 1], [1.0, 3.0], 1.0), ([1, 2], [1.0, 2.0], 5.0)):
        part = {"w": torch.full((4, 1), value), "b": torch.tensor([value])}
        total.add(part, {"l.modules": torch.tensor(modules)}, 1.0, {"l.modules": torch.tensor(weights)})
    mean = total.finish(like)
    assert mean["w"].flatten().tolist() == [1, 1, 2, 2, 5, 5]  # (3 * 1 + 1 * 5) / 4 = 2
    assert mean["b"].item() == 3


@pytest.mark.parametrize("make", [Words, Series])
def test_what_cannot_be_cut_stays_whole_and_says_why(make: Callable[[], nn.Module]) -> None:
    shape = WORDS if make is Words else (7, 4)
    architecture = from_module(make, shape, 3)
    body = architecture.whole()
    assert isinstance(body, AnyBody)
    half = architecture.part(width(architecture, 0.5))
    attention, wide = (
        ("attention.self_attn.in_proj_weight", "attention.linear1")
        if make is Words
        else ("read.weight_ih_l0", "head.0")
    )
    assert body.axes()[f"net.{attention}"] == (None, None)
    assert half.get_submodule(f"net.{wide}").weight.shape[0] == (32 if make is Words else 10)
    assert half(torch.randn(2, *shape)).shape == (2, 3)
    if make is Words:
        assert "embedding dimension" in body.found.whole["attention.self_attn"]
    else:
        assert body.found.whole == {"read": "recurrent layers keep their width"}


class Fixed(nn.Module):
    """Its forward has a width written into it."""

    def __init__(self, num_classes: int = 3):
        super().__init__()
        self.first, self.second = nn.Linear(4, 24), nn.Linear(24, 10)
        self.head = nn.Linear(10, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.second(F.relu(self.first(x)).view(-1, 2, 12).flatten(1))))


def test_an_axis_that_does_not_run_in_half_stays_whole() -> None:
    body = from_module(Fixed, (4,), 3).whole()
    assert isinstance(body, AnyBody)
    assert "first" not in body.sizes and body.sizes["second"] == 10
    assert "first" in body.found.whole


class Two(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class Closure(nn.Module):
    """Its function refers to the module, so a copy would use the layers of the original."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.Linear(4, 8), nn.Linear(8, 3)
        self.run = lambda x: self.a(x).relu()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.run(x))


class Extra(nn.Linear):
    def get_extra_state(self) -> dict[str, int]:
        return {}


class Masked(nn.Linear):
    def __init__(self, mask: Tensor):
        super().__init__(4, 3)
        self.register_buffer("mask", mask)


class Locked(nn.Linear):
    def __init__(self) -> None:
        super().__init__(4, 3)
        self.lock = threading.Lock()


class Chooses(nn.Linear):
    """Chooses what to compute by the values of a batch."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.sum() > 0 else -x)


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(nn.Linear(4, 3))


class Compiled(nn.Module):
    """As torch.compile makes it."""

    def __init__(self) -> None:
        super().__init__()
        self._orig_mod = nn.Linear(4, 3)


class Complex(nn.Linear):
    def __init__(self) -> None:
        super().__init__(4, 3)
        self.phase = nn.Parameter(torch.zeros(3, dtype=torch.cfloat))


class Auxiliary(nn.Linear):
    """Returns two results in training."""

    def forward(self, x: Tensor) -> Any:
        out = super().forward(x)
        return (out, out) if self.training else out


@pytest.mark.parametrize(
    "module, message",
    [
        (Two(), r"does not run on one batch of shape \(2, 4\) \(TypeError: .*its forward must take one float32 tensor"),
        (nn.Linear(4, 5), r"returns \(2, 5\) for a batch of 2; it must return logits \(2, 3\)"),
        (nn.LSTM(4, 3), "returns tuple"),
        (nn.Linear(4, 3).double(), "RuntimeError: .*must take one float32 tensor"),
        (Closure(), "a copy of the model does not compute what the model computes: use methods"),
        (Locked(), "the model cannot be copied .*lock"),
        (scripted(), "the model is a RecursiveScriptModule: give the nn.Module"),
        (nn.Sequential(nn.DataParallel(nn.Linear(4, 3))), "0 is a DataParallel: give the nn.Module"),
        (Compiled(), "the model is a Compiled: give the nn.Module that it was made of"),
        (nn.Linear(4, 3).requires_grad_(False), "the model has no parameters to train"),
        (Complex(), "phase in the model's state is not a tensor of finite real numbers"),
        (Masked(torch.eye(3).to_sparse()), "mask in the model's state is not a tensor of finite real numbers"),
        (Extra(4, 3), "_extra_state in the model's state is not a tensor of finite real numbers"),
        (Masked(torch.ones(4, dtype=torch.bool)), "mask in the model's state .*persistent=False"),
        (Masked(torch.tensor(-torch.inf)), "mask in the model's state .*persistent=False"),
        (Auxiliary(4, 3), "the model in training returns tuple"),
        (Chooses(4, 3), "does not run on shapes without numbers"),
    ],
)
def test_modules_that_do_not_classify_are_refused(module: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_module(module, (4,), 3)


def test_seeds_initialise_and_pretrained_weights_stay() -> None:
    architecture = from_module(Picture, PICTURE, 3)
    before = torch.random.get_rng_state()
    first, again, other = (architecture.whole(seed).state()["net.stem.weight"] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)
    trained = Picture()
    assert torch.equal(from_module(trained, PICTURE, 3).whole(5).state()["net.stem.weight"], trained.stem.weight)


def test_costs_of_modules_add_up() -> None:
    modular = from_module(Picture, PICTURE, 3).modular(8, 8)
    costs = CostModel(modular, batch_size=4)
    alone = CostModel(from_module(Picture, PICTURE, 3), batch_size=4).whole
    assert costs.whole.params == alone.params and costs.whole.macs == alone.macs
    assert costs.of({"wide.modules": 8}).params == costs.whole.params


def test_torchvision_networks_are_named_in_the_run_config() -> None:
    from torchvision.models import resnet18

    architecture = architecture_of(resnet18, (3, 32, 32), 10, layers=3)
    whole, half = (sum(v.numel() for v in architecture.part(width(architecture, r)).parameters()) for r in (1.0, 0.5))
    assert len(architecture.part({}).layers) == 3
    assert 3.9 < whole / half < 4.1


class Small(nn.Module):
    """Layers by name; each test gives its own forward."""

    def __init__(self, forward: Callable[..., Tensor], **layers: nn.Module):
        super().__init__()
        self.run = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def tied() -> nn.Module:
    layers = {"a": nn.Linear(8, 32), "b": nn.Linear(32, 32), "c": nn.Linear(32, 32), "head": nn.Linear(32, 3)}
    net = Small(lambda n, x: n.head(n.c(n.b(n.a(x).relu()).relu()).relu()), **layers)
    net.c.weight = net.b.weight
    return net


def between(function: Callable[[Tensor], Tensor], reads: int = 32) -> nn.Module:
    """A function of 32 channels between two layers."""
    layers = {"a": nn.Linear(8, 32), "b": nn.Linear(reads, 40), "head": nn.Linear(40, 3)}
    return Small(lambda n, x: n.head(n.b(function(n.a(x).relu())).relu()), **layers)


def picture(*layers: nn.Module, reads: int = 32) -> nn.Module:
    """Layers on 32 channels of a picture."""
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(nn.Conv2d(2, 32, 3), *layers, nn.Conv2d(reads, 40, 1), nn.ReLU(), *pool, nn.Linear(40, 3))


def reordered() -> nn.Module:
    layers = {"a": nn.Conv2d(2, 32, 3, padding=1), "b": nn.Linear(32 * 16, 40), "head": nn.Linear(40, 3)}
    return Small(lambda n, x: n.head(n.b(n.a(x).relu().permute(0, 2, 3, 1).flatten(1)).relu()), **layers)


def with_input() -> nn.Module:
    layers = {"a": nn.Linear(8, 32), "b": nn.Linear(40, 40), "head": nn.Linear(40, 3)}
    return Small(lambda n, x: n.head(n.b(torch.cat([x, n.a(x).relu()], 1)).relu()), **layers)


@pytest.mark.parametrize(
    "make, shape, whole",
    [
        (tied, (8,), {"a", "b", "c"}),
        (reordered, (2, 4, 4), {"a"}),
        (with_input, (8,), {"a"}),
        (partial(between, lambda h: h + h.flip(1)), (8,), {"a"}),
        (partial(between, lambda h: h.softmax(1)), (8,), {"a"}),
        (partial(between, lambda h: h.cumsum(1)), (8,), {"a"}),
        (partial(between, lambda h: F.glu(h), 16), (8,), {"a"}),
        (partial(between, lambda h: h.unflatten(1, (2, 16)).transpose(1, 2).flatten(1)), (8,), {"a"}),
        (partial(picture, nn.PReLU()), (2, 4, 4), set()),
        (partial(picture, nn.GroupNorm(4, 32)), (2, 4, 4), set()),
        (partial(picture, nn.GroupNorm(4, 32, affine=False)), (2, 4, 4), {"0"}),
        (partial(picture, nn.InstanceNorm2d(32, affine=True)), (2, 4, 4), set()),
        (partial(picture, nn.LocalResponseNorm(5, 1.0)), (2, 4, 4), {"0"}),
        (partial(picture, nn.Conv2d(32, 64, 1, groups=32), reads=64), (2, 4, 4), {"0", "1"}),
        (partial(picture, nn.ConvTranspose2d(32, 24, 2), nn.ReLU(), reads=24), (2, 4, 4), set()),
        (partial(picture, nn.ConvTranspose2d(32, 32, 2, groups=32), nn.ReLU()), (2, 4, 4), {"0"}),
        (partial(picture, nn.PixelShuffle(2), reads=8), (2, 4, 4), {"0"}),
    ],
)
def test_channels_that_depend_on_each_other_stay_whole(
    make: Callable[[], nn.Module], shape: tuple[int, ...], whole: set[str]
) -> None:
    architecture = from_module(make, shape, 3)
    body = architecture.part({})
    assert isinstance(body, AnyBody) and set(body.found.whole) == whole
    for seed in range(3):
        assert_parts_are_exact(architecture, seed)


def embedded() -> nn.Module:
    layers = {"a": nn.Embedding(2, 32), "b": nn.Linear(32, 40), "head": nn.Linear(40, 3)}
    return Small(lambda n, x: n.head(n.b(n.a(x.gt(0).long()).mean(1)).relu()), **layers)


def frozen() -> nn.Module:
    net = picture(nn.BatchNorm2d(32), nn.ReLU())
    for layer in net[:2]:
        layer.requires_grad_(False)
    return net


@pytest.mark.parametrize("make, shape, axis", [(embedded, (6,), "a"), (frozen, (2, 4, 4), "0.hidden")])
def test_embeddings_and_frozen_layers_are_cut(make: Callable[[], nn.Module], shape: tuple[int, ...], axis: str) -> None:
    net = make()
    before = [parameter.requires_grad for parameter in net.parameters()]
    architecture = from_module(net, shape, 3)
    assert architecture.sizes[axis] == 32
    assert [parameter.requires_grad for parameter in net.parameters()] == before
    assert [parameter.requires_grad for parameter in architecture.part({}).parameters()] == before
    for seed in range(3):
        assert_parts_are_exact(architecture, seed)


def test_what_is_in_no_group_of_channels_is_named() -> None:
    layers = {"a": nn.EmbeddingBag(2, 32), "b": nn.GRUCell(32, 32), "head": nn.Linear(32, 3)}
    net = Small(lambda n, x: n.head(F.linear(n.b(n.a(x.gt(0).long())), n.kernel)), **layers)
    net.kernel = nn.Parameter(torch.rand(32, 32))
    body = from_module(net, (6,), 3).part({})
    assert isinstance(body, AnyBody)
    assert body.found.whole == dict.fromkeys(["a", "b", "kernel"], "its channels could not be followed")


def folded() -> nn.Module:
    """Pixels become samples, so that the gates of a sample do not fit."""
    layers = {"a": nn.Linear(8, 32), "b": nn.Linear(32, 40), "head": nn.Linear(40, 3)}
    return Small(lambda n, x: n.head(n.b(n.a(x.flatten(0, 1)).relu()).relu().unflatten(0, (-1, 2)).sum(1)), **layers)


def summed() -> nn.Module:
    """The channels are also read without a layer."""
    layers = {"a": nn.Linear(8, 32), "b": nn.Linear(32, 3)}
    return Small(lambda n, x: n.b(h := n.a(x).relu()) + F.pad(h.sum(1, keepdim=True), (0, 2)), **layers)


@pytest.mark.parametrize("make, shape", [(folded, (2, 8)), (summed, (8,))])
def test_channels_that_gates_cannot_switch_are_no_modules(make: Callable[[], nn.Module], shape: tuple[int]) -> None:
    architecture = from_module(make, shape, 3)
    body = architecture.part({})
    assert isinstance(body, AnyBody) and "a.modules" not in body.layers
    assert_parts_are_exact(architecture, 0)


def test_logits_that_are_random_in_evaluation_leave_the_model_whole() -> None:
    body = from_module(partial(between, lambda h: F.dropout(h)), (8,), 3).part({})
    assert isinstance(body, AnyBody) and "dropout needs self.training" in body.found.whole["the model"]
    assert body.sizes == {"classes": 3}


def test_lazy_layers_take_their_shapes_from_a_sample() -> None:
    make = partial(nn.Sequential, nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(3))
    first, again, other = (
        from_module(lambda: copy.deepcopy(make()), (4,), 3).whole(seed).state()["net.0.weight"] for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("make, shape", [(Picture, PICTURE), (partial(between, lambda h: h), (8,))])
def test_modular_networks_have_initial_weights(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    """As `modularize` cuts them: the slices of the dense network, repeated if there are more modules than slices."""
    dense = from_module(make, shape, 3)
    modular, expected = modularize(dense, dense.whole(3).state(), 8, 4)
    found = modular.whole(3).state()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_layers_may_be_called_with_their_input_by_name() -> None:
    layers = {"a": nn.Linear(8, 32), "b": nn.Linear(32, 40), "head": nn.Linear(40, 3)}
    run = lambda n, x: n.head(input=n.b(input=n.a(input=x).relu()).relu())  # noqa: E731
    dense = from_module(Small(run, **layers), (8,), 3)
    body, x = dense.whole().eval(), torch.randn(2, 8)
    assert body.layers == ("a.modules", "b.modules")
    assert torch.equal(body(x, [torch.ones(2, 1)] * 2), body(x))
    assert torch.equal(body(x, [torch.ones(2, 1), torch.zeros(2, 1)]), layers["head"].bias.expand(2, 3))


@pytest.mark.parametrize("persistent", [True, False])
def test_buffers_move_with_the_network(persistent: bool) -> None:
    net = between(lambda h: h)
    net.register_buffer("scale", torch.full((8,), 2.0), persistent)
    net.run = lambda n, x: n.head(n.b(n.a(x * n.scale).relu()))  # type: ignore[assignment]
    assert CostModel(from_module(net, (8,), 3), batch_size=4).whole.macs == 8 * 32 + 32 * 40 + 40 * 3


def test_layer_norms_with_channels_first_are_cut() -> None:
    from torchvision.models.convnext import LayerNorm2d

    net = nn.Sequential(
        nn.Conv2d(3, 32, 1), LayerNorm2d(32), nn.ReLU(), nn.Conv2d(32, 24, 1), LayerNorm2d(24),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 3),
    )  # fmt: skip
    architecture = from_module(net, (3, 8, 8), 3)
    assert architecture.sizes == {"0": 32, "3": 24, "classes": 3}


class Heads(nn.Module):
    """An attention written by hand."""

    def __init__(self, width: int, heads: int, apart: bool):
        super().__init__()
        self.n_heads, self.d_model = heads, width
        self.makers = nn.ModuleList([nn.Linear(width, width) for _ in range(3)] if apart else [])
        self.qkv = None if apart else nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (make(x) for make in self.makers) if self.qkv is None else self.qkv(x).chunk(3, dim=-1)
        q, k, v = (h.unflatten(2, (self.n_heads, -1)).transpose(1, 2) for h in (q, k, v))
        h = (q @ k.transpose(2, 3) / q.shape[3] ** 0.5).softmax(3) @ v
        return self.out(h.transpose(1, 2).reshape(x.shape[0], -1, self.d_model))


@pytest.mark.parametrize("kind", ["by hand", "by hand, apart", "torch"])
def test_attention_is_cut_by_whole_heads(kind: str) -> None:
    theirs = kind == "torch"
    inner = nn.MultiheadAttention(24, 3, batch_first=True) if theirs else Heads(24, 3, kind.endswith("apart"))
    layers = {"embed": nn.Linear(5, 24), "inner": inner, "head": nn.Linear(24, 3)}

    def run(n: Small, x: Tensor) -> Tensor:
        h = n.embed(x)
        return n.head((h + (n.inner(h, h, h)[0] if theirs else n.inner(h))).mean(1))

    architecture = from_module(Small(run, **layers), (4, 5), 3)
    body = architecture.part({})
    assert isinstance(body, AnyBody) and body.found.whole == {}
    assert architecture.sizes == {"embed": 24, "classes": 3} and groups_of(architecture)["embed"] == 8
    part = architecture.part(width(architecture, 1 / 3)).get_submodule("net.inner")
    assert (part.num_heads if theirs else part.n_heads) == 1
    for seed in range(3):
        assert_parts_are_exact(architecture, seed)


def test_what_is_around_heads_of_a_fixed_number_is_cut_without_them() -> None:
    class Fixed(Heads):
        def forward(self, x: Tensor) -> Tensor:
            assert self.qkv is not None
            q, k, v = (h.unflatten(2, (3, 8)).transpose(1, 2) for h in self.qkv(x).chunk(3, dim=-1))
            h = (q @ k.transpose(2, 3)).softmax(3) @ v
            return self.out(h.transpose(1, 2).flatten(2))

    layers = {"embed": nn.Linear(5, 24), "inner": Fixed(24, 3, False), "head": nn.Linear(24, 3)}
    architecture = from_module(Small(lambda n, x: n.head(n.inner(n.embed(x)).mean(1)), **layers), (4, 5), 3)
    assert {"embed", "inner.out"} <= architecture.sizes.keys()
    for seed in range(3):
        assert_parts_are_exact(architecture, seed)


@pytest.mark.parametrize(
    "names, layers, expected",
    [("a", 0, "a"), ("b.modules", 0, "b"), ("b, a", 0, "ab"), ("[ab]*", 0, "ab"), ("*", 1, "b"), ("", 0, "ab")],
)
def test_module_layers_are_chosen_by_name(names: str, layers: int, expected: str) -> None:
    body = from_module(between(lambda h: h), (8,), 3, layers, names).part({})
    assert body.layers == tuple(f"{name}.modules" for name in expected)


def test_names_of_layers_that_cannot_be_modules_are_refused_with_a_reason() -> None:
    said = "model.module-names = 'a,x*': ECLM cannot cut 'x*' into modules; choose from a, b"
    with pytest.raises(ValueError, match=re.escape(said)):
        from_module(between(lambda h: h), (8,), 3, module_names="a,x*")
    with pytest.raises(ValueError, match="cannot cut 'a' into modules, because RuntimeError: .*; choose from b$"):
        from_module(folded(), (2, 8), 3, module_names="a")
