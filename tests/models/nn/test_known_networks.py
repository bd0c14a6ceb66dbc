"""Networks of torchvision, timm and users: what the table of docs/bring-your-own.md says, on small versions."""

import re
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

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

from models.elastic.nested import width
from models.modular.modularize import modularize
from models.nn.any_module import from_module
from models.submodel import extract
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


def of_timm(name: str, **options: Any) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of its import, which uses torch.jit
        from timm import create_model
    return create_model(name, num_classes=3, embed_dim=24, **options)


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
    "timm vit_tiny": (
        partial(of_timm, "vit_tiny_patch16_224", img_size=16, patch_size=8, depth=2, num_heads=3), IMAGE,
    ),
    "timm resmlp_12": (partial(of_timm, "resmlp_12_224", img_size=32), (3, 32, 32)),
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
