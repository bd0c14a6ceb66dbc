"""Vector quantisation of what crosses the cut: codes, their statistics and the gradient through them (DCCT eq. 4, 5).

A vector z of n positions has ``width`` numbers. A *product* quantiser cuts it into m groups and codes each by its own
codebook of K vectors; a *residual* quantiser codes the whole vector m times, each time what the codes before left over.
Single VQ is m = 1 of either. The codebook is no gradient parameter: it moves by the exponential mean of summed
statistics (`models.vq.quantiser.codebook_ema`), and carries a version, so that codes of another codebook are refused.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

AT_ONCE = 2048  # positions whose distances to all vectors are in memory together
Estimator = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``estimator(z, q, g)`` of (N, w) each: dL/dz, where q is what z was quantised to and g = dL/dq."""


@dataclass(frozen=True, eq=False)
class Statistics:
    """What devices tell of their codes: how often each was used and the sum of what it stood for. Sums add up.

    Args:
        counts: (m, K) float64.
        sums: (m, K, w) float64.
    """

    counts: Tensor
    sums: Tensor

    def __add__(self, other: "Statistics") -> "Statistics":
        return Statistics(self.counts + other.counts, self.sums + other.sums)

    def scaled(self, by: float) -> "Statistics":
        return Statistics(self.counts * by, self.sums * by)


@dataclass(frozen=True, eq=False)
class Codebook:
    """m codebooks of K vectors.

    Args:
        vectors: (m, K, w) float32; w = width / m for a product quantiser, w = width for a residual one.
        residual: codebook j codes what codebooks 0 .. j - 1 left over, instead of its own group of numbers.
        version: counts the updates.
    """

    vectors: Tensor
    residual: bool = False
    version: int = 0

    @property
    def groups(self) -> int:
        """m, the codes per position."""
        return self.vectors.shape[0]

    @property
    def size(self) -> int:
        """K, the vectors of each codebook."""
        return self.vectors.shape[1]

    @property
    def width(self) -> int:
        """Numbers per position that the codes stand for."""
        return self.vectors.shape[2] * (1 if self.residual else self.groups)

    @property
    def blocks(self) -> int:
        """Parts of z that are quantised independently: m, or 1 for a residual quantiser."""
        return 1 if self.residual else self.groups

    def assign(self, z: Tensor) -> Tensor:
        """(n, width) -> codes (n, m) in [0, K): the nearest vectors; the first of several that are as near."""
        z = z.detach()
        if not self.residual:
            return _nearest(z.unflatten(1, (self.groups, -1)).transpose(0, 1), self.vectors).T
        codes, left = [], z
        for vectors in self.vectors:
            codes.append(_nearest(left[None], vectors[None])[0])
            left = left - vectors[codes[-1]]
        return torch.stack(codes, 1)

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes (n, m) -> what they stand for, (n, width)."""
        found = torch.stack([vectors[own] for vectors, own in zip(self.vectors, codes.T, strict=True)], 1)
        return found.sum(1) if self.residual else found.flatten(1)

    def parts(self, z: Tensor, codes: Tensor) -> Iterator[Tensor]:
        """What each codebook was asked to code, (n, w), one after the other."""
        if not self.residual:
            yield from z.unflatten(1, (self.groups, -1)).unbind(1)
            return
        for vectors, own in zip(self.vectors, codes.T, strict=True):
            yield z
            z = z - vectors[own]

    def usage(self, codes: Tensor) -> Tensor:
        """(m, K) float64: how often each vector is used in codes (n, m)."""
        return torch.stack([torch.bincount(own, minlength=self.size) for own in codes.T]).double()

    def statistics(self, z: Tensor, codes: Tensor) -> Statistics:
        """Of positions (n, width) and their codes (n, m)."""
        sums = torch.zeros(self.vectors.shape, dtype=torch.float64)
        for total, own, part in zip(sums, codes.T, self.parts(z.detach(), codes), strict=True):
            total.index_add_(0, own, part.double())
        return Statistics(self.usage(codes), sums)

    def no_statistics(self) -> Statistics:
        """The neutral element of the sum."""
        return Statistics(
            *(torch.zeros(shape, dtype=torch.float64) for shape in (self.vectors.shape[:2], self.vectors.shape))
        )

    def commitment(self, z: Tensor, q: Tensor) -> Tensor:
        """Mean square of z - q over positions and numbers; q (n, width) is held fixed. A device adds beta times it.

        A sum over the numbers of a vector would outweigh the task the more, the wider the vectors are: devices then
        learn to send the same code always.
        """
        return (z - q.detach()).square().mean()

    def gradient(self, z: Tensor, q: Tensor, g: Tensor, beta: float, estimator: Estimator) -> Tensor:
        """dL/dz (n, width) on the device: the estimator's share of g = dL/dq, plus 2 beta (z - q) / (n width)."""
        z, q, shape = z.detach(), q.detach(), (len(z) * self.blocks, -1)
        through = estimator(z.reshape(shape), q.reshape(shape), g.reshape(shape)).view_as(z)
        return through + 2 * beta * (z - q) / z.numel()

    def through(self, z: Tensor, estimator: Estimator) -> tuple[Tensor, Tensor]:
        """Codes (n, m), and their lookup with a gradient to z: the composite in one graph."""
        codes = self.assign(z)
        return codes, _Through.apply(z, self.lookup(codes), self.blocks, estimator)


def straight_through(z: Tensor, q: Tensor, g: Tensor) -> Tensor:
    """Gradients pass as if nothing had been quantised (Bengio et al., arXiv:1308.3432)."""
    return g


def rotation(z: Tensor, q: Tensor, g: Tensor) -> Tensor:
    """Gradients turn and shrink as z -> q does, both held fixed (Fifty et al., arXiv:2410.06424, 4.2)."""
    u, v = F.normalize(z, dim=1), F.normalize(q, dim=1)
    half = F.normalize(u + v, dim=1)
    turned = g - 2 * half * _dot(half, g) + 2 * u * _dot(v, g)
    return turned * q.norm(dim=1, keepdim=True) / z.norm(dim=1, keepdim=True).clamp_min(1e-6)


ESTIMATORS: dict[str, Estimator] = {"straight-through": straight_through, "rotation": rotation}


def perplexity(counts: Tensor) -> Tensor:
    """(m, K) counts -> (m,): exp(entropy) of the use of each codebook, 1 .. K; its log2 is the bits a code needs."""
    shares = counts / counts.sum(1, keepdim=True)
    return torch.special.entr(shares).sum(1).exp()


def _nearest(z: Tensor, vectors: Tensor) -> Tensor:
    """(m, n, w), (m, K, w) -> (m, n): argmin_i ||z - C_i||^2, without the term that all i share."""
    norms, across = vectors.square().sum(2)[:, None], vectors.transpose(1, 2)
    return torch.cat([torch.baddbmm(norms, some, across, alpha=-2).argmin(2) for some in z.split(AT_ONCE, 1)], 1)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(1, keepdim=True)


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z: Tensor, q: Tensor, blocks: int, estimator: Estimator) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(z, q)
        ctx.blocks, ctx.estimator = blocks, estimator
        return q.clone()

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[no-untyped-def]
        z, q = ctx.saved_tensors
        shape = (len(z) * ctx.blocks, -1)
        return ctx.estimator(z.reshape(shape), q.reshape(shape), g.reshape(shape)).view_as(z), None, None, None
