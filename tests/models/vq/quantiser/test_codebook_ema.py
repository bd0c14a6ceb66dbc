"""The server's k-means, revival and state, on data with known answers."""

import numpy as np
import pytest
import torch
from scipy.cluster.vq import kmeans2

from models.vq.quantiser.codebook import Codebook, Statistics
from models.vq.quantiser.codebook_ema import CodebookEMA, Moments


def collect(shards):
    """Return a function that sums statistics over one pass of each client."""
    return lambda book: sum((book.statistics(z, book.assign(z)) for z in shards), book.zero_statistics())


def start(shards, groups, size, residual=False, seed=0):
    generator = np.random.default_rng(seed)
    moments = sum((Moments.of(z) for z in shards[1:]), Moments.of(shards[0]))
    return CodebookEMA.start(moments, groups, size, residual, generator).lloyd(collect(shards), generator)


def error(book: Codebook, z):
    return float((z - book.lookup(book.assign(z))).square().sum(1).mean())


def blobs(n=2000, k=16, width=4, seed=0):
    generator = np.random.default_rng(seed)
    centres = generator.normal(0, 3, (k, width))
    return torch.from_numpy(centres[generator.integers(k, size=n)] + generator.normal(0, 0.3, (n, width))).float()


def test_the_start_is_nearly_as_good_as_centralised_kmeans():
    z = blobs()
    ema = start(z.split(137), groups=1, size=32)
    vectors, _ = kmeans2(z.numpy(), 32, minit="++", rng=np.random.default_rng(0))
    assert error(ema.codebook, z) < 1.2 * error(Codebook(torch.from_numpy(vectors)[None]), z)
    assert int((ema.running.counts > 0).sum()) == 32  # no duplicate or unused vector
    assert float(ema.running.counts.sum()) == len(z)


def test_the_gaussian_start_is_near_the_bound():
    """K vectors for a Gaussian of variance V in the plane have an error of at least 2 V / K.

    With the best cells of equal size, hexagons, it is 2.015 times that (Gersho 1979).
    """
    z = 5 + 2 * torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
    bound = 2 * 4.0 / 64
    assert bound < error(start([z], 1, 64).codebook, z) < 1.1 * 2.015 * bound
    one, two = (error(start([z], m, 8, residual=True).codebook, z) for m in (1, 2))
    assert two < one / 3  # 8 vectors per stage: an eighth at best


def test_more_groups_code_better():
    z = torch.randn(1500, 8, generator=torch.Generator().manual_seed(0))
    errors = [error(start([z], m, 16).codebook, z) for m in (1, 2, 4)]
    assert errors == sorted(errors, reverse=True)


def test_residual_codes_are_better_for_correlated_numbers():
    """Groups code the shared part again and again; stages code the remainder."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2000, 4, generator=generator) @ torch.randn(4, 32, generator=generator) + 1
    product, residual = (error(start([z], 4, 32, residual=kind).codebook, z) for kind in (False, True))
    assert residual < product / 4


def test_revival_halves_the_most_used():
    book = Codebook(torch.tensor([[[0.0], [1.0], [5.0], [9.0]]]))
    running = Statistics(torch.tensor([[80.0, 0, 20, 0]]).double(), torch.tensor([[[8.0], [0], [100], [0]]]).double())
    revived = CodebookEMA(book, running).revive(np.random.default_rng(0), jitter=0.0)
    assert revived.running.counts.tolist() == [[20, 40, 20, 20]]  # 80 -> 40 + 40, then 40 -> 20 + 20
    torch.testing.assert_close(revived.codebook.vectors.flatten(), torch.tensor([0.1, 0.1, 5.0, 0.1]))
    assert float(revived.running.sums.sum()) == pytest.approx(108)


def test_descent_by_hand_and_by_autograd():
    """Vectors at 0 and 10, used for 3 positions of mean 2 and 1 of mean 14: 3/2 and 1/2 of the average use."""
    book = Codebook(torch.tensor([[[0.0], [10.0]]]))
    z = torch.tensor([[1.0], [2.0], [3.0], [14.0]])
    statistics, ema = book.statistics(z, book.assign(z)), CodebookEMA(book, book.zero_statistics())
    moved = ema.descend(statistics, 0.5).codebook
    assert moved.vectors.flatten().tolist() == [1.5, 11.0] and moved.version == 1
    vectors = book.vectors.clone().requires_grad_()
    (z - Codebook(vectors).lookup(book.assign(z))).square().mean().backward()
    torch.testing.assert_close(moved.vectors, book.vectors - 0.5 * 2 / 2 * vectors.grad)  # K / 2: an average use is 1
    assert ema.descend(statistics, 1.0).codebook.vectors.flatten().tolist() == [2.0, 12.0]  # to the mean, never beyond
    assert torch.equal(ema.descend(book.zero_statistics(), 1.0).codebook.vectors, book.vectors)


def test_with_mass_changes_no_vector():
    ema = start([blobs(400)], 1, 8)
    light = ema.with_mass(40)
    assert light.codebook is ema.codebook
    torch.testing.assert_close(light.running.counts, ema.running.counts / 10)
    one = Statistics(torch.full((1, 8), 5.0).double(), torch.zeros(1, 8, 4).double())  # 40 positions, all at 0
    torch.testing.assert_close(
        light.update(one, 0.5).codebook.vectors,
        (ema.running.sums / 10 / (ema.running.counts / 10 + 5)[..., None]).float(), rtol=1e-4, atol=1e-4,
    )  # fmt: skip


def test_groups_must_divide():
    with pytest.raises(ValueError, match="3 groups do not divide a code space of 8 numbers"):
        CodebookEMA.start(Moments.of(torch.randn(5, 8)), 3, 4, False, np.random.default_rng(0))
