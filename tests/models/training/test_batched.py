"""A stack of devices against the same devices one by one."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from models.modular.selector import Routing
from models.nn.body import Architecture, Body, columns_coverage, gate_columns
from models.nn.mlp import MLP, mlp
from models.nn.resnet import resnet18
from models.submodel import State
from models.training.batched import STACKS, ClientBatch, fit_many, stackable
from models.training.dual import worth
from models.training.loop import LogitCorrection, Recipe, fit

DENSE = mlp((6,), 4, width=16)
SIZES = (37, 5, 16, 33, 1, 20)  # samples of six devices: one to three batches of 16, whole and not


@pytest.fixture(params=["weights", "coefficients", "whichever is less work"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the first map is trained; Adam knows one way only."""
    if request.param != "whichever is less work":
        forced = request.param == "coefficients"
        monkeypatch.setattr("models.training.product.ENOUGH", 1)
        monkeypatch.setattr(
            "models.training.batched.worth", lambda n, i, o, recipe, e: forced and recipe.optimizer == "sgd"
        )
    return request.param


def lessons_of(body: Body, gated: bool, dtype: torch.dtype = torch.float64) -> list[ClientBatch]:
    """Six devices with models and data of their own."""
    out = []
    for device, n in enumerate(SIZES):
        g = torch.Generator().manual_seed(device)
        state = {name: 0.5 * torch.randn(v.shape, generator=g, dtype=dtype) for name, v in body.state_dict().items()}
        x, y = torch.randn(n, 6, generator=g, dtype=dtype), torch.randint(0, 3, (n,), generator=g)
        widths = [len(gate_columns(body.sizes, layer)) for layer in body.layers]
        gates = [Routing(3, 4.0).gates(torch.randn(n, width, generator=g, dtype=dtype)) for width in widths]
        shares = torch.bincount(y, minlength=4).to(dtype) / n
        out.append(ClientBatch(state, x, y, np.random.default_rng(device), gates if gated else None, shares))
    return out


def one_by_one(
    body: Body, lessons: list[ClientBatch], recipe: Recipe, epochs: int, masking: LogitCorrection
) -> list[tuple[State, float]]:
    out = []
    for lesson in lessons:
        body.load_state_dict(lesson.state)
        g, shares = lesson.generator, lesson.shares if masking != "none" else None
        loss = fit(body, lesson.x, lesson.y, recipe, epochs, g, lesson.gates, shares, masking)
        out.append((body.state(), loss))
    return out


def equal(body: Body, gated: bool, recipe: Recipe, epochs: int = 3, masking: LogitCorrection = "none") -> None:
    body = body.double()
    wanted = one_by_one(body, lessons_of(body, gated), recipe, epochs, masking)
    lessons = lessons_of(body, gated)
    if masking == "none":
        lessons = [replace(lesson, shares=None) for lesson in lessons]
    made = fit_many(body, lessons, recipe, epochs, masking)
    for lesson, (state, loss), (expected, expected_loss) in zip(lessons, made, wanted, strict=True):
        assert loss == pytest.approx(expected_loss, rel=1e-9, nan_ok=True)
        assert state.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(state[name], value, rtol=1e-8, atol=1e-10, msg=name)
            sent = lesson.state[name]  # to others too
            assert state[name].data_ptr() != sent.data_ptr() or not sent.numel()


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(lr=0.1, momentum=0.0),
        Recipe(lr=0.1, momentum=0.0, clip=0.3),
        Recipe(lr=0.1, momentum=0.0, weight_decay=0.1),
        Recipe(lr=0.05, momentum=0.9, clip=0.5),
        Recipe(lr=0.05, momentum=0.9, clip=0.5, weight_decay=0.1),
        Recipe(lr=0.01, optimizer="adam"),
        Recipe(lr=0.01, optimizer="adam", clip=0.5, weight_decay=0.1),
    ],
)
def test_a_stack_takes_the_steps_of_each_device_alone(recipe: Recipe) -> None:
    equal(DENSE.part({}), False, recipe)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(("residual", "kept"), [(False, [0, 3, 6]), (True, [0, 3, 6]), (True, [1, 2, 8]), (True, [8])])
def test_gates_and_residual_modules(residual: bool, kept: list[int]) -> None:
    """Module 8 is the residual one; with it alone no shrunk module is there."""
    modular = DENSE.modular(8, 8, residual)
    body = modular.part(columns_coverage(modular.sizes, {"block.modules": np.array(kept)}))
    equal(body, True, Recipe(lr=0.05, clip=0.5, weight_decay=0.1))
    equal(body, False, Recipe(lr=0.05, clip=0.5, weight_decay=0.1))


@pytest.mark.usefixtures("way")
def test_a_residual_module_without_a_map() -> None:
    modular = Architecture(DENSE.build, {**DENSE.sizes, "out": 6}, (6,)).modular(8, 8, residual=True)
    body = modular.part({})
    assert isinstance(body, MLP) and body.block.bypass is not None and body.block.bypass.map is None
    equal(body, True, Recipe(lr=0.05))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("masking", ["zero", "prior"])
def test_masked_logits(masking: LogitCorrection) -> None:
    """Class 3 occurs nowhere, and the device of one sample has one class."""
    equal(DENSE.part({}), False, Recipe(lr=0.05), masking=masking)


@pytest.mark.usefixtures("way")
def test_the_scaler_and_no_epochs() -> None:
    body = DENSE.part({})
    body.rate = 0.5
    equal(body, False, Recipe(lr=0.05))
    equal(body, False, Recipe(lr=0.05), epochs=0)


@pytest.mark.usefixtures("way")
def test_in_single_precision_the_difference_is_rounding() -> None:
    body, recipe = DENSE.part({}), Recipe(lr=0.05, clip=1.0)
    wanted = one_by_one(body, lessons_of(body, False, torch.float32), recipe, 5, "none")
    for (state, _), (expected, _) in zip(
        fit_many(body, lessons_of(body, False, torch.float32), recipe, 5), wanted, strict=True
    ):
        for name, value in expected.items():
            torch.testing.assert_close(state[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("way")
def test_neighbours_change_nothing() -> None:
    """Alone, in threes or all together: bit for bit, and so whichever process a device falls to."""
    body, recipe = DENSE.part({}), Recipe(lr=0.05, clip=0.5)
    together = fit_many(body, lessons_of(body, False, torch.float32), recipe, 2)
    lessons = lessons_of(body, False, torch.float32)
    apart = [got for at, to in ((0, 1), (1, 4), (4, 6)) for got in fit_many(body, lessons[at:to], recipe, 2)]
    for (state, loss), (expected, expected_loss) in zip(together, apart, strict=True):
        assert loss == expected_loss and all(torch.equal(state[name], expected[name]) for name in expected)


def test_what_is_less_work() -> None:
    """W2 by hand, in multiplications of one kind: 2 x 143,616 + 56,100 + 76,800 = 420,132 of 861,696 by the weight."""
    sgd = Recipe(momentum=0.0)
    assert worth(100, 561, 256, sgd, 3) and worth(100, 561, 256, Recipe(), 10)
    assert not worth(100, 561, 256, Recipe(optimizer="adam"), 3)
    assert not worth(100, 561, 256, sgd, 1)  # a sample is met once: nothing to save
    assert worth(267, 561, 256, sgd, 2) and not worth(268, 561, 256, sgd, 2)  # 268 (561 + 2 * 256) > 2 * 143,616


@pytest.mark.parametrize(("dual", "numbers"), [(False, 568), (True, 3521)])
def test_stacks_are_of_the_size_that_was_measured(dual: bool, numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is room for two devices, each of 6 * 16 + 16 + 16 * 8 + 8 + 8 * 4 + 4 = 284 parameters and as many
    velocities; by coefficients 37 * 16 take the place of 96 of both, and there are 37 * 37 + 37 * 16 more."""
    seen = []

    class Counted(STACKS[MLP]):  # type: ignore[misc]
        def __init__(self, body: Body, states: list[State], *args: Any):
            seen.append(len(states))
            super().__init__(body, states, *args)

    monkeypatch.setitem(STACKS, MLP, Counted)
    monkeypatch.setattr("models.training.batched.worth", lambda *_: dual)
    monkeypatch.setattr("models.training.batched.STACK_BYTES", 4 * numbers * 2.5)
    body = DENSE.part({})
    fit_many(body, lessons_of(body, False, torch.float32)[:5], Recipe(), 1)
    assert seen == [2, 2, 1]


def test_only_networks_with_passes_written_out_are_stacked() -> None:
    class Other(MLP):
        pass

    how = Recipe()
    assert stackable(DENSE.part({}), how) and not stackable(DENSE.part({}), replace(how, precision="bfloat16"))
    assert not stackable(Other(DENSE.sizes, 6), how) and not stackable(resnet18((3, 8, 8), 3, width=8).part({}), how)
