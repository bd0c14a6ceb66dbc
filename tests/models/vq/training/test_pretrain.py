"""Which tokens are masked, losses against their definition, and that the halves learn from text alone."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models.vq.network.composite import states
from models.vq.network.halves import build
from models.vq.network.heads import head_for
from models.vq.network.tokens import Tokens
from models.vq.quantiser.codebook import Codebook
from models.vq.training.pretrain import (
    RTD_WEIGHT,
    Tied,
    choose,
    corrupt,
    generator_for,
    masked_loss,
    pretrain,
    replace,
    replaced_loss,
)

CLS, SEP, MASK = 2, 3, 4


def stutters(n, seed):
    """[CLS] a a a a a a a a [SEP]: a masked token follows from the others, and a replaced one stands out."""
    body = np.random.default_rng(seed).integers(5, 30, (n, 1)).repeat(8, 1)
    ids = torch.from_numpy(np.concatenate([np.full((n, 1), CLS), body, np.full((n, 1), SEP)], 1))
    return Tokens(ids, torch.zeros_like(ids), torch.full((n,), 10))


def test_a_share_of_each_text_is_masked_and_no_special_token(texts):
    tokens = texts(30, 12, 3)
    tokens.ids[:, 0] = CLS
    for i, length in enumerate(tokens.lengths):
        tokens.ids[i, length - 1] = SEP
    chosen = choose(tokens, (CLS, SEP), np.random.default_rng(0))
    assert chosen.sum(1).tolist() == [4, 2, 1]  # .15 of 28, of 10, and at least one
    assert not torch.isin(tokens.ids[chosen], torch.tensor([0, CLS, SEP])).any()
    after = corrupt(tokens, chosen, MASK)
    assert (after.ids[chosen] == MASK).all() and torch.equal(after.ids[~chosen], tokens.ids[~chosen])
    assert not torch.equal(chosen, choose(tokens, (CLS, SEP), np.random.default_rng(1)))


@pytest.mark.parametrize("quantised", [False, True])
def test_masked_loss_is_its_definition(small, quantised):
    shape = small(pool=2, width=8)
    (device, cloud), tokens = build(shape, 0), stutters(3, 0)
    head, tied = head_for("mlm", shape, 0, 0).eval(), Tied(shape)
    book = Codebook(torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))) if quantised else None
    chosen = choose(tokens, (CLS, SEP), np.random.default_rng(0))
    loss = masked_loss(device.eval(), cloud.eval(), head, tied, tokens, chosen, MASK, book)
    h, _, commitment = states(device, cloud, corrupt(tokens, chosen, MASK), book)
    every = head.hidden(h, tokens.lengths).view(3, 10, 16) @ device.embeddings.word_embeddings.weight.T
    each = [-F.log_softmax(every[i, t], 0)[tokens.ids[i, t]] for i, t in chosen.nonzero()]
    assert loss.item() == pytest.approx((sum(each) / len(each) + 0.25 * commitment).item(), rel=1e-5)
    assert (commitment.item() > 0) == quantised


def test_what_the_generator_gets_right_is_not_replaced(small):
    shape = small()
    (device, _), tokens = build(shape, 0), stutters(3, 0)
    generator = generator_for(shape, 0)
    chosen = choose(tokens, (CLS, SEP), np.random.default_rng(0))
    with torch.no_grad():
        generator.tied.bias[7] = 1e4  # always says 7
    made, new, loss = replace(generator, device, tokens, chosen, MASK, np.random.default_rng(0))
    assert (made.ids[chosen] == 7).all() and torch.equal(made.ids[~chosen], tokens.ids[~chosen])
    assert torch.equal(new.view(3, 10).bool(), chosen & (tokens.ids != 7))
    assert loss.requires_grad and not made.ids.is_floating_point()


def test_replaced_loss_is_its_definition(small):
    shape = small(pool=2)
    (device, cloud), tokens = build(shape, 0), stutters(3, 0)
    head, generator = head_for("rtd", shape, 1, 0).eval(), generator_for(shape, 0)
    chosen = choose(tokens, (CLS, SEP), np.random.default_rng(0))
    loss = replaced_loss(
        device.eval(), cloud.eval(), head, generator.eval(), tokens, chosen, MASK, np.random.default_rng(1)
    )
    made, new, own = replace(generator, device, tokens, chosen, MASK, np.random.default_rng(1))
    h, positions, _ = states(device, cloud, made)
    told = F.binary_cross_entropy_with_logits(head(h, positions, tokens.lengths)[:, 0], new)
    assert loss.item() == pytest.approx((own + RTD_WEIGHT * told).item(), rel=1e-5)


def pretrained(shape, objective, seed=0, epochs=1, lr=1e-2):
    device, cloud = build(shape, 0)
    return device, pretrain(device, cloud, objective, stutters(320, 0), (CLS, SEP), MASK, epochs, 32, lr, seed)


def test_halves_learn_masked_tokens_from_text_alone(small):
    """Through a pooled, projected cut; the same seed learns the same."""
    shape = small(pool=2, width=16)
    assert pretrained(shape, "mlm", epochs=6)[1][-1] < math.log(25) / 2
    (one, first), (two, second), (_, other) = (pretrained(shape, "mlm", seed) for seed in (0, 0, 1))
    assert first == second != other and torch.equal(one.into.weight, two.into.weight)


@pytest.mark.parametrize(
    ("objective", "nothing_known"), [("mlm", math.log(30)), ("electra", math.log(30) + 50 * math.log(2))]
)
def test_what_the_objectives_start_from(small, objective, nothing_known):
    """30 tokens as likely as each other, and even odds that one was replaced; at a rate of 0 nothing is learnt."""
    device, (loss,) = pretrained(small(), objective, lr=0.0)
    assert loss == pytest.approx(nothing_known, rel=0.1)
    assert torch.equal(
        device.state()["layers.0.output.dense.weight"], build(small(), 0)[0].layers[0].output.dense.weight
    )
