"""The split model as what is federated: texts from ids, and statistics whose mean is the codebook of the union."""

import numpy as np
import pytest
import torch

from models.aggregation.weighted_sum import WeightedSum
from models.submodel import FULL
from models.vq.network.body import SplitBody, SplitCosts, of_ids, split_body
from models.vq.quantiser.codebook import Codebook, Statistics
from models.vq.quantiser.codebook_ema import CodebookEMA


def body(shape, codes=(6, 2), seed=0) -> SplitBody:
    made = split_body(shape, 3, codes).whole(seed)
    assert isinstance(made, SplitBody)
    return made


def test_texts_and_pairs_of_padded_ids() -> None:
    tokens = of_ids(torch.tensor([[2, 9, 3, 7, 8, 3, 0, 0], [2, 9, 9, 9, 3, 0, 0, 0]], dtype=torch.int32))
    assert tokens.lengths.tolist() == [6, 5] and tokens.ids.shape == (2, 6)
    assert tokens.types.tolist() == [[0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0]]


def test_merged_statistics_are_those_of_the_union(small) -> None:
    """Devices of 3 and 5 examples: the mean weighted by examples moves the codebook as one device with all 8 would."""
    start = body(small(width=8))
    start.keep(Statistics(torch.rand(2, 6) + 1, torch.randn(2, 6, 4)))
    keeper = start.keeper()
    assert keeper is not None
    z = torch.randn(40, 8)
    codes = keeper.codebook.assign(z)
    parts = [(keeper.codebook.statistics(z[own], codes[own]), n) for own, n in ((slice(0, 15), 3), (slice(15, 40), 5))]
    merged = WeightedSum(start.axes(), start.state())
    for new, examples in parts:
        device = body(small(width=8))
        device.load_state_dict(start.state())
        device.moved(keeper, new, examples, decay=0.7)
        merged.add(device.state(), FULL, examples)
    after = merged.finish(start.state())
    union = keeper.running.scaled(0.7) + keeper.codebook.statistics(z, codes).scaled(0.3 / 8)
    torch.testing.assert_close(after["counts"].double(), union.counts, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(after["sums"].double(), union.sums, rtol=1e-5, atol=1e-6)
    start.load_state_dict(after)
    central = CodebookEMA(keeper.codebook, keeper.running).update(
        keeper.codebook.statistics(z, codes).scaled(1 / 8), 0.7
    )
    now = start.keeper()
    assert now is not None
    alive = union.counts > 0.05 * union.counts.mean()  # a dead vector is revived
    torch.testing.assert_close(now.codebook.vectors[alive], central.codebook.vectors[alive], rtol=1e-3, atol=1e-4)


def test_merged_vectors_are_their_mean(small) -> None:
    """Of devices of 3 and 5 examples, also of vectors that only one of them used."""
    start = body(small(width=8))
    start.keep(Statistics(torch.rand(2, 6) + 1, torch.randn(2, 6, 4)))
    keeper = start.keeper()
    assert keeper is not None
    merged, wanted = WeightedSum(start.axes(), start.state()), torch.zeros(2, 6, 4)
    for z, examples in ((torch.randn(15, 8), 3), (torch.randn(1, 8), 5)):
        new = keeper.codebook.statistics(z, keeper.codebook.assign(z))
        device = body(small(width=8))
        device.load_state_dict(start.state())
        device.moved(keeper, new, examples, 0.7, "vectors")
        merged.add(device.state(), FULL, examples)
        wanted += keeper.update(new.scaled(1 / examples), 0.7).codebook.vectors * examples / 8
    start.load_state_dict(merged.finish(start.state()))
    after = start.keeper()
    assert after is not None
    torch.testing.assert_close(after.codebook.vectors, wanted, rtol=1e-4, atol=1e-4)


def test_the_codebook_follows_from_the_statistics_alone(small) -> None:
    one, two = body(small(width=8), seed=0), body(small(width=8), seed=1)
    statistics = Statistics(torch.tensor([[4.0, 4, 4, 4, 4, 0]] * 2), torch.randn(2, 6, 4))
    one.keep(statistics)
    two.keep(statistics)
    a, b = one.keeper(), two.keeper()
    assert a is not None and b is not None
    assert torch.equal(a.codebook.vectors, b.codebook.vectors) and a.codebook.version == b.codebook.version != 0
    torch.testing.assert_close(a.codebook.vectors[:, 1:5], (statistics.sums[:, 1:5] / 4).float(), rtol=1e-4, atol=1e-5)
    assert (a.running.counts[:, 5] > 0).all()  # revived, from the most used
    two.keep(Statistics(statistics.counts, statistics.sums + 0.5))
    moved = two.keeper()
    assert moved is not None and moved.codebook.version != a.codebook.version


def test_the_two_sides_share_the_statistics_alone(small) -> None:
    whole = body(small(width=8))
    sides = whole.on_device()
    assert {"counts", "sums"} < sides and all(n.startswith("device.") for n in sides - {"counts", "sums"})
    assert whole.state().keys() - sides == {n for n in whole.state() if n.startswith(("cloud.", "head."))}
    assert body(small(width=8), codes=None).keeper() is None


def test_groups_that_do_not_divide_are_refused(small) -> None:
    with pytest.raises(ValueError, match="3 groups do not divide a code space of 8 numbers"):
        split_body(small(width=8), 3, (6, 3))


def test_costs_count_texts_of_full_length(small) -> None:
    """Twice the tokens, twice the MACs of every linear layer; what is quantised costs no parameter."""
    short, long = (SplitCosts(split_body(small(width=8, tokens=n), 3, (6, 2)), 4).whole for n in (8, 16))
    assert 1.9 < long.macs / short.macs < 2.5 and long.memory > short.memory
    state = body(small(width=8, tokens=8)).state()
    assert short.params == sum(value.numel() for value in state.values()) and short.bytes == 4 * short.params


def test_no_codes_without_a_codebook(small, texts) -> None:
    """In one graph, codes of vectors that stand everywhere are as good as activations."""
    shape, tokens = small(width=2), texts(6, 4)
    exact, coded = body(shape, None), body(shape, (400, 1))
    with torch.no_grad():
        z = exact.eval().device(tokens)
    vectors = torch.cat([z, torch.zeros(400 - len(z), 2)])[None]
    coded.keep(Statistics(torch.ones(1, 400), vectors))
    coded.load_state_dict({**exact.state(), "counts": coded.counts, "sums": coded.sums})
    ids = tokens.ids.masked_fill(torch.arange(6) == tokens.lengths[:, None] - 1, 3)
    assert Codebook(vectors).size == 400 and np.isfinite(exact(ids).detach().numpy()).all()


def test_what_is_frozen_is_never_sent(small) -> None:
    """The word table and a layer of two; a state without them is whole, one without anything else is not."""
    one, two = body(small(width=8, frozen=2), seed=0), body(small(width=8, frozen=2), seed=1)
    state = one.state()
    assert not [name for name in state if name.startswith(("device.embeddings", "device.layers.0"))]
    assert {"device.layers.1.output.dense.weight", "counts", "cloud.out.weight"} <= state.keys() == one.axes().keys()
    before = two.device.embeddings.word_embeddings.weight.clone()
    two.load_state_dict(state)
    assert torch.equal(two.head.read.weight, one.head.read.weight)
    assert torch.equal(two.device.embeddings.word_embeddings.weight, before)
    assert one.on_device() < state.keys() and not any(name.startswith("cloud.") for name in one.on_device())
    with pytest.raises(RuntimeError, match='Missing key.*"head.read.weight"'):
        two.load_state_dict({name: value for name, value in state.items() if name != "head.read.weight"})
    free, frozen = (SplitCosts(split_body(small(width=8, frozen=n), 3, (6, 2)), 4).whole for n in (0, 2))
    table = 16 * (30 + 32 + 2 + 2)  # words, places, sentences, the norm of all three
    layer = 4 * (16 * 16 + 16) + (16 * 32 + 32) + (32 * 16 + 16) + 4 * 16
    assert free.bytes - frozen.bytes == 4 * (table + layer)
