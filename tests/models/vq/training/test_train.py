"""Central training of a small split model: it learns through every boundary, with the formulas' bytes."""

from dataclasses import replace
from math import ceil

import numpy as np
import pytest
import torch

from models.vq.network.halves import build
from models.vq.network.heads import head_for
from models.vq.network.tokens import Tokens
from models.vq.training.train import Quantiser, Split, SplitTrainingPlan, StemCache, accuracy

MARKS = torch.tensor([5, 6])  # the class of a text is which of the two it contains


def marked(n, seed):
    """Build texts of 4 to 9 tokens, one of them a mark at a random place."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(4, 10, n)
    ids = generator.integers(7, 30, (n, 9)) * (np.arange(9) < lengths[:, None])
    labels = generator.integers(2, size=n)
    ids[np.arange(n), generator.integers(1, lengths)] = MARKS[labels]
    ids = torch.from_numpy(ids)
    return Tokens(ids, torch.zeros_like(ids), torch.from_numpy(lengths)), torch.from_numpy(labels)


def split(shape, quantiser=None, seed=0, **changes):
    plan = SplitTrainingPlan(**({"epochs": 6, "lr": 6e-3, "fresh": 6e-3, "quantiser": quantiser} | changes))
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
    model = split(small(width=16, pool=2), quantiser, down="int8")
    losses = model.fit(*train, seed=1)
    model.traffic.clear()
    assert accuracy(model.predict(test[0]), test[1]) > 0.9 and losses[-1] < losses[0]
    positions = [1 + ceil((t - 1) / 2) for t in test[0].lengths.tolist()]
    row = {None: 64.0}.get(quantiser, quantiser and quantiser.groups / 2)
    assert model.traffic.total(direction="up", phase="infer") == sum(ceil(n * row) + 2 for n in positions)
    assert model.traffic.total(phase="train") == 0
    assert (quantiser is None) == (model.perplexity() == 0 == model.entropy())


def test_the_same_seed_trains_the_same(small):
    train, test = marked(64, 0), marked(20, 1)
    one, two, other = (split(small(width=8, dropout=0.2), Quantiser(8, 2, round_steps=2), epochs=2) for _ in range(3))
    losses = [model.fit(*train, seed=seed) for model, seed in ((one, 3), (two, 3), (other, 4))]
    assert losses[0] == losses[1] != losses[2]
    assert torch.equal(one.predict(test[0]), two.predict(test[0]))
    assert one.codebook.version == two.codebook.version > 0


def test_cached_stems_equal_the_frozen_layers(small):
    tokens, _ = marked(64, 0)
    device, _ = build(small(width=8, frozen=2, pool=4), 0)
    rows = torch.tensor([3, 0, 9])
    cached, lengths = StemCache(device, tokens)[rows]
    fresh, fresh_lengths = device.train().stem(tokens[rows])
    assert torch.equal(lengths, fresh_lengths)
    mask = torch.arange(cached.shape[1]) < lengths[:, None]
    torch.testing.assert_close(cached[mask], fresh[mask], rtol=1e-5, atol=1e-6)


def test_a_frozen_codebook_does_not_change(small):
    (tokens, labels), versions = marked(64, 0), []
    for learn in ("frozen", "mean"):
        model = split(small(width=8), Quantiser(8, 2, round_steps=1, revive=False, learn=learn), epochs=3)
        model.fit(tokens, labels, seed=0)
        versions.append(model.codebook.version)
    # six steps, the first one with activations; k-means is five pairs of Lloyd and revival, and a last Lloyd step
    assert versions == [11, 11 + 5]


@pytest.mark.parametrize("width", [0, 12])
def test_quantising_a_trained_model_keeps_its_function_and_weighing_helps_the_task(small, width):
    """Weighted and plain code space compute the trained model; the error is smallest along small gradients."""
    (train, labels), (test, answers) = marked(200, 0), marked(80, 1)
    model = split(small(dropout=0.1, width=width))
    model.fit(train, labels, seed=1)
    logits, weights = model.predict(test), [p.clone() for p in (*model.device.parameters(), *model.cloud.parameters())]
    h, slopes = model._states(StemCache(model.device, train)), model._slopes(StemCache(model.device, train), 1).float()
    sent, accuracies, cost = model.device.into(h).detach(), {}, {True: np.zeros(2), False: np.zeros(2)}
    quantisers = [Quantiser(16, 2, weigh=of) for of in (True, False)]
    # several seeds, because k-means depends on its start
    for late in (late for seed in range(4) for late in model.quantised(train, quantisers, seed)):
        weigh, z = late.plan.quantiser.weigh, late.device.into(h).detach()
        accuracies[weigh] = accuracy(late.predict(test), answers)
        # inverse of the change of coordinates
        inverse = torch.linalg.lstsq(z - z.mean(0), sent - sent.mean(0), rcond=1e-4).solution
        error = (late.codebook.lookup(late.codebook.assign(z)) - z) @ inverse
        cost[weigh] += float(torch.einsum("ni,ij,nj->", error, slopes, error)), float(error.square().sum())
        whole = Split(late.device, late.cloud, late.head, model.plan)
        torch.testing.assert_close(whole.predict(test), logits, rtol=1e-3, atol=1e-3)
    assert cost[True][0] < cost[False][0]
    if width:  # without a projection, one direction is nearly empty, and its inverse amplifies noise
        assert cost[True][1] > cost[False][1]
    assert accuracies[True] > 0.9
    parameters = zip((*model.device.parameters(), *model.cloud.parameters()), weights, strict=True)
    assert all(torch.equal(now, before) for now, before in parameters)


@pytest.mark.parametrize("pool", [1, 4])
def test_distillation_brings_predictions_from_codes_closer(small, pool):
    """Also for other texts; only cloud half and head change, in copies, and the codes are the same."""
    (train, labels), (test, _) = marked(200, 0), marked(80, 1)
    model = split(small(pool=pool))
    model.fit(train, labels, seed=1)
    model.plan = replace(model.plan, lr=1e-3)  # a nearly correct model needs small steps
    (late,) = model.quantised(train, [Quantiser(16, 2, weigh=True)], seed=1)
    before = [p.clone() for part in (late.device, late.cloud, late.head) for p in part.parameters()]
    distilled = late.distil_cloud(train, model.predict(train), 4, seed=1)
    for texts, enough in ((train, 0.8), (test, 1.0)):
        wanted = model.predict(texts)
        far, near = (float((model.predict(texts) - wanted).square().mean()) for model in (late, distilled))
        assert near < enough * far
        assert torch.equal(late.received, distilled.received)
    parameters = [p for part in (late.device, late.cloud, late.head) for p in part.parameters()]
    assert all(torch.equal(now, then) for now, then in zip(parameters, before, strict=True))
    assert late.distil_cloud(train, model.predict(train), 0, seed=1).predict(test).equal(late.predict(test))
