"""Converted torchvision weights compute the same in our blocks as in torchvision's."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.vgg import make_layers

from models.modular.modularize import modularize
from models.nn.body import Architecture
from models.nn.resnet import ResNet, resnet18, resnet34
from models.nn.torchvision_layout import from_torchvision
from models.nn.vgg import VGG, vgg16
from models.submodel import State


def with_random_norms(network: nn.Module) -> nn.Module:
    """Return the network in evaluation mode, with random running statistics and affine maps."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for value, low, high in ((layer.running_mean, -0.3, 0.3), (layer.running_var, 0.5, 2.0)):
                nn.init.uniform_(value, low, high)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, -0.2, 0.2)
        elif isinstance(layer, nn.Conv2d) and layer.bias is not None:
            nn.init.uniform_(layer.bias, -0.3, 0.3)
    return network.eval()


def resnet(make: Callable[..., nn.Module], classes: int = 5) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return with_random_norms(make(weights=None, num_classes=classes))


def vgg(width: int) -> nn.Module:
    """Build the convolutional part of vgg16_bn, narrower by 64 / width; the linear part would take 500 MB."""
    widths = [w if w == "M" else w * width for w in (1, 1, "M", 2, 2, "M", 4, 4, 4, "M", 8, 8, 8, "M", 8, 8, 8, "M")]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return with_random_norms(nn.ModuleDict({"features": make_layers(widths, batch_norm=True)}))  # type: ignore[arg-type]


def built(dense: Architecture, state: State) -> ResNet | VGG:
    body = dense.part({}).eval()
    body.load_state_dict(state)
    assert isinstance(body, ResNet | VGG)
    return body


def image(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("make", "dense"),
    [
        (torchvision.models.resnet18, resnet18((3, 32, 32), 10, norm="batch")),
        (torchvision.models.resnet34, resnet34((3, 32, 32), 10, norm="batch")),
    ],
    ids=["resnet18", "resnet34"],
)
@torch.no_grad()
def test_stages_of_a_resnet_equal_torchvisions(make: Callable[..., nn.Module], dense: Architecture) -> None:
    theirs = resnet(make)
    state, initial = from_torchvision(dense, theirs.state_dict())
    body = built(dense, state)
    x = image(2, 64, 8, 6).relu()
    for s, stage in enumerate(body.stages):
        expected = theirs.get_submodule(f"layer{s + 1}")(x)
        got = x
        for block in stage.children():
            got = block(got, None)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
        x = expected / expected.std()
    stem_norm = [f"stem_norm.{n}" for n in ("bias", "mean", "var", "weight")]
    assert initial == ["head.bias", "head.weight", "stem", *stem_norm]  # 7 x 7 and 5 classes do not fit


@torch.no_grad()
def test_a_resnet_with_the_cifar_stem_converts_as_a_whole() -> None:
    theirs = resnet(torchvision.models.resnet18)
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    dense = resnet18((3, 16, 16), 5, norm="batch")
    state, initial = from_torchvision(dense, theirs.state_dict())
    assert initial == []
    x = image(3, 3, 16, 16)
    expected = theirs(x)
    torch.testing.assert_close(built(dense, state)(x), expected, rtol=1e-4, atol=1e-4)
    modular, modular_state = modularize(dense, state, modules=8, shrink=8)
    torch.testing.assert_close(built(modular, modular_state)(x), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_convolutions_of_a_vgg_equal_torchvisions() -> None:
    theirs = vgg(8)
    dense = vgg16((3, 32, 32), 10, width=8, norm="batch")
    state, initial = from_torchvision(dense, {**theirs.state_dict(), "classifier.0.weight": torch.zeros(9, 9)})
    body = built(dense, state)
    x = image(2, 3, 64, 32)
    expected = theirs.get_submodule("features")(x).mean((2, 3))
    torch.testing.assert_close(body(x), F.linear(expected, body.head.weight, body.head.bias), rtol=1e-4, atol=1e-4)
    assert initial == ["head.bias", "head.weight"]


@pytest.mark.parametrize(
    ("dense", "make", "message"),
    [
        (resnet18((3, 8, 8), 5), lambda: resnet(torchvision.models.resnet18), "the model has norm 'group'"),
        (
            resnet18((3, 8, 8), 5, width=16, norm="batch"),
            lambda: resnet(torchvision.models.resnet18),
            "has shape .* build it with the width",
        ),
        (
            resnet18((3, 8, 8), 5, norm="batch"),
            lambda: resnet(torchvision.models.resnet34),
            "'layer1.2.bn1.bias' is in only one of the two",
        ),
        (vgg16((3, 8, 8), 5, width=8, norm="batch"), lambda: vgg(16), "has shape .* build it with the width"),
        (
            vgg16((3, 8, 8), 5, width=8, norm="batch"),
            lambda: resnet(torchvision.models.resnet18),
            "not those of a VGG with norms and 13 convolutions",
        ),
    ],
)
def test_weights_of_another_model_are_refused(dense: Architecture, make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_torchvision(dense, make().state_dict())
