"""Networks of torchvision, timm and users: what the table of docs/bring-your-own.md says, on small versions."""

import re
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import mobilenet_v3_small
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.densenet import DenseNet
from torchvision.models.efficientnet import EfficientNet, MBConvConfig
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.models.vgg import VGG, make_layers
from torchvision.models.vision_transformer import VisionTransformer

from models.costs import cost
from models.elastic.nested import RATES, width
from models.modular.modularize import modularize
from models.nn.any_module import from_module
from models.nn.resnet import resnet18
from models.submodel import State, covered_sizes, extract
from tests.models.nn.test_any_module import assert_parts_are_exact, randomised

PAGE = Path(__file__).resolve().parents[3] / "docs" / "bring-your-own.md"


def vgg() -> nn.Module:
    with torch.device("meta"):  # its classifier, which is replaced, has 120 million parameters
        net = VGG(nn.Identity(), 3, init_weights=False)
    net.features = make_layers([32, "M", 64, "M"], batch_norm=True)
    dense = [nn.Linear(64 * 49, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 64), nn.ReLU(), nn.Dropout()]
    net.classifier = nn.Sequential(*dense, nn.Linear(64, 3))
    return net


class Series(nn.Module):
    """A recurrent layer on series."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.LSTM(4, 32, batch_first=True)
        self.head = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.read(x)[0][:, -1])


def convolutions() -> nn.Module:
    layers = [nn.Conv1d(4, 32, 5), nn.BatchNorm1d(32), nn.ReLU(), nn.Conv1d(32, 24, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(2), nn.Flatten(), nn.Linear(48, 3))


def odd() -> nn.Module:
    return nn.Sequential(nn.Linear(9, 37), nn.ReLU(), nn.Linear(37, 51), nn.Tanh(), nn.Linear(51, 3))


def of_timm(name: str) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of its import, which uses torch.jit
        from timm import models
    blocks = {
        "block_layer": models.mlp_mixer.ResBlock,
        "norm_layer": models.mlp_mixer.Affine,
        "num_blocks": 2,
        "mlp_ratio": 4,
    }
    own = {"depth": 2, "num_heads": 3} if name == "VisionTransformer" else blocks
    return getattr(models, name)(img_size=16, patch_size=8, num_classes=3, embed_dim=24, **own)


IMAGE = (3, 16, 16)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "torchvision resnet18": (partial(ResNet, BasicBlock, [1, 1, 1, 1], 3), IMAGE),
    "torchvision resnet50": (partial(ResNet, Bottleneck, [1, 1, 1, 1], 3), IMAGE),
    "torchvision vgg16_bn": (vgg, IMAGE),
    "torchvision mobilenet_v3_small": (partial(mobilenet_v3_small, num_classes=3, width_mult=0.5), IMAGE),
    "torchvision efficientnet_b0": (
        partial(EfficientNet, [MBConvConfig(1, 3, 1, 16, 8, 1), MBConvConfig(6, 3, 2, 8, 8, 2)], 0.1, 0, 3), IMAGE,
    ),
    "torchvision densenet121": (partial(DenseNet, 8, (2, 2, 2, 2), 16, num_classes=3), (3, 32, 32)),
    "torchvision convnext_tiny": (
        partial(ConvNeXt, [CNBlockConfig(32, 64, 1), CNBlockConfig(64, None, 1)], 0, 1, 3), IMAGE,
    ),
    "torchvision vit_b_16": (partial(VisionTransformer, 16, 8, 2, 3, 24, 48, num_classes=3), IMAGE),
    "timm vit_tiny": (partial(of_timm, "VisionTransformer"), IMAGE),
    "timm resmlp_12": (partial(of_timm, "MlpMixer"), IMAGE),
    "1-D convolutions": (convolutions, (4, 24)),
    "LSTM": (Series, (6, 4)),
    "perceptron with odd widths": (odd, (9,)),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_sub_models_are_exact_and_the_table_is_right(name: str) -> None:
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    architecture = from_module(make(), shape, 3)
    body = randomised(architecture.whole())  # type: ignore[arg-type]
    half = architecture.part(width(architecture, 0.5))
    numbers = [sum(parameter.numel() for parameter in net.parameters()) for net in (body, half)]
    row = re.search(rf"^\| {re.escape(name)} \| (yes|no) \| (yes|no) \|", PAGE.read_text(), re.MULTILINE)
    assert row is not None and row.groups() == tuple(
        "yes" if works else "no" for works in (numbers[1] < numbers[0], body.layers)
    )
    for seed in range(3):
        assert_parts_are_exact(architecture, seed)
    if not body.layers:
        return
    modular, state = modularize(architecture, body.state(), 4, 4)
    whole, kept, x = modular.part({}).eval(), torch.tensor([1, 3]), torch.randn(3, *shape)
    part = modular.part(dict.fromkeys(whole.layers, kept)).eval()
    whole.load_state_dict(state)
    part.load_state_dict(extract(state, whole.axes(), dict.fromkeys(whole.layers, kept)))
    on = torch.zeros(3, 4)
    on[:, kept] = torch.rand(3, 2) + 0.5
    layers = len(whole.layers)
    with torch.no_grad():
        torch.testing.assert_close(whole(x, [torch.ones(3, 4)] * layers), body(x))
        torch.testing.assert_close(part(x, [on[:, kept]] * layers), whole(x, [on] * layers), rtol=1e-4, atol=1e-4)


def theirs() -> nn.Module:
    """torchvision's ResNet18 with the stem and the norms of ours."""
    net = ResNet(BasicBlock, [2, 2, 2, 2], 3, norm_layer=partial(nn.GroupNorm, 8))
    net.conv1, net.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return net


def as_ours(state: State, like: State) -> State:
    """Return the parameters of torchvision's ResNet18 under the names of ours."""
    names = {"net.conv1.weight": "stem", "net.bn1": "stem_norm", "net.fc": "head"}
    for block in (f"{s}.{b}" for s in range(4) for b in range(2)):
        before = f"net.layer{int(block[0]) + 1}.{block[2]}"
        names |= {
            f"{before}.conv1.weight": f"stages.{block}.block.first",
            f"{before}.bn1": f"stages.{block}.block.norm",
        }
        names |= {f"{before}.conv2.weight": f"stages.{block}.block.second", f"{before}.bn2": f"stages.{block}.norm"}
        names |= {f"{before}.downsample.0.weight": f"stages.{block}.project"}
        names |= {f"{before}.downsample.1": f"stages.{block}.project_norm"}
    own = {}
    for name, value in state.items():
        layer, _, kind = name.rpartition(".")
        ours = names[name] if name in names else f"{names[layer]}.{kind}"
        own[ours] = value.reshape(like[ours].shape)
    return own


@pytest.mark.parametrize("rate", RATES[:4])
def test_a_network_that_is_found_equals_the_same_network_written_for_this_project(rate: float) -> None:
    torch.manual_seed(0)
    found, own, x = from_module(theirs(), IMAGE, 3), resnet18(IMAGE, 3), torch.randn(3, *IMAGE)
    whole = randomised(found.whole())  # type: ignore[arg-type]
    kept = width(found, rate), width(own, rate)
    parts = found.part(kept[0]).eval(), own.part(kept[1]).eval()
    parts[0].load_state_dict(extract(whole.state(), whole.axes(), kept[0]))
    of_ours = as_ours(whole.state(), own.part({}).state())
    parts[1].load_state_dict(extract(of_ours, own.part({}).axes(), kept[1]))
    with torch.no_grad():
        torch.testing.assert_close(parts[0](x), parts[1](x))
    prices = [cost(of, covered_sizes(of.sizes, cut), 16) for of, cut in zip((found, own), kept, strict=True)]
    assert prices[0].params == prices[1].params and prices[0].macs == prices[1].macs
    assert prices[0].memory == pytest.approx(prices[1].memory, rel=0.1)
