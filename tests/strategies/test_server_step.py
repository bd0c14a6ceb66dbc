"""The server's step of Adam: by hand, what it reduces to, and what no client trained stays."""

from typing import Any

import numpy as np
import pytest
import torch

from models.submodel import State
from strategies import STRATEGIES
from strategies.core.server_step import ServerStep
from strategies.core.strategy import Budget, Limits, Profile, Strategy
from strategies.drift.flash import Flash
from strategies.fedavg import FedAvg
from strategies.heterofl import HeteroFL
from tests.strategies.conftest import same
from tests.strategies.test_strategies import aggregate, profiles, update

STEPS = [name for name, method in STRATEGIES.items() if issubclass(method.Options, ServerStep)]


def built(models_maker: Any, budget: Budget, kind: type[Strategy], **options: Any) -> Strategy:
    return kind(models_maker(), budget, 3, kind.Options(**{**kind.preset, **options}))


def turn(method: Strategy, server_round: int, asked: list[Profile]) -> None:
    tasks = method.configure_train(server_round, asked)
    aggregate(method, server_round, tasks, [update(c, t, 50) for c, t in tasks.items() if t.upload])


def test_two_steps_by_hand(models_maker, budget: Budget) -> None:
    """All parameters change by 0.1; beta1 = beta2 = 1/2, tau = 0.2, eta = 1.

    m = 0.05, v = 0.5 * 0.04 + 0.5 * 0.01 = 0.025; then m = 0.075, v = 0.5 * 0.025 + 0.5 * 0.01 = 0.0175.
    """
    method = built(models_maker, budget, FedAvg, step="adam", beta1=0.5, beta2=0.5, tau=0.2, server_lr=1.0)
    expected: State = dict(method.model)
    for server_round, (m, v) in enumerate(((0.05, 0.025), (0.075, 0.0175)), start=1):
        turn(method, server_round, profiles(method, clients=1))
        expected = {name: value + m / (v**0.5 + 0.2) for name, value in expected.items()}
        same(method.model, expected, exact=False)


def test_flash_without_its_drift_term_is_fedadam(models_maker, budget: Budget) -> None:
    """With beta2 = 0, FLASH's d stays 0."""
    how = {"beta1": 0.5, "beta2": 0.0, "tau": 0.5, "server_lr": 0.1}
    adam = built(models_maker, budget, FedAvg, step="adam", **how)
    flash = built(models_maker, budget, Flash, early_stop=0.0, **how)
    for server_round in (1, 2, 3):
        for method in (adam, flash):
            turn(method, server_round, profiles(method))
        same(adam.model, flash.model)


@pytest.mark.parametrize("name", STEPS)
def test_with_a_step_of_the_whole_way_it_is_the_mean(models_maker, budget: Budget, name: str) -> None:
    """beta1 = beta2 = 0, and tau = eta far above any change."""
    kind = STRATEGIES[name]
    mean = built(models_maker, budget, kind, step="mean")
    adam = built(models_maker, budget, kind, step="adam", beta1=0.0, beta2=0.0, tau=2.0**60, server_lr=2.0**60)
    for server_round in (1, 2):
        for method in (mean, adam):
            if method.sample_clients(server_round):
                turn(method, server_round, profiles(method))
        same(mean.model, adam.model)


def test_what_no_client_trained_stays_and_so_do_its_moments(models_maker, budget: Budget) -> None:
    """Client 0 trains all of the width, then client 1 the half of it."""
    method = built(models_maker, budget, HeteroFL, step="adam")
    assert isinstance(method, HeteroFL)
    whole, half = (Profile(c, Limits(*np.array(method.prices[c].vector[1:]))) for c in (0, 1))
    turn(method, 1, [whole])
    before = method.model["block.first"], method.moments["block.first"]["m"]
    turn(method, 2, [half])
    for old, new in zip(before, (method.model["block.first"], method.moments["block.first"]["m"]), strict=True):
        changed = (old != new).flatten(2).any(2)[0]  # by channel of (1, hidden 16, 6)
        assert changed[:8].all() and not changed[8:].any()


@pytest.mark.parametrize("name", [name for name in STEPS if STRATEGIES[name].preset.get("step") == "adam"])
def test_a_resumed_server_steps_on(models_maker, budget: Budget, name: str) -> None:
    kind = STRATEGIES[name]
    one, other = (built(models_maker, budget, kind) for _ in range(2))
    turn(one, 1, profiles(one))
    other.load_state_dict(one.state_dict())
    for method in (one, other):
        turn(method, 2, profiles(method))
    same(one.model, other.model)
    assert not torch.equal(one.model["head.bias"], kind(models_maker(), budget, 3).model["head.bias"])
