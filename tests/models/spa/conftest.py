"""A base trained for seconds: its texts are meaningless, but it works like any other base."""

from collections.abc import Callable

import pytest
import torch

from models.spa.bases import Base, load
from models.spa.gate import Gate
from models.spa.side import SideSpec, every_nth_state
from models.spa.train import Plugin


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return load("tiny", tmp_path_factory.mktemp("bases"), tiny_steps=40)


@pytest.fixture(scope="session")
def prompt(base: Base) -> list[int]:
    return base.prompt("What is the name of my dog?")


@pytest.fixture
def plugin_of(base: Base) -> Callable[..., Plugin]:
    """Build a plugin whose side changes the output a lot and whose gate opens for about half of the tokens."""

    def make(kind: str = "position-wise", step: int = 2, scale: float = 1.0) -> Plugin:
        side = SideSpec(kind, base.width, every_nth_state(base.layers, step), reduction=4, zero=False).build(1)  # type: ignore[arg-type]
        with torch.no_grad():
            side.out.weight.mul_(scale)
        generator = torch.Generator().manual_seed(3)
        weight = torch.randn(base.width, generator=generator)
        b = base.stack(torch.randint(4, 400, (1, 64), generator=generator))[0, :, -1]
        return Plugin(side, Gate(weight, -(b @ weight).median()))

    return make
