"""Codes, statistics and gradients: by hand, against vector-quantize-pytorch, and the federated mean's laws."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.autograd import grad

from models.vq.quantiser.codebook import ESTIMATORS, Codebook, Statistics, perplexity, rotation, straight_through
from models.vq.quantiser.codebook_ema import CodebookEMA

with warnings.catch_warnings():  # the reference library compiles itself with a deprecated call on import
    warnings.simplefilter("ignore")
    from vector_quantize_pytorch import ResidualVQ, VectorQuantize
    from vector_quantize_pytorch.vector_quantize_pytorch import rotate_to


def codebook(m=2, K=5, w=3, residual=False, seed=0):
    return Codebook(torch.randn(m, K, w, generator=torch.Generator().manual_seed(seed)), residual)


def points(n, width, seed=1):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


def test_by_hand():
    book = Codebook(torch.tensor([[[0.0], [10.0]], [[1.0], [2.0]]]))  # two groups of one number
    z = torch.tensor([[4.0, 1.4], [6.0, 9.0], [9.0, -9.0]])
    codes = book.assign(z)
    assert codes.tolist() == [[0, 0], [1, 1], [1, 0]]
    assert book.lookup(codes).tolist() == [[0, 1], [10, 2], [10, 1]]
    statistics = book.statistics(z, codes)
    assert statistics.counts.tolist() == [[1, 2], [2, 1]]
    torch.testing.assert_close(statistics.sums[..., 0], torch.tensor([[4.0, 15.0], [-7.6, 9.0]]).double())
    # squared errors 16 + .16, 16 + 49, 1 + 100, over 3 positions of 2 groups
    assert book.commitment(z, book.lookup(codes)).item() == pytest.approx(182.16 / 6)


def test_residual_by_hand():
    book = Codebook(torch.tensor([[[0.0], [10.0]], [[-1.0], [3.0]]]), residual=True)
    z = torch.tensor([[9.5], [3.5]])
    codes = book.assign(z)
    assert codes.tolist() == [[1, 0], [0, 1]]  # 9.5 = 10 - .5, 3.5 = 0 + 3.5
    assert book.lookup(codes).tolist() == [[9.0], [3.0]]
    assert torch.cat([*book.parts(z, codes)], 1).tolist() == [[9.5, -0.5], [3.5, 3.5]]
    assert book.width == 1


@pytest.mark.parametrize("residual", [False, True])
def test_composite_gradient_is_the_device_rule(residual):
    """One graph: L(q) + beta commitment; split: estimate from dL/dq + 2 beta (z - q) / n."""
    book, beta = codebook(residual=residual), 0.25
    weight = points(7, book.width, seed=5)
    for estimator in ESTIMATORS.values():
        z = points(7, book.width).requires_grad_()
        codes, q = book.quantise(z, estimator)
        assert torch.equal(q, book.lookup(codes))  # exactly, not z + (q - z)
        (whole,) = grad((q.sin() * weight).sum() + beta * book.commitment(z, q), z)
        g = q.detach().cos() * weight
        torch.testing.assert_close(book.gradient(z, q, g, beta, estimator), whole)


def test_rotation_against_the_library():
    book = codebook(m=1, K=6, w=4)
    z, weight = points(9, 4).requires_grad_(), points(9, 4, seed=2)
    q = book.lookup(book.assign(z))
    (expected,) = grad((rotate_to(z, q) * weight).sum(), z)
    torch.testing.assert_close(rotation(z.detach(), q, weight), expected)
    assert straight_through(z, q, weight) is weight


def test_product_against_the_library():
    """Codes, vectors and one step of the exponential mean, Laplace-smoothed."""
    m, K, w, decay = 3, 7, 4, 0.8
    book, z = codebook(m, K, w), points(50, m * w)
    oracle = VectorQuantize(
        dim=m * w, codebook_dim=w, heads=m, separate_codebook_per_head=True, codebook_size=K, decay=decay,
        rotation_trick=False, threshold_ema_dead_code=0,
    )  # fmt: skip
    oracle.project_in = oracle.project_out = torch.nn.Identity()
    inner = oracle._codebook
    inner.embed.data.copy_(book.vectors)
    inner.embed_avg.data.copy_(book.vectors)
    inner.cluster_size.data.fill_(1.0)
    ema = CodebookEMA(book, Statistics(torch.ones(m, K).double(), book.vectors.double()))
    oracle.train()
    q, indices, _ = oracle(z[None])
    codes = book.assign(z)
    assert torch.equal(indices[0], codes)
    torch.testing.assert_close(q[0], book.lookup(codes))
    after = ema.update(book.statistics(z, codes), decay)
    torch.testing.assert_close(after.codebook.vectors, inner.embed)
    assert after.codebook.version == book.version + 1


def test_residual_against_the_library():
    book, z = codebook(3, 8, 5, residual=True), points(40, 5)
    oracle = ResidualVQ(dim=5, num_quantizers=3, codebook_size=8, rotation_trick=False).eval()
    for layer, vectors in zip(oracle.layers, book.vectors, strict=True):
        layer._codebook.embed.data.copy_(vectors[None])
        layer._codebook.initted.fill_(True)
    q, indices, _ = oracle(z[None])
    codes = book.assign(z)
    assert torch.equal(indices[0], codes)
    torch.testing.assert_close(q[0], book.lookup(codes))


@settings(max_examples=20)
@given(st.integers(0, 99), st.integers(1, 6), st.integers(1, 4), st.integers(1, 9), st.booleans())
@example(seed=91, clients=6, m=4, K=9, residual=False)  # one of the clients has no data
def test_federated_is_centralised(seed, clients, m, K, residual):
    """Summed over any split of the data, the update is that of the union; integers make it exact."""
    generator = np.random.default_rng(seed)
    book = Codebook(torch.from_numpy(generator.integers(-9, 9, (m, K, 2))).float(), residual)
    z = torch.from_numpy(generator.integers(-9, 9, (40, book.width))).float()
    total = book.statistics(z, book.assign(z))
    owner = torch.from_numpy(generator.integers(clients, size=len(z)))
    parts = [z[owner == client] for client in range(clients)]
    summed = sum((book.statistics(client_z, book.assign(client_z)) for client_z in parts), book.zero_statistics())
    assert torch.equal(summed.counts, total.counts) and torch.equal(summed.sums, total.sums)
    ema = CodebookEMA(book, total)
    assert torch.equal(ema.update(summed, 0.9).codebook.vectors, ema.update(total, 0.9).codebook.vectors)


def test_a_vector_without_mass_stays():
    book = codebook(1, 3, 2)
    unchanged = CodebookEMA(book, book.zero_statistics()).update(book.zero_statistics(), 0.9)
    assert torch.equal(unchanged.codebook.vectors, book.vectors)


def test_perplexity():
    counts = torch.tensor([[2.0, 2, 0, 0], [9, 0, 0, 0], [1, 1, 1, 1]])
    torch.testing.assert_close(perplexity(counts), torch.tensor([2.0, 1.0, 4.0]))
