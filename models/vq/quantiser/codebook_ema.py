"""How the server learns a codebook from summed statistics alone: start, exponential mean, revival.

Nothing here sees a vector of a device. The sum of the devices' statistics is the statistics of the union of their data,
so a federated codebook is exactly the centralised one, and secure aggregation may do the summing. Averaging codebook
vectors instead would let devices that never used a code drag it (Statistics, not vectors, are what adds up).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from models.vq.quantiser.codebook import Codebook, Statistics

EPSILON = 1e-5  # of the Laplace smoothing, and the count below which a vector stays where it is


@dataclass(frozen=True, eq=False)
class Moments:
    """n, sum and sum of squares of z over positions; what the codebook starts from. Moments add up.

    Args:
        count: positions.
        sums: (width,) float64; squares: (width,) float64.
    """

    count: float
    sums: Tensor
    squares: Tensor

    @staticmethod
    def of(z: Tensor) -> "Moments":
        z = z.detach().double()
        return Moments(len(z), z.sum(0), z.square().sum(0))

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.count + other.count, self.sums + other.sums, self.squares + other.squares)


@dataclass(frozen=True, eq=False)
class CodebookEMA:
    """The server's side of a codebook.

    Args:
        codebook: what devices are sent.
        running: the exponential mean of the statistics, whose quotient the codebook is.
    """

    codebook: Codebook
    running: Statistics

    @staticmethod
    def start(
        moments: Moments, groups: int, size: int, residual: bool, generator: np.random.Generator
    ) -> "CodebookEMA":
        """Vectors drawn from the Gaussian that reproduces one of the given moments best at log2 ``size`` bits.

        A Gaussian of variance V is coded in w dimensions with an error of D = V size^(-2 / w), by vectors of variance
        V - D; D is what is left to the next codebook of a residual quantiser. Lloyd iterations follow, see `lloyd`.

        Raises:
            ValueError: the groups do not divide the width.
        """
        width = len(moments.sums)
        if not residual and width % groups:
            raise ValueError(f"{groups} groups do not divide a code space of {width} numbers; choose a divisor")
        mean = moments.sums / moments.count
        variance = (moments.squares / moments.count - mean.square()).clamp_min(1e-12)
        w = width if residual else width // groups
        left = size ** (-2 / w)
        noise = torch.from_numpy(generator.standard_normal((groups, size, w)))
        if residual:
            shrink = (left ** torch.arange(groups, dtype=torch.float64))[:, None, None]
            first = (torch.arange(groups) == 0)[:, None, None]
            vectors = torch.where(first, mean, 0.0) + noise * (variance * shrink * (1 - left)).sqrt()
        else:
            vectors = mean.view(groups, 1, w) + noise * (variance * (1 - left)).sqrt().view(groups, 1, w)
        codebook = Codebook(vectors.float(), residual)
        return CodebookEMA(codebook, codebook.no_statistics())

    def update(self, new: Statistics, decay: float) -> "CodebookEMA":
        """N <- decay N + (1 - decay) n, S likewise, C = S / Laplace-smoothed N; a vector without any mass stays.

        Args:
            new: summed over the devices of a round.
            decay: 0 forgets everything before: a Lloyd iteration.
        """
        running = self.running.scaled(decay) + new.scaled(1 - decay)
        return replace(self, running=running)._quotient()

    def descend(self, new: Statistics, rate: float) -> "CodebookEMA":
        """A step down the gradient of the mean squared error of `new`, the loss by which van den Oord et al. learn
        their codebook (arXiv:1711.00937, eq. 3, second term). It, too, needs statistics alone.

        A vector of average use goes the ``rate``-th part of the way to the mean of what it stood for, the others by
        their use, and none further than there: rare ones hardly move, where `update` takes each to its own mean.
        """
        share = new.counts / new.counts.mean(1, keepdim=True).clamp_min(EPSILON)
        mean = new.sums / new.counts.clamp_min(EPSILON)[..., None]
        old = self.codebook.vectors
        vectors = old.double().lerp(mean, (rate * share).clamp(max=1)[..., None]).float()
        return replace(self, codebook=replace(self.codebook, vectors=vectors, version=self.codebook.version + 1))

    def revive(self, generator: np.random.Generator, least: float = 0.01, jitter: float = 0.1) -> "CodebookEMA":
        """Replace vectors of hardly any mass by jittered copies of the most used one, which halves its mass each time.

        Args:
            least: a vector is dead below this share of the mass of an average one.
            jitter: size of the noise, as a share of the spread of the group's vectors.
        """
        counts, sums = self.running.counts.clone(), self.running.sums.clone()
        for j, vectors in enumerate(self.codebook.vectors.double()):
            spread = vectors.std(0, correction=0)
            for dead in torch.where(counts[j] < least * counts[j].mean())[0]:
                most = counts[j].argmax()
                centre = sums[j, most] / counts[j, most]
                noise = torch.from_numpy(generator.standard_normal(len(centre))) * spread * jitter
                counts[j, most] /= 2
                sums[j, most] /= 2
                counts[j, dead] = counts[j, most]
                sums[j, dead] = counts[j, dead] * (centre + noise)
        return CodebookEMA(self.codebook, Statistics(counts, sums))._quotient()

    def lloyd(
        self, ask: Callable[[Codebook], Statistics], generator: np.random.Generator, iterations: int = 5
    ) -> "CodebookEMA":
        """Federated k-means: ``ask`` sums the statistics of one whole pass of every device under a codebook.

        The codebooks of a residual quantiser settle one after the other, for each codes what those before it leave.
        """
        keeper, vectors = self, self.codebook.vectors.clone()
        if not self.codebook.residual:
            for _ in range(iterations):
                keeper = keeper.update(ask(keeper.codebook), decay=0.0).revive(generator)
            return keeper.update(ask(keeper.codebook), decay=0.0)
        for stage in range(self.codebook.groups):
            own = CodebookEMA(Codebook(vectors[stage : stage + 1], residual=True), self.running)
            for _ in range(iterations):
                seen = ask(Codebook(vectors[: stage + 1], residual=True))
                own = own.update(Statistics(seen.counts[-1:], seen.sums[-1:]), decay=0.0).revive(generator)
                vectors[stage] = own.codebook.vectors[0]
        keeper = replace(self, codebook=replace(self.codebook, vectors=vectors))
        return keeper.update(ask(keeper.codebook), decay=0.0)

    def weighing(self, positions: float) -> "CodebookEMA":
        """The same codebook with the running mass of a round of so many positions.

        What `lloyd` saw is a whole pass of all devices; unless a round is one too, it would outweigh many rounds.
        """
        return replace(self, running=self.running.scaled(positions / float(self.running.counts[0].sum())))

    def state(self) -> dict[str, Tensor]:
        """Everything, as tensors; `CodebookEMA.of` is the way back."""
        of = self.codebook
        return {
            "vectors": of.vectors,
            "counts": self.running.counts,
            "sums": self.running.sums,
            "meta": torch.tensor([of.version, of.residual]),
        }

    @staticmethod
    def of(state: dict[str, Tensor]) -> "CodebookEMA":
        version, residual = state["meta"].tolist()
        codebook = Codebook(state["vectors"], bool(residual), version)
        return CodebookEMA(codebook, Statistics(state["counts"], state["sums"]))

    def _quotient(self) -> "CodebookEMA":
        counts, total = self.running.counts, self.running.counts.sum(1, keepdim=True)
        smooth = (counts + EPSILON) * total / (total + self.codebook.size * EPSILON)
        mean = self.running.sums / smooth.clamp_min(1e-300)[..., None]
        old = self.codebook.vectors
        vectors = torch.where((counts > EPSILON)[..., None], mean.float(), old)
        return CodebookEMA(replace(self.codebook, vectors=vectors, version=self.codebook.version + 1), self.running)
