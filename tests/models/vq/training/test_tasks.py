"""Tasks with one cloud half: a single task equals `Split.fit`, and GradNorm's weights reach the cloud half."""

import pytest
import torch

from models.vq.ends import LearningRates
from models.vq.network.halves import build
from models.vq.network.heads import Classify
from models.vq.training import tasks as several
from models.vq.training.tasks import TaskTraining, fit, interleave
from models.vq.training.train import Quantiser, Split, SplitTrainingPlan, accuracy
from tests.models.vq.training.test_train import marked, split


class LargeLoss(Classify):
    """A task with a hundredfold loss."""

    @staticmethod
    def loss(logits, labels, lengths):
        return 100 * Classify.loss(logits, labels, lengths)


def pair(shape, sizes=(64, 64), heads=(Classify, Classify), seeds=(0, 0), **changes):
    """Build two tasks of marked texts with separate device halves and heads."""
    plan = SplitTrainingPlan(**({"epochs": 2, "lr": 6e-3, "fresh": 6e-3} | changes))
    cloud, tasks_ = build(shape, 0)[1], []
    for n, head, seed in zip(sizes, heads, seeds, strict=True):
        torch.manual_seed(seed)
        tasks_.append(TaskTraining(Split(build(shape, seed)[0], cloud, head(shape, 2), plan), *marked(n, seed)))
    return tasks_


def parameters(own: Split):
    return [p for part in (own.device, own.cloud, own.head) for p in part.parameters()]


@pytest.mark.parametrize("quantiser", [None, Quantiser(8, 2, float_share=0.3, round_steps=2)])
def test_one_task_is_the_training_of_a_split(small, quantiser):
    """Bit for bit: losses, parameters, bytes, and the codebook, which also moves after the last of eight steps."""
    texts, shape = marked(64, 0), small(dropout=0.2)
    reference, single = (split(shape, quantiser, epochs=4, down="int8") for _ in range(2))
    expected = reference.fit(*texts, seed=3)
    (losses,), weights = fit([TaskTraining(single, *texts)], 3, gradnorm=True)
    assert losses == expected and weights.tolist() == [[1.0]] * 9
    assert all(torch.equal(own, same) for own, same in zip(parameters(reference), parameters(single), strict=True))
    assert reference.traffic == single.traffic and len(single.traffic)
    if quantiser:
        assert reference.codebook.version == single.codebook.version
        assert torch.equal(reference.codebook.vectors, single.codebook.vectors)


def test_steps_are_spread_evenly():
    assert interleave([2, 4]) == [1, 0, 1, 1, 0, 1] and interleave([2, 2]) == [0, 1, 0, 1]


def test_equal_norms_and_losses_do_not_change_the_weights(small):
    """Equal tasks with learning rates 0; a round ends each time that the smaller data set has made a step."""
    _, weights = fit(pair(small(), lr=0.0, fresh=0.0), 1, gradnorm=True)
    assert weights.tolist() == [[1.0, 1.0]] * 5
    _, weights = fit(pair(small(), sizes=(64, 128)), 1)
    assert weights.tolist() == [[1.0, 1.0]] * 5


def test_norms_are_those_of_the_unweighted_losses(small, monkeypatch):
    """Only the weights change, so GradNorm gets the same input from a task of one batch in every round."""
    calls = []

    def spy(weights, norms, losses, first):
        calls.append((norms, losses, first))
        return torch.tensor([1.75, 0.25])

    monkeypatch.setattr(several, "reweigh", spy)
    tasks = pair(small(), sizes=(32, 32), heads=(Classify, LargeLoss), epochs=3, lr=0.0, fresh=0.0)
    fit(tasks, 1, gradnorm=True)
    for norms, losses, first in calls:
        torch.testing.assert_close(norms, calls[0][0], rtol=2e-3, atol=0)  # float16 gradients of logits
        torch.testing.assert_close(losses, calls[0][1])
        assert torch.equal(first, calls[0][1])
    task = tasks[0]  # by hand, without a codec
    lengths = task.tokens.lengths
    logits = task.split.head(*task.split.cloud(task.split.device.eval()(task.tokens), lengths), lengths)
    grads = torch.autograd.grad(
        task.split.head.loss(logits, task.labels, lengths), task.split.cloud.layers[-1].parameters()
    )
    norm = torch.cat([g.flatten() for g in grads]).norm()
    torch.testing.assert_close(calls[0][0], torch.stack([norm, 100 * norm]), rtol=2e-3, atol=0)


def test_a_weight_scales_the_gradients_of_both_halves(small):
    """Labels and the weight stay on the device."""
    found = []
    for weight in (1.0, 0.25):
        (task, *_) = pair(small())
        step = next(task.split.steps(task.tokens, task.labels, 1, *task.split.ends(LearningRates())))
        loss = step.take(weight)
        found.append((loss, [p.grad for p in parameters(task.split) if p.grad is not None]))
    (loss, full), (same, quarter) = found
    assert loss == pytest.approx(same) and len(full) == len(quarter) > 30
    for one, other in zip(full, quarter, strict=True):
        torch.testing.assert_close(other, one / 4, rtol=1e-3, atol=1e-6)


def test_a_task_with_a_large_loss_gets_a_smaller_weight(small):
    """A hundredfold loss has a hundredfold norm; the bytes of each task are those of its own texts."""
    tasks = pair(small(), sizes=(200, 200), heads=(Classify, LargeLoss), seeds=(0, 1), epochs=8)
    losses, weights = fit(tasks, 1, gradnorm=True)
    assert weights[1:, 1].mean() < 0.5 < 1.5 < weights[1:, 0].mean()
    torch.testing.assert_close(weights.sum(1), torch.full((len(weights),), 2.0))
    for seed, (task, own) in enumerate(zip(tasks, losses, strict=True)):
        test, answers = marked(80, 10 + seed)
        assert own[-1] < own[0] and accuracy(task.split.predict(test), answers) > 0.9
        tokens = int(task.tokens.lengths.sum())
        assert task.split.traffic.total(direction="up", phase="train", tensor="activations") == 8 * (
            4 * 16 * tokens + 2 * 200
        )


def test_separate_cloud_halves_and_projections_are_refused(small):
    one, two = pair(small())
    two.split.cloud = build(small(), 0)[1]
    with pytest.raises(ValueError, match="give every Split the same CloudHalf"):
        fit([one, two], 1)
    with pytest.raises(ValueError, match="build the halves with width = 0"):
        fit(pair(small(width=8)), 1)
