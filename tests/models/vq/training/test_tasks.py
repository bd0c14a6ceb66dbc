"""Tasks that share a stack: one alone is `Split.fit`, and GradNorm's weights reach the shared stack."""

import pytest
import torch
from tests.models.vq.test_train import marked, split

from models.vq.network.halves import build
from models.vq.network.heads import Classify
from models.vq.training import tasks as several
from models.vq.training.tasks import Task, fit, interleaved
from models.vq.training.train import Plan, Quantiser, Split, accuracy


class Loud(Classify):
    """A task whose loss is written in other units."""

    @staticmethod
    def loss(logits, labels, lengths):
        return 100 * Classify.loss(logits, labels, lengths)


def pair(shape, sizes=(64, 64), heads=(Classify, Classify), seeds=(0, 0), **changes):
    """Tasks of marked texts, each with a device half and a head of its own."""
    plan = Plan(**({"epochs": 2, "lr": 6e-3, "fresh": 6e-3} | changes))
    cloud, made = build(shape, 0)[1], []
    for n, head, seed in zip(sizes, heads, seeds, strict=True):
        torch.manual_seed(seed)
        made.append(Task(Split(build(shape, seed)[0], cloud, head(shape, 2), plan), *marked(n, seed)))
    return made


def parameters(own: Split):
    return [p for part in (own.device, own.cloud, own.head) for p in part.parameters()]


@pytest.mark.parametrize("quantiser", [None, Quantiser(8, 2, float_share=0.3, round_steps=2)])
def test_one_task_is_the_training_of_a_split(small, quantiser):
    """Bit for bit: losses, all parameters, bytes, and the codebook, which moves after the last of eight steps too."""
    texts, shape = marked(64, 0), small(dropout=0.2)
    alone, one = (split(shape, quantiser, epochs=4, down="int8") for _ in range(2))
    expected = alone.fit(*texts, seed=3)
    (losses,), weights = fit([Task(one, *texts)], 3, gradnorm=True)
    assert losses == expected and weights.tolist() == [[1.0]] * 9
    assert all(torch.equal(own, same) for own, same in zip(parameters(alone), parameters(one), strict=True))
    assert alone.ledger == one.ledger and len(one.ledger)
    if quantiser:
        assert alone.codebook.version == one.codebook.version
        assert torch.equal(alone.codebook.vectors, one.codebook.vectors)


def test_steps_are_spread_evenly():
    assert interleaved([2, 4]) == [1, 0, 1, 1, 0, 1] and interleaved([2, 2]) == [0, 1, 0, 1]


def test_equal_norms_and_losses_leave_the_weights_alone(small):
    """Twins that never move, since both learning rates are 0; a round each time that the smaller set has stepped."""
    _, weights = fit(pair(small(), lr=0.0, fresh=0.0), 1, gradnorm=True)
    assert weights.tolist() == [[1.0, 1.0]] * 5
    _, weights = fit(pair(small(), sizes=(64, 128)), 1)
    assert weights.tolist() == [[1.0, 1.0]] * 5


def test_norms_are_those_of_the_unweighted_losses(small, monkeypatch):
    """Nothing moves but the weights: so what GradNorm is told by a task of one batch is the same in every round."""
    told = []

    def spy(weights, norms, losses, first):
        told.append((norms, losses, first))
        return torch.tensor([1.75, 0.25])

    monkeypatch.setattr(several, "reweigh", spy)
    tasks = pair(small(), sizes=(32, 32), heads=(Classify, Loud), epochs=3, lr=0.0, fresh=0.0)
    fit(tasks, 1, gradnorm=True)
    for norms, losses, first in told:
        torch.testing.assert_close(norms, told[0][0], rtol=2e-3, atol=0)  # float16 gradients of logits
        torch.testing.assert_close(losses, told[0][1])
        assert torch.equal(first, told[0][1])
    of = tasks[0]  # by hand, where no codec is
    lengths = of.tokens.lengths
    logits = of.split.head(*of.split.cloud(of.split.device.eval()(of.tokens), lengths), lengths)
    grads = torch.autograd.grad(of.split.head.loss(logits, of.labels, lengths), of.split.cloud.layers[-1].parameters())
    norm = torch.cat([g.flatten() for g in grads]).norm()
    torch.testing.assert_close(told[0][0], torch.stack([norm, 100 * norm]), rtol=2e-3, atol=0)


def test_a_weight_scales_what_the_shared_stack_and_the_device_step_along(small):
    """Their gradients, across the cut; labels and the weight stay on the device."""
    found = []
    for weight in (1.0, 0.25):
        (own, *_) = pair(small())
        step = next(own.split.course(own.tokens, own.labels, 1, *own.split.ends(several.Recipe())))
        loss = step.take(weight)
        found.append((loss, [p.grad for p in parameters(own.split) if p.grad is not None]))
    (loss, full), (same, quarter) = found
    assert loss == pytest.approx(same) and len(full) == len(quarter) > 30
    for one, other in zip(full, quarter, strict=True):
        torch.testing.assert_close(other, one / 4, rtol=1e-3, atol=1e-6)


def test_a_loud_task_gets_a_smaller_weight_and_both_learn_the_shared_stack(small):
    """A hundredfold loss has a hundredfold norm; bytes of each task are those of its own texts."""
    tasks = pair(small(), sizes=(200, 200), heads=(Classify, Loud), seeds=(0, 1), epochs=8)
    losses, weights = fit(tasks, 1, gradnorm=True)
    assert weights[1:, 1].mean() < 0.5 < 1.5 < weights[1:, 0].mean()
    torch.testing.assert_close(weights.sum(1), torch.full((len(weights),), 2.0))
    for seed, (task, own) in enumerate(zip(tasks, losses, strict=True)):
        test, answers = marked(80, 10 + seed)
        assert own[-1] < own[0] and accuracy(task.split.predict(test), answers) > 0.9
        tokens = int(task.tokens.lengths.sum())
        assert task.split.ledger.total(direction="up", phase="train", tensor="activations") == 8 * (
            4 * 16 * tokens + 2 * 200
        )


def test_refused(small):
    one, two = pair(small())
    two.split.cloud = build(small(), 0)[1]
    with pytest.raises(ValueError, match="give every Split the same CloudHalf"):
        fit([one, two], 1)
    with pytest.raises(ValueError, match="build the halves with width = 0"):
        fit(pair(small(width=8)), 1)
