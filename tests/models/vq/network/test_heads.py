"""Losses of the heads by hand, and logits that depend only on their own text."""

import math

import numpy as np
import pytest
import torch

from models.vq.network.halves import build
from models.vq.network.heads import HEADS, Choice, Regress, Replaced, Span, head_for
from models.vq.network.tokens import Tokens

LN2 = math.log(2)


def test_losses_by_hand():
    lengths = torch.tensor([2, 3])
    # A span: equal logits are uniform over the tokens of each text, 2 and 3 of them; padding has probability 0.
    flat = Span.loss(torch.zeros(5, 2), torch.tensor([[0, 1], [2, 2]]), lengths)
    assert float(flat) == pytest.approx((LN2 + math.log(3)) / 2)
    sure = torch.full((5, 2), -50.0)
    sure[0, 0] = sure[1, 1] = sure[4, 0] = sure[4, 1] = 50.0
    assert float(Span.loss(sure, torch.tensor([[0, 1], [2, 2]]), lengths)) == pytest.approx(0, abs=1e-6)
    # Two questions of three options.
    logits = torch.tensor([0.0, 0, 0, 9, 0, 0])[:, None]
    expected = (math.log(3) + math.log(1 + 2 * math.exp(-9))) / 2
    assert float(Choice.loss(logits, torch.tensor([1, 0]), lengths)) == pytest.approx(expected, rel=1e-4)
    assert float(Regress.loss(torch.tensor([[1.0], [3.0]]), torch.tensor([2.0, 5.0]), lengths)) == 2.5
    assert float(Replaced.loss(torch.zeros(5, 1), torch.ones(5), lengths)) == pytest.approx(LN2)


@pytest.mark.parametrize("task", list(HEADS))
@pytest.mark.parametrize("p", [1, 4])
def test_logits_of_a_text_do_not_depend_on_the_batch(small, texts, task, p):
    """One row per text or per token."""
    shape = small(pool=p)
    device, cloud = (half.eval() for half in build(shape, seed=0))
    head = head_for(task, shape, 3, seed=0).eval()
    batch = texts(9, 6)
    single = batch[torch.tensor([1])]

    def logits(tokens):
        return head(*cloud(device(tokens), tokens.lengths), tokens.lengths)

    rows = {"example": (1, 2), "token": (9, 15)}[head.per]
    assert logits(batch).shape == (rows[1], head.width)
    torch.testing.assert_close(logits(batch)[rows[0] :], logits(single), rtol=1e-4, atol=1e-5)


def test_tokens_of_one_position_differ_by_their_offset(small, texts):
    shape = small(pool=4, dropout=0.0)
    head = head_for("rtd", shape, 1, seed=0).eval()
    h = torch.ones(1, 3, 16)
    logits = head(h, torch.tensor([3]), torch.tensor([9]))[:, 0]
    assert len({round(v, 6) for v in logits[1:5].tolist()}) == 4
    torch.testing.assert_close(logits[1:5], logits[5:9])


def test_an_unknown_task_is_refused(small):
    with pytest.raises(ValueError, match="unknown task 'poetry'; choose from classify, regress"):
        head_for("poetry", small(), 2, 0)


def test_the_best_span_is_in_the_second_text_and_not_too_long():
    """Texts of 6 and 40 tokens; the first text has three. The largest logits are at forbidden tokens."""
    lengths = torch.tensor([6, 40])
    at = torch.arange(40)
    tokens = Tokens(torch.zeros(2, 40).long(), ((at >= 3) & (at < lengths[:, None])).long(), lengths)
    logits = torch.zeros(46, 2)
    logits[[0, 1, 5], 0] = logits[[0, 2, 5], 1] = 99.0  # [CLS], the first text, the [SEP] of the second
    logits[4, 0], logits[3, 1] = 9.0, 9.0  # the end precedes the start: only 4 to 4 or 3 to 3 is allowed
    logits[3, 0] = 1.0  # so 3 to 3 has 10
    logits[6 + 4, 0], logits[6 + 34, 1], logits[6 + 33, 1] = 5.0, 5.0, 4.0  # 31 tokens and 30
    assert Span.best(logits, tokens).tolist() == [[3, 3], [4, 33]]
    for seed in range(20):
        first, last = Span.best(torch.randn(46, 2, generator=torch.Generator().manual_seed(seed)), tokens).unbind(1)
        assert (first >= 3).all() and (last >= first).all() and (last < lengths - 1).all() and (last - first < 30).all()


def test_sampled_logits_have_the_covariance_of_all_classes():
    """The mean of their outer products is that of all centred logits; a span's classes are its text's tokens."""
    logits, lengths = torch.tensor([[0.0, 6], [2, 0], [1, 0], [2, 0], [6, 3]]), torch.tensor([2, 3])
    generator = np.random.default_rng(0)
    sampled_logit = torch.stack([Span.sampled_logit(logits, lengths, generator) for _ in range(4000)])
    assert {tuple(map(tuple, of.tolist())) for of in sampled_logit} == {
        ((a, b), (c, d)) for a in (-1.0, 1.0) for b in (3.0, -3.0) for c in (-2.0, -1.0, 3.0) for d in (-1.0, 2.0)
    }
    flattened = sampled_logit.flatten(1)
    torch.testing.assert_close(
        flattened.T @ flattened / 4000, torch.diag(torch.tensor([1, 9, 14 / 3, 2])), atol=0.3, rtol=0
    )
    (row,) = {tuple(Choice.sampled_logit(torch.tensor([[5.0]]), lengths, generator).tolist()) for _ in range(3)}
    assert row == (5.0,)
