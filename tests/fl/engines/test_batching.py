"""Calls that run together: each gets its own training, an error stays in its call, similar trainings share a stack."""

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from fl.engines import batching
from fl.engines.batching import Fit, Fitted, fitted, together
from models.nn.body import Architecture
from models.nn.mlp import mlp
from models.nn.resnet import resnet18
from models.training.batched import ClientBatch
from models.training.loop import Recipe

SMALL, WIDE, IMAGES = mlp((4,), 3, width=8), mlp((4,), 3, width=16), resnet18((3, 8, 8), 3, width=8)
BODIES = {id(a): a.part({}) for a in (SMALL, WIDE, IMAGES)}  # one network of each for all clients, as in a workload


def fit_of(architecture: Architecture, client: int, epochs: int = 1) -> Fit:
    g, n = torch.Generator().manual_seed(client), 10 + client
    x, y = torch.randn(n, *architecture.input_shape, generator=g), torch.randint(0, 3, (n,), generator=g)
    batch = ClientBatch(architecture.whole(client).state(), x, y, np.random.default_rng(client))
    return Fit(BODIES[id(architecture)], 1.0, batch, Recipe(lr=0.05), epochs, "none")


def train(architecture: Architecture, client: int, times: int = 1) -> list[Fitted]:
    return [fitted(fit_of(architecture, client, epochs=1 + again)) for again in range(times)]


def test_together_equals_one_by_one_and_similar_trainings_share_a_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven clients on three networks; some of them train twice."""
    kinds = zip((SMALL, WIDE, SMALL, IMAGES, SMALL, WIDE, IMAGES), itertools.count(), (1, 1, 2, 1, 2, 1, 2))
    calls = [partial(train, architecture, client, times) for architecture, client, times in kinds]
    alone = [call() for call in calls]
    sizes: list[int] = []
    make = batching.make
    monkeypatch.setattr(batching, "make", lambda fits: sizes.append(len(fits)) or make(fits))  # type: ignore[func-returns-value]
    for got, expected in zip(together(calls), alone, strict=True):
        assert isinstance(got, list) and len(got) == len(expected)
        for (state, loss), (state_alone, loss_alone) in zip(got, expected, strict=True):
            assert loss == loss_alone and all(torch.equal(state[name], state_alone[name]) for name in state_alone)
    assert sorted(sizes) == [1, 1, 1, 2, 2, 3]  # images one by one; wide ones; small ones, first and second


def test_trainings_that_fill_a_stack_alone_do_not_wait_with_their_models_in_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order: list[str] = []

    def call(client: int) -> list[Fitted]:
        order.append(f"begin {client}")
        trained = train(SMALL, client)
        order.append(f"end {client}")
        return trained

    alone = [train(SMALL, client) for client in range(2)]
    monkeypatch.setattr("models.training.batched.STACK_BYTES", 1.0)
    for got, expected in zip(together([partial(call, 0), partial(call, 1)]), alone, strict=True):
        assert isinstance(got, list) and torch.equal(got[0][0]["head.bias"], expected[0][0]["head.bias"])
    assert order == ["begin 0", "end 0", "begin 1", "end 1"]


def test_an_exception_stays_in_its_call_and_the_others_finish() -> None:
    def broken(trainings: int) -> Fitted:
        for _ in range(trainings):
            fitted(fit_of(SMALL, 0))
        raise ValueError(f"after {trainings}")

    first, good, second = together([partial(broken, 0), partial(train, SMALL, 3), partial(broken, 1)])
    assert isinstance(first, ValueError) and isinstance(second, ValueError) and str(second) == "after 1"
    assert isinstance(good, list)


def test_a_training_that_fails_raises_in_the_calls_that_asked_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(fits: list[Fit]) -> list[Fitted]:
        if fits[0].body is BODIES[id(WIDE)]:
            raise MemoryError("too wide")
        return original(fits)

    original = batching.make
    monkeypatch.setattr(batching, "make", make)

    def careful() -> str:
        try:
            fitted(fit_of(WIDE, 1))
        except MemoryError as error:
            return f"continued after: {error}"
        return "no error"

    wide, narrow, handled = together([partial(train, WIDE, 1), partial(train, SMALL, 2), careful])
    assert isinstance(wide, MemoryError) and isinstance(narrow, list) and handled == "continued after: too wide"


def test_submodels_of_different_sizes_give_the_same_rows_side_by_side(
    play: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sub-models of ECLM have several sizes."""
    sizes: list[int] = []
    make = batching.make
    monkeypatch.setattr(batching, "make", lambda fits: sizes.append(len(fits)) or make(fits))  # type: ignore[func-returns-value]
    side_by_side = play(tmp_path / "together", {"strategies": "eclm"})
    assert max(sizes) > 1
    monkeypatch.setattr("fl.engines.grid.AT_ONCE", 1)
    sizes.clear()
    assert play(tmp_path / "apart", {"strategies": "eclm"}) == side_by_side and max(sizes) == 1


def test_an_exception_that_ends_the_process_is_raised_to_the_caller() -> None:
    """A worker process that must stop while it answers does not wait for that answer."""

    def stopped() -> Fitted:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        together([partial(train, SMALL, 3), stopped])
