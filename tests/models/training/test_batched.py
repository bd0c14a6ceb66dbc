"""A stack of clients against the same clients one by one."""

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
from models.training.dual import dual_is_cheaper
from models.training.loop import LogitCorrection, Recipe, fit

DENSE = mlp((6,), 4, width=16)
SIZES = (37, 5, 16, 33, 1, 20)  # samples of six clients: one to three batches of 16, full and partial


@pytest.fixture(params=["weights", "coefficients", "cheaper"])
def first_map_training(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the first map is trained; Adam supports weights only."""
    if request.param != "cheaper":
        use_dual = request.param == "coefficients"
        monkeypatch.setattr("models.training.product.MIN_MACS", 1)
        monkeypatch.setattr(
            "models.training.batched.dual_is_cheaper", lambda n, i, o, recipe, e: use_dual and recipe.optimizer == "sgd"
        )
    return request.param


def client_batches(body: Body, gated: bool, dtype: torch.dtype = torch.float64) -> list[ClientBatch]:
    """Create six clients with different models and data."""
    batches = []
    for client_id, n in enumerate(SIZES):
        g = torch.Generator().manual_seed(client_id)
        state = {name: 0.5 * torch.randn(v.shape, generator=g, dtype=dtype) for name, v in body.state_dict().items()}
        x, y = torch.randn(n, 6, generator=g, dtype=dtype), torch.randint(0, 3, (n,), generator=g)
        widths = [len(gate_columns(body.sizes, layer)) for layer in body.layers]
        gates = [Routing(3, 4.0).gates(torch.randn(n, width, generator=g, dtype=dtype)) for width in widths]
        class_shares = torch.bincount(y, minlength=4).to(dtype) / n
        batches.append(
            ClientBatch(state, x, y, np.random.default_rng(client_id), gates if gated else None, class_shares)
        )
    return batches


def one_by_one(
    body: Body, clients: list[ClientBatch], recipe: Recipe, epochs: int, correction: LogitCorrection
) -> list[tuple[State, float]]:
    results = []
    for client in clients:
        body.load_state_dict(client.state)
        g, class_shares = client.generator, client.class_shares if correction != "none" else None
        loss = fit(body, client.x, client.y, recipe, epochs, g, client.gates, class_shares, correction)
        results.append((body.state(), loss))
    return results


def equal(body: Body, gated: bool, recipe: Recipe, epochs: int = 3, correction: LogitCorrection = "none") -> None:
    body = body.double()
    expected_results = one_by_one(body, client_batches(body, gated), recipe, epochs, correction)
    clients = client_batches(body, gated)
    if correction == "none":
        clients = [replace(client, class_shares=None) for client in clients]
    results = fit_many(body, clients, recipe, epochs, correction)
    for client, (state, loss), (expected, expected_loss) in zip(clients, results, expected_results, strict=True):
        assert loss == pytest.approx(expected_loss, rel=1e-9, nan_ok=True)
        assert state.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(state[name], value, rtol=1e-8, atol=1e-10, msg=name)
            initial = client.state[name]  # other clients receive the same tensor
            assert state[name].data_ptr() != initial.data_ptr() or not initial.numel()


@pytest.mark.usefixtures("first_map_training")
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
def test_a_stack_trains_each_client_as_alone(recipe: Recipe) -> None:
    equal(DENSE.part({}), False, recipe)


@pytest.mark.usefixtures("first_map_training")
@pytest.mark.parametrize(
    ("residual", "modules"), [(False, [0, 3, 6]), (True, [0, 3, 6]), (True, [1, 2, 8]), (True, [8])]
)
def test_gates_and_residual_modules(residual: bool, modules: list[int]) -> None:
    """Module 8 is the residual one; the last case has no shrunk module."""
    modular = DENSE.modular(8, 8, residual)
    body = modular.part(columns_coverage(modular.sizes, {"block.modules": np.array(modules)}))
    equal(body, True, Recipe(lr=0.05, clip=0.5, weight_decay=0.1))
    equal(body, False, Recipe(lr=0.05, clip=0.5, weight_decay=0.1))


@pytest.mark.usefixtures("first_map_training")
def test_a_residual_module_without_a_map() -> None:
    modular = Architecture(DENSE.build, {**DENSE.sizes, "out": 6}, (6,)).modular(8, 8, residual=True)
    body = modular.part({})
    assert isinstance(body, MLP) and body.block.bypass is not None and body.block.bypass.map is None
    equal(body, True, Recipe(lr=0.05))


@pytest.mark.usefixtures("first_map_training")
@pytest.mark.parametrize("correction", ["zero", "prior"])
def test_corrected_logits(correction: LogitCorrection) -> None:
    """Class 3 never occurs, and the client with one sample has one class."""
    equal(DENSE.part({}), False, Recipe(lr=0.05), correction=correction)


@pytest.mark.usefixtures("first_map_training")
def test_the_scaler_and_no_epochs() -> None:
    body = DENSE.part({})
    body.rate = 0.5
    equal(body, False, Recipe(lr=0.05))
    equal(body, False, Recipe(lr=0.05), epochs=0)


@pytest.mark.usefixtures("first_map_training")
def test_in_single_precision_the_difference_is_rounding() -> None:
    body, recipe = DENSE.part({}), Recipe(lr=0.05, clip=1.0)
    wanted = one_by_one(body, client_batches(body, False, torch.float32), recipe, 5, "none")
    for (state, _), (expected, _) in zip(
        fit_many(body, client_batches(body, False, torch.float32), recipe, 5), wanted, strict=True
    ):
        for name, value in expected.items():
            torch.testing.assert_close(state[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("first_map_training")
def test_results_do_not_depend_on_other_clients() -> None:
    """Bit for bit the same alone, in threes or all together, so also in any worker process."""
    body, recipe = DENSE.part({}), Recipe(lr=0.05, clip=0.5)
    stacked = fit_many(body, client_batches(body, False, torch.float32), recipe, 2)
    clients = client_batches(body, False, torch.float32)
    separate = [got for at, to in ((0, 1), (1, 4), (4, 6)) for got in fit_many(body, clients[at:to], recipe, 2)]
    for (state, loss), (expected, expected_loss) in zip(stacked, separate, strict=True):
        assert loss == expected_loss and all(torch.equal(state[name], expected[name]) for name in expected)


def test_the_cheaper_way_by_hand() -> None:
    """The bench setting W2, in multiplications: 2 x 143,616 + 56,100 + 76,800 = 420,132 against 861,696."""
    sgd = Recipe(momentum=0.0)
    assert dual_is_cheaper(100, 561, 256, sgd, 3) and dual_is_cheaper(100, 561, 256, Recipe(), 10)
    assert not dual_is_cheaper(100, 561, 256, Recipe(optimizer="adam"), 3)
    assert not dual_is_cheaper(100, 561, 256, sgd, 1)  # each sample occurs once, so nothing is saved
    assert dual_is_cheaper(267, 561, 256, sgd, 2)
    assert not dual_is_cheaper(268, 561, 256, sgd, 2)  # 268 (561 + 2 * 256) > 2 * 143,616


@pytest.mark.parametrize(("dual", "numbers"), [(False, 568), (True, 3521)])
def test_stacks_have_the_measured_size(dual: bool, numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stack has room for two clients.

    Each client has 6 * 16 + 16 + 16 * 8 + 8 + 8 * 4 + 4 = 284 parameters and as many velocities. With coefficients, 37
    * 16 replace 96 of both, and 37 * 37 + 37 * 16 numbers are added.
    """
    stack_sizes = []

    class Counted(STACKS[MLP]):  # type: ignore[misc]
        def __init__(self, body: Body, states: list[State], *args: Any):
            stack_sizes.append(len(states))
            super().__init__(body, states, *args)

    monkeypatch.setitem(STACKS, MLP, Counted)
    monkeypatch.setattr("models.training.batched.dual_is_cheaper", lambda *_: dual)
    monkeypatch.setattr("models.training.batched.STACK_BYTES", 4 * numbers * 2.5)
    body = DENSE.part({})
    fit_many(body, client_batches(body, False, torch.float32)[:5], Recipe(), 1)
    assert stack_sizes == [2, 2, 1]


def test_only_networks_with_hand_written_passes_are_stacked() -> None:
    class Other(MLP):
        pass

    recipe = Recipe()
    assert stackable(DENSE.part({}), recipe) and not stackable(DENSE.part({}), replace(recipe, precision="bfloat16"))
    assert not stackable(Other(DENSE.sizes, 6), recipe)
    assert not stackable(resnet18((3, 8, 8), 3, width=8).part({}), recipe)
