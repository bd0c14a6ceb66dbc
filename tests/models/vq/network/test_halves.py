"""Pooling against transformers' Funnel, the halves against transformers' BERT, and the halves' interface."""

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
def test_pooling_equals_transformers_funnel(tokens):
    funnel = FunnelAttentionStructure(FunnelConfig(separate_cls=True, truncate_seq=False))
    x = torch.randn(2, tokens, 5, generator=torch.Generator().manual_seed(0))
    pooled = pool(x, torch.tensor([tokens, tokens]), 2)
    torch.testing.assert_close(pooled, funnel.pool_tensor(x))
    pooled_twice = pool(pooled, pooled_lengths(torch.tensor([tokens, tokens]), 2), 2)
    torch.testing.assert_close(pooled_twice, funnel.pool_tensor(funnel.pool_tensor(x)))
    assert pooled_twice.shape[1] == int(pooled_lengths(torch.tensor([tokens]), 4))


def test_padding_does_not_change_means():
    """[CLS], then pairs; the short text's last pair has one token, and its padding has large values."""
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
    for layer_, layer in zip([*device.layers, *cloud.layers], bert.encoder.layer, strict=True):
        layer.load_state_dict(layer_.state_dict())
    tokens = texts(7, 4)
    mask = (torch.arange(7) < tokens.lengths[:, None]).long()
    expected = bert(tokens.ids, attention_mask=mask).last_hidden_state
    h, positions, _ = states(device.eval(), cloud.eval(), tokens)
    assert positions.tolist() == [7, 4]
    torch.testing.assert_close(flatten(h, positions), flatten(expected, tokens.lengths), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("funnel", [True, False])
@pytest.mark.parametrize(("p", "layers"), [(1, 2), (2, 2), (4, 2), (4, 1), (4, 3)])
def test_exchanged_rows(small, texts, p, layers, funnel):
    """Sum of 1 + ceil((T - 1) / p); the longest text of a batch does not affect the rows of other texts."""
    shape = small(pool=p, width=6, device_layers=layers, funnel=funnel)
    device, cloud = build(shape, seed=0)
    batch, single = texts(9, 6), texts(9, 6)[torch.tensor([1])]
    z, alone_z = device.eval()(batch), device(single)
    counts = [1 + -(-8 // p), 1 + -(-5 // p)]
    assert z.shape == (sum(counts), 6)
    torch.testing.assert_close(z[counts[0] :], alone_z, rtol=1e-5, atol=1e-6)
    h, positions = cloud.eval()(z, batch.lengths)
    assert h.shape == (2, counts[0], 16) and positions.tolist() == counts


def test_impossible_shapes_are_refused(small):
    with pytest.raises(ValueError, match="pool = 3; choose 1, 2 or 4"):
        small(pool=3)
    with pytest.raises(ValueError, match="width = 17 is more than the 16 numbers of a state; choose less, or 0"):
        small(width=17)
    with pytest.raises(ValueError, match="frozen = 4; a device half of 2 layers has 0 to 3"):
        small(frozen=4)


def test_frozen_parts_are_constant_and_have_a_checksum(small, texts):
    shape = small(frozen=2, dropout=0.5, width=4)
    device, _ = build(shape, seed=0)
    device.train()
    (one, _), (two, _) = device.stem(texts(5)), device.stem(texts(5))
    assert torch.equal(one, two) and not one.requires_grad
    assert all(not name.startswith(("embeddings", "layers.0")) for name in device.state())
    assert device.checksum() == build(shape, seed=0)[0].checksum() != build(shape, seed=1)[0].checksum()


def test_halves_are_aggregated_like_any_model(small):
    halves = [build(small(width=4, frozen=1), seed)[0] for seed in (0, 1)]
    first, second = (half.state() for half in halves)
    mean_ = WeightedSum(halves[0].axes(), first)
    mean_.add(first, FULL, 1)
    mean_.add(second, FULL, 3)
    halves[0].load(mean_.finish(first))
    for name, value in halves[0].state().items():
        torch.testing.assert_close(value, 0.25 * first[name] + 0.75 * second[name])
    with pytest.raises(KeyError, match="both sides need one shape"):
        halves[0].load({"into.weight": first["into.weight"]})


def test_principal_initialisation_is_the_best_linear_code(small):
    """With as many numbers as the states have directions nothing is lost; with fewer, the smallest variances are."""
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


def test_weighing_reduces_the_error_along_the_task_gradient(small):
    """The function stays, errors cost the same in every direction, and a small important direction survives."""
    device, cloud = build(small(width=16), seed=0)
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(500, 16, generator=generator)
    direction = torch.zeros(16)
    direction[3] = 1.0
    h[:, 3] *= 0.1  # a hundredth of the other variances
    principal(device, cloud, len(h), h.sum(0), h.T @ h, seed=0)

    @torch.no_grad()
    def lost_share():
        """Return the share of the variance along ``direction`` that two codes of 16 lose."""
        z = device.into(h)
        rng = np.random.default_rng(0)
        ema = CodebookEMA.start(Moments.of(z), 2, 16, False, rng)
        book = ema.lloyd(lambda book_: book_.statistics(z, book_.assign(z)), rng).codebook
        return float(((cloud.out(book.lookup(book.assign(z))) - h) @ direction).var() / (h @ direction).var())

    plain, before, out = lost_share(), cloud.out(device.into(h)).detach(), cloud.out.weight.detach().clone()
    g = (direction @ out)[None]  # in code space
    slopes = g.T @ g + 1e-4 * torch.eye(16)
    weigh(device, cloud, device.into(h).detach(), slopes, groups=2, floor=0.0)
    torch.testing.assert_close(cloud.out(device.into(h)), before, rtol=1e-3, atol=1e-3)
    inverse = torch.linalg.solve(out.double(), cloud.out.weight.detach().double())  # from new to old coordinates
    products = inverse.T @ slopes.double() @ inverse
    torch.testing.assert_close(products / products.diagonal().mean(), torch.eye(16).double(), rtol=1e-2, atol=1e-2)
    assert lost_share() < 0.1 < 0.5 < plain
