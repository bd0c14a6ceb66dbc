"""The closed form against autograd through the norms, and its long-term effect."""

import pytest
import torch
from torch.autograd import grad

from models.vq.training.gradnorm import reweigh, slope


def test_closed_form_is_the_double_backward():
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(5, 4, generator=generator, requires_grad=True)
    x = torch.randn(20, 5, generator=generator)
    targets = [scale * torch.randn(20, 4, generator=generator) for scale in (1.0, 3.0, 0.2)]
    weights = torch.tensor([0.5, 1.5, 1.0], requires_grad=True)
    first = torch.tensor([4.0, 9.0, 1.0])
    losses = torch.stack([((x @ shared).tanh() - y).square().mean() for y in targets])
    weighted_norms = torch.stack(
        [grad(w * loss, shared, create_graph=True)[0].norm() for w, loss in zip(weights, losses, strict=True)]
    )
    ratio = (losses / first).detach()
    target = (weighted_norms.mean() * (ratio / ratio.mean()) ** 1.5).detach()
    (expected,) = grad((weighted_norms - target).abs().sum(), weights)
    norms = torch.stack([grad(loss, shared, retain_graph=True)[0].norm() for loss in losses])
    torch.testing.assert_close(slope(weights, norms, losses, first).detach(), expected)


def test_by_hand():
    """Equal rates, norms 1 and 3: G = 1, 3, both targets are 2; the weights become 1.1 and .7, scaled to sum 2."""
    ones = torch.ones(2)
    after = reweigh(ones, torch.tensor([1.0, 3.0]), ones, ones, lr=0.1)
    torch.testing.assert_close(after, torch.tensor([1.1, 0.7]) / 0.9)


def test_a_slow_task_is_favoured():
    weights, ones = torch.ones(2), torch.ones(2)
    for _ in range(200):
        weights = reweigh(weights, ones, torch.tensor([0.9, 0.3]), ones, lr=0.01)
    assert weights[0] > 1.5 and float(weights.sum()) == pytest.approx(2) and weights.min() > 0
