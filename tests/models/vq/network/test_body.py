"""The split model as one federated body: texts from ids, and statistics whose mean is the codebook of the union."""

import pytest
import torch

from models.aggregation.weighted_sum import WeightedSum
from models.submodel import FULL
from models.vq.network.body import SplitBody, SplitCosts, split_body, tokens_from_ids
from models.vq.quantiser.codebook import Statistics
from models.vq.quantiser.codebook_ema import CodebookEMA


def body(shape, codes=(6, 2), seed=0) -> SplitBody:
    made = split_body(shape, 3, codes).whole(seed)
    assert isinstance(made, SplitBody)
    return made


def test_texts_and_pairs_of_padded_ids() -> None:
    tokens = tokens_from_ids(torch.tensor([[2, 9, 3, 7, 8, 3, 0, 0], [2, 9, 9, 9, 3, 0, 0, 0]], dtype=torch.int32))
    assert tokens.lengths.tolist() == [6, 5] and tokens.ids.shape == (2, 6)
    assert tokens.types.tolist() == [[0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0]]


def test_aggregated_statistics_are_those_of_the_union(small) -> None:
    """Clients of 3 and 5 examples: their weighted mean moves the codebook as one client with all 8 would."""
    start = body(small(width=8))
    start.set_statistics(Statistics(torch.rand(2, 6) + 1, torch.randn(2, 6, 4)))
    ema = start.codebook_ema()
    assert ema is not None
    z = torch.randn(40, 8)
    codes = ema.codebook.assign(z)
    updates_ = [
        (ema.codebook.statistics(z[rows], codes[rows]), n) for rows, n in ((slice(0, 15), 3), (slice(15, 40), 5))
    ]
    merged = WeightedSum(start.axes(), start.state())
    for new, examples in updates_:
        client = body(small(width=8))
        client.load_state_dict(start.state())
        client.add_statistics(ema, new, examples, decay=0.7)
        merged.add(client.state(), FULL, examples)
    after = merged.finish(start.state())
    union = ema.running.scaled(0.7) + ema.codebook.statistics(z, codes).scaled(0.3 / 8)
    torch.testing.assert_close(after["counts"].double(), union.counts, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(after["sums"].double(), union.sums, rtol=1e-5, atol=1e-6)
    start.load_state_dict(after)
    centralised = CodebookEMA(ema.codebook, ema.running).update(ema.codebook.statistics(z, codes).scaled(1 / 8), 0.7)
    now = start.codebook_ema()
    assert now is not None
    used = union.counts > 0.05 * union.counts.mean()  # unused vectors are revived
    torch.testing.assert_close(now.codebook.vectors[used], centralised.codebook.vectors[used], rtol=1e-3, atol=1e-4)


def test_aggregated_vectors_are_their_mean(small) -> None:
    """Clients of 3 and 5 examples; the mean includes vectors that only one of them used."""
    start = body(small(width=8))
    start.set_statistics(Statistics(torch.rand(2, 6) + 1, torch.randn(2, 6, 4)))
    ema = start.codebook_ema()
    assert ema is not None
    merged, expected = WeightedSum(start.axes(), start.state()), torch.zeros(2, 6, 4)
    for z, examples in ((torch.randn(15, 8), 3), (torch.randn(1, 8), 5)):
        new = ema.codebook.statistics(z, ema.codebook.assign(z))
        client = body(small(width=8))
        client.load_state_dict(start.state())
        client.add_statistics(ema, new, examples, 0.7, "vectors")
        merged.add(client.state(), FULL, examples)
        expected += ema.update(new.scaled(1 / examples), 0.7).codebook.vectors * examples / 8
    start.load_state_dict(merged.finish(start.state()))
    after = start.codebook_ema()
    assert after is not None
    torch.testing.assert_close(after.codebook.vectors, expected, rtol=1e-4, atol=1e-4)


def test_the_codebook_follows_from_the_statistics_alone(small) -> None:
    one, two = body(small(width=8), seed=0), body(small(width=8), seed=1)
    statistics = Statistics(torch.tensor([[4.0, 4, 4, 4, 4, 0]] * 2), torch.randn(2, 6, 4))
    one.set_statistics(statistics)
    two.set_statistics(statistics)
    a, b = one.codebook_ema(), two.codebook_ema()
    assert a is not None and b is not None
    assert torch.equal(a.codebook.vectors, b.codebook.vectors) and a.codebook.version == b.codebook.version != 0
    torch.testing.assert_close(a.codebook.vectors[:, 1:5], (statistics.sums[:, 1:5] / 4).float(), rtol=1e-4, atol=1e-5)
    assert (a.running.counts[:, 5] > 0).all()  # revived from the most used vector
    two.set_statistics(Statistics(statistics.counts, statistics.sums + 0.5))
    moved = two.codebook_ema()
    assert moved is not None and moved.codebook.version != a.codebook.version


def test_both_sides_share_only_the_statistics(small) -> None:
    body_ = body(small(width=8))
    entries = body_.device_entries()
    assert {"counts", "sums"} < entries and all(n.startswith("device.") for n in entries - {"counts", "sums"})
    assert body_.state().keys() - entries == {n for n in body_.state() if n.startswith(("cloud.", "head."))}
    assert body(small(width=8), codes=None).codebook_ema() is None


def test_groups_that_do_not_divide_are_refused(small) -> None:
    with pytest.raises(ValueError, match="3 groups do not divide a code space of 8 numbers"):
        split_body(small(width=8), 3, (6, 3))


def test_costs_count_texts_of_full_length(small) -> None:
    """Twice the tokens take twice the MACs of every linear layer; quantisation has no parameters."""
    short, long = (SplitCosts(split_body(small(width=8, tokens=n), 3, (6, 2)), 4).whole for n in (8, 16))
    assert 1.9 < long.macs / short.macs < 2.5 and long.memory > short.memory
    state = body(small(width=8, tokens=8)).state()
    assert short.params == sum(value.numel() for value in state.values()) and short.bytes == 4 * short.params


def test_codes_of_a_codebook_at_the_activations_change_nothing(small, texts) -> None:
    """The codebook contains the exact activations, so codes and activations give the same logits."""
    shape, tokens = small(width=2), texts(6, 4)
    exact, coded = body(shape, None), body(shape, (400, 1))
    ids = tokens.ids.masked_fill(torch.arange(6) == tokens.lengths[:, None] - 1, 3)
    with torch.no_grad():
        z = exact.eval().device(tokens_from_ids(ids))
    vectors = torch.cat([z, torch.zeros(400 - len(z), 2)])[None]
    coded.set_statistics(Statistics(torch.ones(1, 400), vectors))
    coded.load_state_dict({**exact.state(), "counts": coded.counts, "sums": coded.sums})
    torch.testing.assert_close(coded.eval()(ids), exact(ids), rtol=1e-4, atol=1e-5)


def test_frozen_parameters_are_never_sent(small) -> None:
    """Embeddings and one of two layers are frozen. A state may lack them, but no other entry."""
    one, two = body(small(width=8, frozen=2), seed=0), body(small(width=8, frozen=2), seed=1)
    state = one.state()
    assert not [name for name in state if name.startswith(("device.embeddings", "device.layers.0"))]
    assert {"device.layers.1.output.dense.weight", "counts", "cloud.out.weight"} <= state.keys() == one.axes().keys()
    before = two.device.embeddings.word_embeddings.weight.clone()
    two.load_state_dict(state)
    assert torch.equal(two.head.read.weight, one.head.read.weight)
    assert torch.equal(two.device.embeddings.word_embeddings.weight, before)
    assert one.device_entries() < state.keys() and not any(name.startswith("cloud.") for name in one.device_entries())
    with pytest.raises(RuntimeError, match='Missing key.*"head.read.weight"'):
        two.load_state_dict({name: value for name, value in state.items() if name != "head.read.weight"})
    unfrozen, frozen = (SplitCosts(split_body(small(width=8, frozen=n), 3, (6, 2)), 4).whole for n in (0, 2))
    embeddings = 16 * (30 + 32 + 2 + 2)  # words, positions, sentences, and their norm
    layer = 4 * (16 * 16 + 16) + (16 * 32 + 32) + (32 * 16 + 16) + 4 * 16
    assert unfrozen.bytes - frozen.bytes == 4 * (embeddings + layer)
