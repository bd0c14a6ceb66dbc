"""Calls that go on together: each gets its own training, failures stay where they are, alike fits share a stack."""

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from fl.engines import batching as fits
from fl.engines.batching import Fit, Fitted, fitted, together
from models.nn.body import Architecture
from models.nn.mlp import mlp
from models.nn.resnet import resnet18
from models.training.batched import ClientBatch
from models.training.loop import Recipe

SMALL, WIDE, PICTURES = mlp((4,), 3, width=8), mlp((4,), 3, width=16), resnet18((3, 8, 8), 3, width=8)
BODIES = {id(a): a.part({}) for a in (SMALL, WIDE, PICTURES)}  # one network of each for all devices, as in a workload


def fit_of(architecture: Architecture, device: int, epochs: int = 1) -> Fit:
    g, n = torch.Generator().manual_seed(device), 10 + device
    x, y = torch.randn(n, *architecture.input_shape, generator=g), torch.randint(0, 3, (n,), generator=g)
    lesson = ClientBatch(architecture.whole(device).state(), x, y, np.random.default_rng(device))
    return Fit(BODIES[id(architecture)], 1.0, lesson, Recipe(lr=0.05), epochs, "none")


def device(architecture: Architecture, number: int, times: int = 1) -> list[Fitted]:
    return [fitted(fit_of(architecture, number, epochs=1 + again)) for again in range(times)]


def test_together_is_one_by_one_and_alike_fits_share_a_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven devices on three networks, some of which train twice."""
    kinds = zip((SMALL, WIDE, SMALL, PICTURES, SMALL, WIDE, PICTURES), itertools.count(), (1, 1, 2, 1, 2, 1, 2))
    calls = [partial(device, architecture, number, times) for architecture, number, times in kinds]
    wanted = [call() for call in calls]
    made: list[int] = []
    make = fits.make
    monkeypatch.setattr(fits, "make", lambda asked: made.append(len(asked)) or make(asked))  # type: ignore[func-returns-value]
    for got, expected in zip(together(calls), wanted, strict=True):
        assert isinstance(got, list) and len(got) == len(expected)
        for (state, loss), (alone, alone_loss) in zip(got, expected, strict=True):
            assert loss == alone_loss and all(torch.equal(state[name], alone[name]) for name in alone)
    assert sorted(made) == [1, 1, 1, 2, 2, 3]  # pictures one by one; wide ones; small ones, first and second


def test_a_call_that_fails_leaves_its_exception_and_the_others_alone() -> None:
    def broken(when: int) -> Fitted:
        for _ in range(when):
            fitted(fit_of(SMALL, 0))
        raise ValueError(f"after {when}")

    first, good, second = together([partial(broken, 0), partial(device, SMALL, 3), partial(broken, 1)])
    assert isinstance(first, ValueError) and isinstance(second, ValueError) and str(second) == "after 1"
    assert isinstance(good, list)


def test_a_fit_that_fails_is_an_error_of_those_who_asked_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(asked: list[Fit]) -> list[Fitted]:
        if asked[0].body is BODIES[id(WIDE)]:
            raise MemoryError("too wide")
        return honest(asked)

    honest = fits.make
    monkeypatch.setattr(fits, "make", make)

    def careful() -> str:
        try:
            fitted(fit_of(WIDE, 1))
        except MemoryError as error:
            return f"went on after: {error}"
        return "unharmed"

    wide, narrow, handled = together([partial(device, WIDE, 1), partial(device, SMALL, 2), careful])
    assert isinstance(wide, MemoryError) and isinstance(narrow, list) and handled == "went on after: too wide"


def test_devices_of_different_sizes_of_the_same_method(play: Callable, tmp_path: Path, monkeypatch) -> None:
    """ECLM side by side writes the rows that it writes one by one; its sub-models come in several sizes."""
    sizes = []
    make = fits.make
    monkeypatch.setattr(fits, "make", lambda asked: sizes.append(len(asked)) or make(asked))
    together_ = play(tmp_path / "together", strategies="eclm")
    assert max(sizes) > 1
    monkeypatch.setattr("fl.engines.grid.AT_ONCE", 1)
    sizes.clear()
    assert play(tmp_path / "apart", strategies="eclm") == together_ and max(sizes) == 1


def test_what_ends_the_process_is_raised_where_it_can_end_it() -> None:
    """A worker that is told to stop while it answers must stop, not wait for an answer that never comes."""

    def stopped() -> Fitted:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        together([partial(device, SMALL, 3), stopped])
