"""Choice of masked tokens, losses against their definition, and learning from unlabelled text."""

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
    choose_masked,
    corrupt,
    generator_for,
    masked_loss,
    pretrain,
    replace,
    replaced_loss,
)

CLS, SEP, MASK = 2, 3, 4


def repetitions(n, seed):
    """[CLS] a a a a a a a a [SEP]: the other tokens determine a masked token and reveal a replaced one."""
    body = np.random.default_rng(seed).integers(5, 30, (n, 1)).repeat(8, 1)
    ids = torch.from_numpy(np.concatenate([np.full((n, 1), CLS), body, np.full((n, 1), SEP)], 1))
    return Tokens(ids, torch.zeros_like(ids), torch.full((n,), 10))


def test_a_share_of_each_text_is_masked_but_no_special_token(texts):
    tokens = texts(30, 12, 3)
    tokens.ids[:, 0] = CLS
    for i, length in enumerate(tokens.lengths):
        tokens.ids[i, length - 1] = SEP
    chosen = choose_masked(tokens, (CLS, SEP), np.random.default_rng(0))
    assert chosen.sum(1).tolist() == [4, 2, 1]  # .15 of 28, of 10, and at least one
    assert not torch.isin(tokens.ids[chosen], torch.tensor([0, CLS, SEP])).any()
    after = corrupt(tokens, chosen, MASK)
    assert (after.ids[chosen] == MASK).all() and torch.equal(after.ids[~chosen], tokens.ids[~chosen])
    assert not torch.equal(chosen, choose_masked(tokens, (CLS, SEP), np.random.default_rng(1)))


@pytest.mark.parametrize("quantised", [False, True])
def test_masked_loss_is_its_definition(small, quantised):
    shape = small(pool=2, width=8)
    (device, cloud), tokens = build(shape, 0), repetitions(3, 0)
    head, tied = head_for("mlm", shape, 0, 0).eval(), Tied(shape)
    book = Codebook(torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))) if quantised else None
    chosen = choose_masked(tokens, (CLS, SEP), np.random.default_rng(0))
    loss = masked_loss(device.eval(), cloud.eval(), head, tied, tokens, chosen, MASK, book)
    h, _, commitment = states(device, cloud, corrupt(tokens, chosen, MASK), book)
    logits = head.hidden(h, tokens.lengths).view(3, 10, 16) @ device.embeddings.word_embeddings.weight.T
    each = [-F.log_softmax(logits[i, t], 0)[tokens.ids[i, t]] for i, t in chosen.nonzero()]
    assert loss.item() == pytest.approx((sum(each) / len(each) + 0.25 * commitment).item(), rel=1e-5)
    assert (commitment.item() > 0) == quantised


def test_correct_guesses_of_the_generator_are_not_replaced(small):
    shape = small()
    (device, _), tokens = build(shape, 0), repetitions(3, 0)
    generator = generator_for(shape, 0)
    chosen = choose_masked(tokens, (CLS, SEP), np.random.default_rng(0))
    with torch.no_grad():
        generator.tied.bias[7] = 1e4  # always predicts 7
    corrupted, replaced, loss = replace(generator, device, tokens, chosen, MASK, np.random.default_rng(0))
    assert (corrupted.ids[chosen] == 7).all() and torch.equal(corrupted.ids[~chosen], tokens.ids[~chosen])
    assert torch.equal(replaced.view(3, 10).bool(), chosen & (tokens.ids != 7))
    assert loss.requires_grad and not corrupted.ids.is_floating_point()


def test_replaced_loss_is_its_definition(small):
    shape = small(pool=2)
    (device, cloud), tokens = build(shape, 0), repetitions(3, 0)
    head, generator = head_for("rtd", shape, 1, 0).eval(), generator_for(shape, 0)
    chosen = choose_masked(tokens, (CLS, SEP), np.random.default_rng(0))
    loss = replaced_loss(
        device.eval(), cloud.eval(), head, generator.eval(), tokens, chosen, MASK, np.random.default_rng(1)
    )
    corrupted, replaced, generator_loss = replace(generator, device, tokens, chosen, MASK, np.random.default_rng(1))
    h, positions, _ = states(device, cloud, corrupted)
    discriminator_loss = F.binary_cross_entropy_with_logits(head(h, positions, tokens.lengths)[:, 0], replaced)
    assert loss.item() == pytest.approx((generator_loss + RTD_WEIGHT * discriminator_loss).item(), rel=1e-5)


def pretrained(shape, objective, seed=0, epochs=1, lr=1e-2):
    device, cloud = build(shape, 0)
    return device, pretrain(device, cloud, objective, repetitions(320, 0), (CLS, SEP), MASK, epochs, 32, lr, seed)


def test_halves_learn_masked_tokens_from_text_alone(small):
    """Through a pooled, projected cut; the same seed gives the same result."""
    shape = small(pool=2, width=16)
    assert pretrained(shape, "mlm", epochs=6)[1][-1] < math.log(25) / 2
    (first_device, first), (second_device, second), (_, other) = (pretrained(shape, "mlm", seed) for seed in (0, 0, 1))
    assert first == second != other and torch.equal(first_device.into.weight, second_device.into.weight)


@pytest.mark.parametrize(
    ("objective", "expected"), [("mlm", math.log(30)), ("electra", math.log(30) + 50 * math.log(2))]
)
def test_initial_losses_of_the_objectives(small, objective, expected):
    """30 equally likely tokens, and even odds of a replacement; with rate 0 nothing changes."""
    device, (loss,) = pretrained(small(), objective, lr=0.0)
    assert loss == pytest.approx(expected, rel=0.1)
    assert torch.equal(
        device.state()["layers.0.output.dense.weight"], build(small(), 0)[0].layers[0].output.dense.weight
    )
