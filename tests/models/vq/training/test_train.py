"""A split model trained from scratch on small text: it learns through every boundary, at the formulae's bytes."""

from dataclasses import replace
from math import ceil

import numpy as np
import pytest
import torch

from models.vq.network.halves import build
from models.vq.network.heads import head_for
from models.vq.network.tokens import Tokens
from models.vq.training.train import Plan, Quantiser, Split, Stems, accuracy

MARKS = torch.tensor([5, 6])  # which of the two a text holds is its class


def marked(n, seed):
    """Texts of 4 to 9 tokens, one of them a mark at a random place."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(4, 10, n)
    ids = generator.integers(7, 30, (n, 9)) * (np.arange(9) < lengths[:, None])
    labels = generator.integers(2, size=n)
    ids[np.arange(n), generator.integers(1, lengths)] = MARKS[labels]
    ids = torch.from_numpy(ids)
    return Tokens(ids, torch.zeros_like(ids), torch.from_numpy(lengths)), torch.from_numpy(labels)


def split(shape, quantiser=None, seed=0, **changes):
    plan = Plan(**({"epochs": 6, "lr": 6e-3, "fresh": 6e-3, "quantiser": quantiser} | changes))
    return Split(*build(shape, seed), head_for("classify", shape, 2, seed), plan)


@pytest.mark.parametrize(
    "quantiser",
    [
        None,
        Quantiser(16, 4, float_share=0.3, round_steps=5),
        Quantiser(16, 2, True, float_share=0.3, round_steps=5),
        Quantiser(16, 2, float_share=0.7, round_steps=5, weigh=True),
    ],
)
def test_learns_through_the_boundary(small, quantiser):
    train, test = marked(200, 0), marked(80, 1)
    own = split(small(width=16, pool=2), quantiser, down="int8")
    losses = own.fit(*train, seed=1)
    own.ledger.clear()
    assert accuracy(own.predict(test[0]), test[1]) > 0.9 and losses[-1] < losses[0]
    positions = [1 + ceil((t - 1) / 2) for t in test[0].lengths.tolist()]
    row = {None: 64.0}.get(quantiser, quantiser and quantiser.groups / 2)
    assert own.ledger.total(direction="up", phase="infer") == sum(ceil(n * row) + 2 for n in positions)
    assert own.ledger.total(phase="train") == 0
    assert (quantiser is None) == (own.perplexity() == 0 == own.entropy())


def test_the_same_seed_trains_the_same(small):
    train, test = marked(64, 0), marked(20, 1)
    one, two, other = (split(small(width=8, dropout=0.2), Quantiser(8, 2, round_steps=2), epochs=2) for _ in range(3))
    losses = [own.fit(*train, seed=seed) for own, seed in ((one, 3), (two, 3), (other, 4))]
    assert losses[0] == losses[1] != losses[2]
    assert torch.equal(one.predict(test[0]), two.predict(test[0]))
    assert one.codebook.version == two.codebook.version > 0


def test_stems_are_what_the_frozen_layers_say(small):
    tokens, _ = marked(64, 0)
    device, _ = build(small(width=8, frozen=2, pool=4), 0)
    rows = torch.tensor([3, 0, 9])
    own, lengths = Stems(device, tokens)[rows]
    fresh, same = device.train().stem(tokens[rows])
    assert torch.equal(lengths, same)
    there = torch.arange(own.shape[1]) < lengths[:, None]
    torch.testing.assert_close(own[there], fresh[there], rtol=1e-5, atol=1e-6)


def test_a_frozen_codebook_stays(small):
    (tokens, labels), versions = marked(64, 0), []
    for learn in ("frozen", "mean"):
        own = split(small(width=8), Quantiser(8, 2, round_steps=1, revive=False, learn=learn), epochs=3)
        own.fit(tokens, labels, seed=0)
        versions.append(own.codebook.version)
    # six steps, the first one in float; k-means is five pairs of Lloyd and revival, and a last one
    assert versions == [11, 11 + 5]


@pytest.mark.parametrize("width", [0, 12])
def test_late_codes_leave_the_model_as_it_is_and_weighing_spares_what_the_task_reads(small, width):
    """Weighed and plain code space say what the trained model says; a code costs least where its gradients are few."""
    (train, labels), (test, answers) = marked(200, 0), marked(80, 1)
    own = split(small(dropout=0.1, width=width))
    own.fit(train, labels, seed=1)
    logits, weights = own.predict(test), [p.clone() for p in (*own.device.parameters(), *own.cloud.parameters())]
    h, slopes = own._states(Stems(own.device, train)), own._slopes(Stems(own.device, train), 1).float()
    sent, found, cost = own.device.into(h).detach(), {}, {True: np.zeros(2), False: np.zeros(2)}
    quantisers = [Quantiser(16, 2, weigh=of) for of in (True, False)]
    for late in (late for seed in range(4) for late in own.quantised(train, quantisers, seed)):  # k-means has its luck
        weigh, z = late.plan.quantiser.weigh, late.device.into(h).detach()
        found[weigh] = accuracy(late.predict(test), answers)
        turn = torch.linalg.lstsq(z - z.mean(0), sent - sent.mean(0), rcond=1e-4).solution  # back to what was sent
        error = (late.codebook.lookup(late.codebook.assign(z)) - z) @ turn
        cost[weigh] += float(torch.einsum("ni,ij,nj->", error, slopes, error)), float(error.square().sum())
        whole = Split(late.device, late.cloud, late.head, own.plan)
        torch.testing.assert_close(whole.predict(test), logits, rtol=1e-3, atol=1e-3)
    assert cost[True][0] < cost[False][0]
    if width:  # without, the way back is through a direction that is next to empty, and what it costs is noise
        assert cost[True][1] > cost[False][1]
    assert found[True] > 0.9
    kept = zip((*own.device.parameters(), *own.cloud.parameters()), weights, strict=True)
    assert all(torch.equal(now, before) for now, before in kept)


@pytest.mark.parametrize("pool", [1, 4])
def test_a_taught_cloud_answers_codes_more_as_it_answered_activations(small, pool):
    """On texts that it was not taught on too; by its half and head alone, in copies, on the very codes that cross."""
    (train, labels), (test, _) = marked(200, 0), marked(80, 1)
    own = split(small(pool=pool))
    own.fit(train, labels, seed=1)
    own.plan = replace(own.plan, lr=1e-3)  # what is nearly right needs small steps
    (late,) = own.quantised(train, [Quantiser(16, 2, weigh=True)], seed=1)
    before = [p.clone() for part in (late.device, late.cloud, late.head) for p in part.parameters()]
    taught = late.taught(train, own.predict(train), 4, seed=1)
    for texts, enough in ((train, 0.8), (test, 1.0)):
        wanted = own.predict(texts)
        far, near = (float((model.predict(texts) - wanted).square().mean()) for model in (late, taught))
        assert near < enough * far
        assert torch.equal(late.arrived, taught.arrived)
    kept = [p for part in (late.device, late.cloud, late.head) for p in part.parameters()]
    assert all(torch.equal(now, then) for now, then in zip(kept, before, strict=True))
    assert late.taught(train, own.predict(train), 0, seed=1).predict(test).equal(late.predict(test))
