"""Training in the cloud: assignment of sub-tasks to modules, and the effect of training on a model."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models.modular.model import ModularModel, assign, enhance, mapping, targets, train_end_to_end
from models.modular.modularize import modularize
from models.modular.selector import Routing, Selector
from models.nn.mlp import mlp
from models.training.loop import MAX_LOSS, Recipe, fit, hits_and_losses, score


@pytest.mark.parametrize("seed", range(8))
def test_assignment_equals_brute_force(seed: int) -> None:
    load = np.random.default_rng(seed).dirichlet(np.ones(3), size=3)  # T = 3, N = 3
    kappa1, kappa2 = 1.0, 2
    best = -1.0
    for bits in itertools.product((0, 1), repeat=9):
        mask = np.array(bits).reshape(3, 3)
        rows = mask.sum(1)
        if (rows >= 1).all() and (rows <= kappa2).all() and ((load * mask).sum(0) <= kappa1).all():
            best = max(best, (load * mask).sum())
    mask = assign(load, kappa1, kappa2)
    assert (load * mask).sum() == pytest.approx(best)
    assert ((load * mask).sum(0) <= kappa1 + 1e-9).all()


def test_an_impossible_assignment_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no assignment of 2 sub-tasks to 2 modules .* at most 0\.1"):
        assign(np.full((2, 2), 0.5), 0.1, 1)


def test_targets_keep_the_best_modules_and_sum_to_one() -> None:
    """kappa2 = 2 keeps 0.5 and 0.3 of (0.5, 0.3, 0.2): 5/8 and 3/8."""
    (target,) = targets([np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])], slack=3.0, kappa2=2)
    np.testing.assert_allclose(target[0], [0.625, 0.375, 0])
    np.testing.assert_allclose(target[1], [0, 2 / 9, 7 / 9])


def test_a_subtask_without_samples_has_no_target() -> None:
    (target,) = targets([np.array([[0.5, 0.3, 0.2], [0, 0, 0]])], slack=3.0, kappa2=2)
    assert target[0].sum() == pytest.approx(1) and target[1].tolist() == [0, 0, 0]


def test_mapping_is_the_mean_softmax_of_a_subtask() -> None:
    logits = torch.log(torch.tensor([[1.0, 3.0], [3.0, 1.0], [1.0, 1.0]]))
    (found,) = mapping([logits], torch.tensor([0, 0, 1]), 2)
    np.testing.assert_allclose(found, [[0.5, 0.5], [0.5, 0.5]], atol=1e-6)


@pytest.fixture(scope="module")
def problem() -> tuple[torch.Tensor, torch.Tensor]:
    """Four clusters in 8 dimensions, linearly separable by a wide margin."""
    g = torch.Generator().manual_seed(0)
    centres = 3 * torch.randn(4, 8, generator=g)
    y = torch.arange(400) % 4
    return centres[y] + torch.randn(400, 8, generator=g), y


def test_offline_training_routes_each_class_to_few_modules(problem: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, y = problem
    dense = mlp((8,), 4, width=32)
    body = dense.whole(0)
    recipe = Recipe(lr=0.05, batch_size=32, clip=1.0)
    fit(body, x, y, recipe, 5, np.random.default_rng(0), cosine=True)
    modular, state = modularize(dense, body.state(), modules=8, shrink=8)
    part = modular.part({})
    part.load_state_dict(state)
    model = ModularModel(
        part, Selector((8,), {"block.modules": 8}, 8, torch.Generator().manual_seed(1)), Routing(4, 8.0)
    )
    train_end_to_end(model, x, y, recipe, 5, np.random.default_rng(1), balance=0.1)
    before = {name: value.clone() for name, value in model.selector.state_dict().items()}
    enhance(model, x, y, y, 4, recipe, 0, np.random.default_rng(2))
    assert all(torch.equal(before[name], value) for name, value in model.selector.state_dict().items())
    current, target = enhance(model, x, y, y, 4, recipe, 15, np.random.default_rng(2), strength=1.0, kappa2=2)
    (reached,) = mapping(model.logits(x), y, 4)
    assert model.score(x, y, 4).accuracy > 0.97
    served = (reached * (target[0] > 0)).sum(1)
    assert (served > 0.8).all(), served  # most load of each class is on its two target modules
    assert (served > (current[0] * (target[0] > 0)).sum(1)).all()


def test_one_sgd_step_by_hand() -> None:
    """The gradient of cross-entropy at zero weights is (p - onehot) x^T: p = 1/2, x = 2, so +-1; lr 0.1 moves 0.1."""

    class Linear(torch.nn.Linear):
        rate = 1.0

        def forward(self, x: torch.Tensor, gates: None = None) -> torch.Tensor:
            return F.linear(x, self.weight)

    body = Linear(1, 2, bias=False)
    torch.nn.init.zeros_(body.weight)
    fit(body, torch.tensor([[2.0]]), torch.tensor([1]), Recipe(lr=0.1, momentum=0.0), 1, np.random.default_rng(0))  # type: ignore[arg-type]
    torch.testing.assert_close(body.weight.data, torch.tensor([[-0.1], [0.1]]))


def test_zeroed_classes_get_no_gradient() -> None:
    dense = mlp((4,), 3, width=8)
    body = dense.whole(0)
    before = body.head.weight[2].clone()  # type: ignore[attr-defined,index]
    x, y = torch.randn(20, 4), torch.arange(20) % 2
    fit(
        body, x, y, Recipe(), 3, np.random.default_rng(0), class_shares=torch.tensor([0.5, 0.5, 0.0]), correction="zero"
    )
    assert torch.equal(body.head.weight[2], before)  # type: ignore[attr-defined,index]
    assert not torch.equal(body.head.weight[0], before)  # type: ignore[attr-defined,index]


def test_balanced_accuracy_by_hand() -> None:
    """Always predicting class 0 for three samples of class 0 and one of class 1: accuracy 3/4, balanced (1 + 0) / 2."""

    class Constant(torch.nn.Module):
        def forward(self, x: torch.Tensor, gates: None = None) -> torch.Tensor:
            return torch.tensor([[1.0, 0.0, 0.0]]).expand(len(x), 3)

    got = score(Constant(), torch.zeros(4, 1), torch.tensor([0, 0, 0, 1]), 3)  # type: ignore[arg-type]
    assert got.accuracy == 0.75 and got.balanced_accuracy == 0.5


def test_corrected_losses_by_hand() -> None:
    """Zero weights; class 2 of 3 is absent. 'zero' keeps it in the softmax (p = 1/3), 'prior' removes it.

    The gradient of the true class is (p - 1) x with p = 1/3, or its share 1/2 or 1/4; x = 2 and lr 0.3 give 0.4, 0.3 or
    0.45.
    """

    class Linear(torch.nn.Linear):
        rate = 1.0

        def forward(self, x: torch.Tensor, gates: None = None) -> torch.Tensor:
            return F.linear(x, self.weight)

    x, y, even, uneven = torch.tensor([[2.0]]), torch.tensor([1]), torch.tensor([1.0, 1, 0]), torch.tensor([3.0, 1, 0])
    for correction, class_shares, expected in (
        ("zero", even, [-0.2, 0.4, 0.0]),
        ("prior", even, [-0.3, 0.3, 0.0]),
        ("prior", uneven, [-0.45, 0.45, 0.0]),
    ):
        body = Linear(1, 3, bias=False)
        torch.nn.init.zeros_(body.weight)
        recipe = Recipe(lr=0.3, momentum=0.0)
        fit(body, x, y, recipe, 1, np.random.default_rng(0), class_shares=class_shares, correction=correction)  # type: ignore[arg-type]
        torch.testing.assert_close(body.weight.data[:, 0], torch.tensor(expected))


def test_a_class_of_share_zero_is_an_error_with_a_finite_loss() -> None:
    """Class 0 has the largest logit but share 0. Class 1 of the remaining (1, 0) wins: p = e^1 / (e^1 + e^0)."""

    class Constant(torch.nn.Module):
        def forward(self, x: torch.Tensor, gates: None = None) -> torch.Tensor:
            return torch.tensor([[9.0, 1.0, 0.0]]).expand(len(x), 3)

    class_shares = torch.tensor([0.0, 1.0, 1.0])
    got = score(Constant(), torch.zeros(2, 1), torch.tensor([0, 1]), 3, class_shares=class_shares)  # type: ignore[arg-type]
    assert got.hits.tolist() == [0, 1, 0]
    assert got.loss_sum == pytest.approx(MAX_LOSS + np.log(1 + np.exp(-1)))


def test_predictions_of_a_diverged_model_are_wrong() -> None:
    """`argmax` returns class 0 for a row whose first logit is NaN; that must not count as correct."""
    hits, losses = hits_and_losses(torch.tensor([[np.nan, 1.0], [3e38, -3e38], [2.0, 0.0]]), torch.tensor([0, 1, 0]))
    assert hits.tolist() == [False, False, True]
    assert losses.tolist() == pytest.approx([MAX_LOSS, MAX_LOSS, np.log(1 + np.exp(-2))])
