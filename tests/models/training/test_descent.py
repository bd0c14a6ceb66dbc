"""Updates inside the backward pass equal those of the optimizer."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models.nn.cnn import cnn
from models.training.descent import Descent
from models.training.loop import Recipe, batches, fit


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_plain_sgd_is_that_of_torch(gated: bool, decay: float) -> None:
    architecture = cnn((3, 8, 8), 5, width=4)
    body = architecture.build({**architecture.sizes, "block.modules": 3}, torch.Generator().manual_seed(0)).double()
    other = architecture.build({**architecture.sizes, "block.modules": 3}, None).double()
    other.load_state_dict(body.state())
    x, y = torch.randn(23, 3, 8, 8, dtype=torch.double), torch.randint(5, (23,))
    gates = [torch.rand(23, 3, dtype=torch.double)] if gated else None

    recipe = Recipe(lr=0.2, batch_size=8, momentum=0.0, weight_decay=decay)
    fit(body, x, y, recipe, 3, np.random.default_rng(1), gates)
    optimizer, order = torch.optim.SGD(other.parameters(), lr=0.2, weight_decay=decay), np.random.default_rng(1)
    for _ in range(3):
        for rows in batches(23, 8, order):
            optimizer.zero_grad()
            F.cross_entropy(other(x[rows], gates and [gates[0][rows]]), y[rows]).backward()
            optimizer.step()
    for name, value in other.state_dict().items():
        torch.testing.assert_close(body.state_dict()[name], value, rtol=1e-9, atol=1e-12, msg=name)

    body(x, gates).sum().backward()  # after `fit`, backward passes compute gradients again
    assert all(parameter.grad is not None for parameter in body.parameters())


def test_using_a_map_twice_raises_instead_of_returning_wrong_gradients() -> None:
    weight, bias = torch.eye(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    once = Descent(0.1).linear(torch.ones(1, 2), weight, bias)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        Descent(0.1).linear(once, weight, bias).sum().backward()


def test_one_step_by_hand() -> None:
    """y = x W^T + b with x = (1, 2) and dL/dy = (3, -1): dW = [[3, 6], [-1, -2]], dL/dx = dL/dy W = (3, -2)."""
    x = torch.tensor([[1.0, 2.0]], requires_grad=True)
    weight, bias = torch.tensor([[1.0, 0.0], [0.0, 2.0]], requires_grad=True), torch.zeros(2, requires_grad=True)
    Descent(0.1, decay=0.5).linear(x, weight, bias).backward(torch.tensor([[3.0, -1.0]]))
    torch.testing.assert_close(
        weight.detach(), 0.95 * torch.tensor([[1.0, 0.0], [0.0, 2.0]]) - 0.1 * torch.tensor([[3.0, 6.0], [-1.0, -2.0]])
    )
    assert weight.grad is None and bias.grad is not None and x.grad is not None
    torch.testing.assert_close(bias.grad, torch.tensor([3.0, -1.0]))
    torch.testing.assert_close(x.grad, torch.tensor([[3.0, -2.0]]))
