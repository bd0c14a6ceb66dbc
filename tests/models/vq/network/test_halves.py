"""Pooling against transformers' Funnel, the halves against transformers' BERT, and what a half shows to the rest."""

import numpy as np
import pytest
import torch
from transformers import BertModel, FunnelConfig
from transformers.models.funnel.modeling_funnel import FunnelAttentionStructure

from models.aggregation.weighted_sum import WeightedSum
from models.submodel import FULL
from models.vq.network.composite import states
from models.vq.network.halves import build, principal, weigh
from models.vq.network.pooling import flatten, pool, pooled_lengths, unflatten, upsample
from models.vq.quantiser.codebook_ema import CodebookEMA, Moments


@pytest.mark.parametrize("tokens", [2, 3, 8, 9, 33])
def test_pooling_is_funnels(tokens):
    funnel = FunnelAttentionStructure(FunnelConfig(separate_cls=True, truncate_seq=False))
    x = torch.randn(2, tokens, 5, generator=torch.Generator().manual_seed(0))
    once = pool(x, torch.tensor([tokens, tokens]), 2)
    torch.testing.assert_close(once, funnel.pool_tensor(x))
    twice = pool(once, pooled_lengths(torch.tensor([tokens, tokens]), 2), 2)
    torch.testing.assert_close(twice, funnel.pool_tensor(funnel.pool_tensor(x)))
    assert twice.shape[1] == int(pooled_lengths(torch.tensor([tokens]), 4))


def test_padding_counts_for_nothing():
    """[CLS], then pairs; the short text's last pair has one token, and padding, however large, changes nothing."""
    x = torch.tensor([[1.0, 2, 4, 6, 8, 10], [1, 3, 5, 7, 900, 900]])[..., None]
    lengths = torch.tensor([6, 4])
    short = pool(x, lengths, 2)
    assert short[..., 0].tolist() == [[1, 3, 7, 10], [1, 4, 7, 0]]
    back = upsample(short, 6, 2)[..., 0]
    assert back.tolist() == [[1, 3, 3, 7, 7, 10], [1, 4, 4, 7, 7, 0]]
    rows = flatten(short, torch.tensor([4, 3]))
    assert rows[:, 0].tolist() == [1, 3, 7, 10, 1, 4, 7]
    assert torch.equal(unflatten(rows, torch.tensor([4, 3])), short)


def test_without_projection_the_halves_are_bert(small, texts):
    shape = small(device_layers=1, cloud_layers=2)
    device, cloud = build(shape, seed=3)
    config = shape.bert
    config.num_hidden_layers = 3
    bert = BertModel(config, add_pooling_layer=False).eval()
    bert.embeddings.load_state_dict(device.embeddings.state_dict())
    for own, layer in zip([*device.layers, *cloud.layers], bert.encoder.layer, strict=True):
        layer.load_state_dict(own.state_dict())
    tokens = texts(7, 4)
    mask = (torch.arange(7) < tokens.lengths[:, None]).long()
    expected = bert(tokens.ids, attention_mask=mask).last_hidden_state
    h, positions, _ = states(device.eval(), cloud.eval(), tokens)
    assert positions.tolist() == [7, 4]
    torch.testing.assert_close(flatten(h, positions), flatten(expected, tokens.lengths), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("funnel", [True, False])
@pytest.mark.parametrize(("p", "layers"), [(1, 2), (2, 2), (4, 2), (4, 1), (4, 3)])
def test_rows_that_cross(small, texts, p, layers, funnel):
    """Sum of 1 + ceil((T - 1) / p), and the longest text of a batch has no say in what another one sends."""
    shape = small(pool=p, width=6, device_layers=layers, funnel=funnel)
    device, cloud = build(shape, seed=0)
    both, alone = texts(9, 6), texts(9, 6)[torch.tensor([1])]
    z, own = device.eval()(both), device(alone)
    counts = [1 + -(-8 // p), 1 + -(-5 // p)]
    assert z.shape == (sum(counts), 6)
    torch.testing.assert_close(z[counts[0] :], own, rtol=1e-5, atol=1e-6)
    h, positions = cloud.eval()(z, both.lengths)
    assert h.shape == (2, counts[0], 16) and positions.tolist() == counts


def test_impossible_shapes(small):
    with pytest.raises(ValueError, match="pool = 3; choose 1, 2 or 4"):
        small(pool=3)
    with pytest.raises(ValueError, match="width = 17 is more than the 16 numbers of a state; choose less, or 0"):
        small(width=17)
    with pytest.raises(ValueError, match="frozen = 4; a device half of 2 layers has 0 to 3"):
        small(frozen=4)


def test_frozen_parts_are_silent_and_known_by_their_checksum(small, texts):
    shape = small(frozen=2, dropout=0.5, width=4)
    device, _ = build(shape, seed=0)
    device.train()
    (one, _), (two, _) = device.stem(texts(5)), device.stem(texts(5))
    assert torch.equal(one, two) and not one.requires_grad
    assert all(not name.startswith(("embeddings", "layers.0")) for name in device.state())
    assert device.checksum() == build(shape, seed=0)[0].checksum() != build(shape, seed=1)[0].checksum()


def test_halves_are_merged_like_any_model(small):
    halves = [build(small(width=4, frozen=1), seed)[0] for seed in (0, 1)]
    first, second = (half.state() for half in halves)
    merged = WeightedSum(halves[0].axes(), first)
    merged.add(first, FULL, 1)
    merged.add(second, FULL, 3)
    halves[0].load(merged.finish(first))
    for name, value in halves[0].state().items():
        torch.testing.assert_close(value, 0.25 * first[name] + 0.75 * second[name])
    with pytest.raises(KeyError, match="both sides need one shape"):
        halves[0].load({"into.weight": first["into.weight"]})


def test_principal_start_is_the_best_linear_code(small):
    """With as many numbers as directions that the states have, nothing is lost; with fewer, their smallest variance."""
    device, cloud = build(small(width=5), seed=0)
    rows = torch.randn(200, 5, generator=torch.Generator().manual_seed(1)) @ torch.randn(
        5, 16, generator=torch.Generator().manual_seed(2)
    )
    h = rows + 3
    principal(device, cloud, len(h), h.sum(0), h.T @ h, seed=0)
    torch.testing.assert_close(cloud.out(device.into(h)), h, rtol=1e-3, atol=1e-3)
    narrow_device, narrow_cloud = build(small(width=3), seed=0)
    principal(narrow_device, narrow_cloud, len(h), h.sum(0), h.T @ h, seed=0)
    lost = (narrow_cloud.out(narrow_device.into(h)) - h).square().sum() / len(h)
    variances = torch.linalg.eigvalsh(torch.cov(h.T.double(), correction=0))
    torch.testing.assert_close(lost.double(), variances[-5:-3].sum(), rtol=1e-3, atol=1e-3)


def test_weighing_spends_the_codes_where_the_task_looks(small):
    """The function stays; errors cost the same in every direction; a faint direction that matters survives."""
    device, cloud = build(small(width=16), seed=0)
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(500, 16, generator=generator)
    look = torch.zeros(16)
    look[3] = 1.0
    h[:, 3] *= 0.1  # a hundredth of the others' variance
    principal(device, cloud, len(h), h.sum(0), h.T @ h, seed=0)

    @torch.no_grad()
    def left():
        """Share of the variance along ``look`` that two codes of 16 lose."""
        z = device.into(h)
        rng = np.random.default_rng(0)
        keeper = CodebookEMA.start(Moments.of(z), 2, 16, False, rng)
        book = keeper.lloyd(lambda own: own.statistics(z, own.assign(z)), rng).codebook
        return float(((cloud.out(book.lookup(book.assign(z))) - h) @ look).var() / (h @ look).var())

    plain, before, out = left(), cloud.out(device.into(h)).detach(), cloud.out.weight.detach().clone()
    g = (look @ out)[None]  # in code space
    slopes = g.T @ g + 1e-4 * torch.eye(16)
    weigh(device, cloud, device.into(h).detach(), slopes, groups=2, floor=0.0)
    torch.testing.assert_close(cloud.out(device.into(h)), before, rtol=1e-3, atol=1e-3)
    back = torch.linalg.solve(out.double(), cloud.out.weight.detach().double())  # old coordinates of the new ones
    seen = back.T @ slopes.double() @ back
    torch.testing.assert_close(seen / seen.diagonal().mean(), torch.eye(16).double(), rtol=1e-2, atol=1e-2)
    assert left() < 0.1 < 0.5 < plain
