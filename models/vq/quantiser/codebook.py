"""Vector quantisation at the cut: codes, their statistics, and gradients through them (DCCT eq. 4, 5).

Activations z (n, width) are quantised per position. A *product* quantiser splits the numbers into m groups and codes
each group with its own codebook of K vectors. A *residual* quantiser codes the whole vector m times; each code
describes what the previous codes leave. Single VQ is m = 1 of either. The codebook is no gradient parameter. It moves
by the exponential mean of summed statistics (`models.vq.quantiser.codebook_ema`). It has a version, so that codes of
another codebook are refused.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 2048  # positions whose distances to all vectors are in memory at the same time
Estimator = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``estimator(z, q, g)`` of (N, w) each: dL/dz, where q is the quantised z and g = dL/dq."""


@dataclass(frozen=True, eq=False)
class Statistics:
    """Use of each code: how often, and the sum of the quantised vectors. Statistics add up over clients.

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
    """The m codebooks of K vectors.

    Args:
        vectors: (m, K, w) float32; w = width / m for a product quantiser, w = width for a residual one.
        residual: codebook j codes what codebooks 0 .. j - 1 leave, instead of its own group of numbers.
        version: number of updates.
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
        """Numbers per position that the codes represent."""
        return self.vectors.shape[2] * (1 if self.residual else self.groups)

    @property
    def blocks(self) -> int:
        """Independently quantised parts of z: m, or 1 for a residual quantiser."""
        return 1 if self.residual else self.groups

    def assign(self, z: Tensor) -> Tensor:
        """Return the codes (n, m) of the nearest vectors of z (n, width); the first one of equally near vectors."""
        z = z.detach()
        if not self.residual:
            return _nearest(z.unflatten(1, (self.groups, -1)).transpose(0, 1), self.vectors).T
        codes, remainder = [], z
        for vectors in self.vectors:
            codes.append(_nearest(remainder[None], vectors[None])[0])
            remainder = remainder - vectors[codes[-1]]
        return torch.stack(codes, 1)

    def lookup(self, codes: Tensor) -> Tensor:
        """Return the vectors (n, width) that codes (n, m) represent."""
        found = torch.stack([vectors[indices] for vectors, indices in zip(self.vectors, codes.T, strict=True)], 1)
        return found.sum(1) if self.residual else found.flatten(1)

    def parts(self, z: Tensor, codes: Tensor) -> Iterator[Tensor]:
        """Yield the input (n, w) of each codebook in turn."""
        if not self.residual:
            yield from z.unflatten(1, (self.groups, -1)).unbind(1)
            return
        for vectors, indices in zip(self.vectors, codes.T, strict=True):
            yield z
            z = z - vectors[indices]

    def usage(self, codes: Tensor) -> Tensor:
        """Count how often codes (n, m) use each vector, (m, K) float64."""
        return torch.stack([torch.bincount(indices, minlength=self.size) for indices in codes.T]).double()

    def statistics(self, z: Tensor, codes: Tensor) -> Statistics:
        """Return the statistics of positions (n, width) and their codes (n, m)."""
        sums = torch.zeros(self.vectors.shape, dtype=torch.float64)
        for total, indices, part in zip(sums, codes.T, self.parts(z.detach(), codes), strict=True):
            total.index_add_(0, indices, part.double())
        return Statistics(self.usage(codes), sums)

    def zero_statistics(self) -> Statistics:
        """Return the neutral element of the sum."""
        return Statistics(
            *(torch.zeros(shape, dtype=torch.float64) for shape in (self.vectors.shape[:2], self.vectors.shape))
        )

    def commitment(self, z: Tensor, q: Tensor) -> Tensor:
        """Return the mean square of z - q over positions and numbers, with q (n, width) fixed.

        The device's loss includes beta times it. A sum over the numbers of a vector would outweigh the task's loss for
        wide vectors; devices would then learn to send a constant code.
        """
        return (z - q.detach()).square().mean()

    def gradient(self, z: Tensor, q: Tensor, g: Tensor, beta: float, estimator: Estimator) -> Tensor:
        """Return dL/dz (n, width) on the device: the estimate from g = dL/dq, plus 2 beta (z - q) / (n width)."""
        z, q, shape = z.detach(), q.detach(), (len(z) * self.blocks, -1)
        estimate = estimator(z.reshape(shape), q.reshape(shape), g.reshape(shape)).view_as(z)
        return estimate + 2 * beta * (z - q) / z.numel()

    def quantise(self, z: Tensor, estimator: Estimator) -> tuple[Tensor, Tensor]:
        """Return codes (n, m) and their vectors with a gradient to z, for both halves in one graph."""
        codes = self.assign(z)
        return codes, _Quantise.apply(z, self.lookup(codes), self.blocks, estimator)


def straight_through(z: Tensor, q: Tensor, g: Tensor) -> Tensor:
    """Pass gradients through as if nothing was quantised (Bengio et al., arXiv:1308.3432)."""
    return g


def rotation(z: Tensor, q: Tensor, g: Tensor) -> Tensor:
    """Rotate and scale gradients as z -> q does, both fixed (Fifty et al., arXiv:2410.06424, 4.2)."""
    u, v = F.normalize(z, dim=1), F.normalize(q, dim=1)
    half = F.normalize(u + v, dim=1)
    turned = g - 2 * half * _dot(half, g) + 2 * u * _dot(v, g)
    return turned * q.norm(dim=1, keepdim=True) / z.norm(dim=1, keepdim=True).clamp_min(1e-6)


ESTIMATORS: dict[str, Estimator] = {"straight-through": straight_through, "rotation": rotation}


def perplexity(counts: Tensor) -> Tensor:
    """Return exp(entropy) of the use of each codebook, (m, K) counts -> (m,) in 1 .. K; its log2 is bits per code."""
    shares = counts / counts.sum(1, keepdim=True)
    return torch.special.entr(shares).sum(1).exp()


def _nearest(z: Tensor, vectors: Tensor) -> Tensor:
    """Return argmin_i ||z - C_i||^2, (m, n, w), (m, K, w) -> (m, n), without the term that all i share."""
    norms, transposed = vectors.square().sum(2)[:, None], vectors.transpose(1, 2)
    return torch.cat([torch.baddbmm(norms, part, transposed, alpha=-2).argmin(2) for part in z.split(CHUNK, 1)], 1)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(1, keepdim=True)


class _Quantise(torch.autograd.Function):
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
