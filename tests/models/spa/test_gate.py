"""Gate fits against a grid search, and objectives by hand."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from models.spa.gate import RIDGE, Gate, Standardiser, expectation, fit_gate, mixture, straight_through, threshold


def test_the_two_stage_fit_equals_a_grid_search() -> None:
    generator = torch.Generator().manual_seed(0)
    b = 5 + 30 * torch.randn(60, 1, generator=generator)
    base_loss = 2 * torch.rand(60, generator=generator) + (b[:, 0] > 10)
    side_loss = torch.rand(60, generator=generator)
    price = 0.4
    gain = (base_loss - side_loss - price).double()
    z = ((b[:, 0] - b.mean()) / b.std(correction=0)).double()

    def objective(w: float, c: float) -> float:
        a = w * z + c
        loss = gain.abs() * F.softplus(-gain.sign() * a)
        return float(loss.sum() / gain.abs().sum() + RIDGE / 2 * w * w)

    gate = fit_gate(b, base_loss, side_loss, price)
    w = float(gate.weight) * float(b.std(correction=0))
    c = float(gate.bias) + float(gate.weight) * float(b.mean())
    grid = [(x, y) for x in np.arange(-1, 4, 0.05) for y in np.arange(-2, 2, 0.05)]
    best = min(grid, key=lambda at: objective(*at))
    assert objective(w, c) <= objective(*best)
    assert (w, c) == pytest.approx(best, abs=0.05)


@pytest.mark.parametrize("ridge", [1e-3, 0.1, 3.0])
def test_the_fit_is_a_stationary_point_of_its_objective(ridge: float) -> None:
    """By automatic differentiation, in standardised units."""
    generator = torch.Generator().manual_seed(1)
    b = 3 + 2 * torch.randn(80, 3, generator=generator)
    gain = b[:, 0] - 3 + torch.randn(80, generator=generator)
    gate, standard = fit_gate(b, gain, torch.zeros(80), 0.25, ridge), Standardiser.of(b)
    w = (gate.weight * standard.std).double().requires_grad_()
    c = (gate.bias + gate.weight @ standard.mean).double().requires_grad_()
    u = (gain - 0.25).double()
    loss = (u.abs() * F.softplus(-u.sign() * (standard(b).double() @ w + c))).sum() / u.abs().sum()
    (loss + ridge / 2 * (w * w).sum()).backward()
    assert w.grad is not None and c.grad is not None
    assert w.grad.abs().max() < 1e-4 and abs(float(c.grad)) < 1e-4


def test_with_informative_states_the_gate_is_the_oracle_at_every_price() -> None:
    b = torch.eye(12).repeat_interleave(3, 0)  # twelve kinds of token
    gain = torch.linspace(-1, 2, 12).repeat_interleave(3)
    for price in (0.0, 0.5, 1.5):
        assert torch.equal(fit_gate(b, gain, torch.zeros(36), price).opens(b), gain > price)


def test_all_tokens_on_one_side() -> None:
    b = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    assert fit_gate(b, torch.ones(9), torch.zeros(9), 0.5).opens(b).all()
    assert not fit_gate(b, torch.zeros(9), torch.ones(9), 0.5).opens(b).any()


def test_standardising_is_folded_into_the_gate() -> None:
    b = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 1e3, 1.0])
    b[:, 2] = 7.0  # never varies
    standardiser = Standardiser.of(b)
    w, c = torch.tensor([1.0, -2.0, 3.0]), torch.tensor(0.5)
    torch.testing.assert_close(standardiser.fold(w, c).score(b), standardiser(b) @ w + c)


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=40), st.floats(0, 1))
def test_a_threshold_never_exceeds_its_share(scores: list[int], share: float) -> None:
    a = torch.tensor(scores, dtype=torch.float)
    calls = int((a > threshold(a, share)).sum())
    assert calls <= share * len(scores) + 1e-6
    if len(set(scores)) == len(scores):
        assert calls == math.floor(share * len(scores) + 1e-9)


def test_objectives_by_hand() -> None:
    base_loss, side_loss, a = (
        torch.tensor([math.log(4.0)]),
        torch.tensor([math.log(2.0)]),
        torch.tensor([math.log(3.0)]),
    )
    # p = 3/4, P_base = 1/4, P_side = 1/2
    assert mixture(base_loss, side_loss, a, 0.2).item() == pytest.approx(-math.log(3 / 4 / 2 + 1 / 4 / 4) + 0.15)
    hand = 3 / 4 * math.log(2) + 1 / 4 * math.log(4) + 0.15
    assert expectation(base_loss, side_loss, a, 0.2).item() == pytest.approx(hand)


def test_the_exact_expectation_is_the_mean_over_coin_tosses() -> None:
    generator = torch.Generator().manual_seed(0)
    calls = torch.rand(200_000, generator=generator) < torch.sigmoid(torch.tensor(0.7))
    mean = torch.where(calls, 0.3 + 0.1, 2.0).mean()
    exact = expectation(torch.tensor([2.0]), torch.tensor([0.3]), torch.tensor([0.7]), 0.1)
    assert exact.item() == pytest.approx(mean.item(), abs=0.01)


def test_straight_through_is_hard_forward_and_soft_backward() -> None:
    a = torch.tensor([-1.0, 2.0], requires_grad=True)
    g = straight_through(a)
    assert g.tolist() == [0.0, 1.0]
    (g * torch.tensor([3.0, 5.0])).sum().backward()
    p = a.detach().sigmoid()
    torch.testing.assert_close(a.grad, torch.tensor([3.0, 5.0]) * p * (1 - p))


def test_constant_gates() -> None:
    b = torch.randn(5, 4)
    assert Gate.constant(4, True).opens(b).all() and not Gate.constant(4, False).opens(b).any()
