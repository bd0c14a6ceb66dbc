"""How the server learns a codebook from summed statistics: initialisation, exponential mean, revival.

This module never sees a client's vectors. The sum of the clients' statistics is the statistics of the union of their
data. A federated codebook is therefore exactly the centralised one, and secure aggregation can compute the sum.
Averaging codebook vectors instead would let clients that never used a code move it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from models.vq.quantiser.codebook import Codebook, Statistics

EPSILON = 1e-5  # Laplace smoothing; vectors with a count below it do not move


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, sum and sum of squares of z over positions, from which the codebook is initialised. Moments add up.

    Args:
        count: positions.
        sums, squares: (width,) float64.
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
    """The server's state of a codebook.

    Args:
        codebook: the codebook that clients receive.
        running: exponential mean of the statistics; the codebook is their quotient.
    """

    codebook: Codebook
    running: Statistics

    @staticmethod
    def start(
        moments: Moments, groups: int, size: int, residual: bool, generator: np.random.Generator
    ) -> "CodebookEMA":
        """Draw vectors from the Gaussian that codes Gaussian data with these moments best at log2 ``size`` bits.

        A Gaussian of variance V coded in w dimensions has an error of D = V size^(-2 / w), with vectors of variance V -
        D. A residual quantiser leaves D to its next codebook. Lloyd iterations follow, see `lloyd`.

        Raises:
            ValueError: the groups do not divide the width.
        """
        width = len(moments.sums)
        if not residual and width % groups:
            raise ValueError(f"{groups} groups do not divide a code space of {width} numbers; choose a divisor")
        mean = moments.sums / moments.count
        variance = (moments.squares / moments.count - mean.square()).clamp_min(1e-12)
        w = width if residual else width // groups
        distortion = size ** (-2 / w)
        noise = torch.from_numpy(generator.standard_normal((groups, size, w)))
        if residual:
            shrink = (distortion ** torch.arange(groups, dtype=torch.float64))[:, None, None]
            first = (torch.arange(groups) == 0)[:, None, None]
            vectors = torch.where(first, mean, 0.0) + noise * (variance * shrink * (1 - distortion)).sqrt()
        else:
            vectors = mean.view(groups, 1, w) + noise * (variance * (1 - distortion)).sqrt().view(groups, 1, w)
        codebook = Codebook(vectors.float(), residual)
        return CodebookEMA(codebook, codebook.zero_statistics())

    def update(self, new: Statistics, decay: float) -> "CodebookEMA":
        """Update N <- decay N + (1 - decay) n, S likewise, and C = S / Laplace-smoothed N.

        Vectors without any mass do not move.

        Args:
            new: statistics, summed over the clients of a round.
            decay: weight of the previous statistics; 0 is a Lloyd iteration.
        """
        running = self.running.scaled(decay) + new.scaled(1 - decay)
        return replace(self, running=running)._quotient()

    def descend(self, new: Statistics, rate: float) -> "CodebookEMA":
        """Take a gradient step on the mean squared error of ``new`` (van den Oord et al., arXiv:1711.00937, eq. 3).

        The step also needs only statistics. A vector of average use moves by the share ``rate`` towards the mean of its
        inputs. Other vectors move in proportion to their use, but not beyond that mean. Rare vectors hardly move,
        whereas `update` moves each vector to its mean.
        """
        share = new.counts / new.counts.mean(1, keepdim=True).clamp_min(EPSILON)
        mean = new.sums / new.counts.clamp_min(EPSILON)[..., None]
        old = self.codebook.vectors
        vectors = old.double().lerp(mean, (rate * share).clamp(max=1)[..., None]).float()
        return replace(self, codebook=replace(self.codebook, vectors=vectors, version=self.codebook.version + 1))

    def revive(self, generator: np.random.Generator, min_share: float = 0.01, jitter: float = 0.1) -> "CodebookEMA":
        """Replace hardly used vectors by noisy copies of the most used one, which halves its mass each time.

        Args:
            generator: source of the noise.
            min_share: vectors below this share of the average mass are replaced.
            jitter: size of the noise relative to the spread of the group's vectors.
        """
        counts, sums = self.running.counts.clone(), self.running.sums.clone()
        for j, vectors in enumerate(self.codebook.vectors.double()):
            spread = vectors.std(0, correction=0)
            for unused in torch.where(counts[j] < min_share * counts[j].mean())[0]:
                most_used = counts[j].argmax()
                centre = sums[j, most_used] / counts[j, most_used]
                noise = torch.from_numpy(generator.standard_normal(len(centre))) * spread * jitter
                counts[j, most_used] /= 2
                sums[j, most_used] /= 2
                counts[j, unused] = counts[j, most_used]
                sums[j, unused] = counts[j, unused] * (centre + noise)
        return CodebookEMA(self.codebook, Statistics(counts, sums))._quotient()

    def lloyd(
        self, collect: Callable[[Codebook], Statistics], generator: np.random.Generator, iterations: int = 5
    ) -> "CodebookEMA":
        """Run federated k-means; ``collect`` sums the statistics of one pass over every client's data under a codebook.

        The codebooks of a residual quantiser converge one after the other, because each codes what the previous ones
        leave.
        """
        ema, vectors = self, self.codebook.vectors.clone()
        if not self.codebook.residual:
            for _ in range(iterations):
                ema = ema.update(collect(ema.codebook), decay=0.0).revive(generator)
            return ema.update(collect(ema.codebook), decay=0.0)
        for stage in range(self.codebook.groups):
            stage_ema = CodebookEMA(Codebook(vectors[stage : stage + 1], residual=True), self.running)
            for _ in range(iterations):
                new = collect(Codebook(vectors[: stage + 1], residual=True))
                stage_ema = stage_ema.update(Statistics(new.counts[-1:], new.sums[-1:]), decay=0.0).revive(generator)
                vectors[stage] = stage_ema.codebook.vectors[0]
        ema = replace(self, codebook=replace(self.codebook, vectors=vectors))
        return ema.update(collect(ema.codebook), decay=0.0)

    def with_mass(self, positions: float) -> "CodebookEMA":
        """Return the same codebook with the running mass of a round of ``positions`` positions.

        `lloyd` collects a whole pass over all clients, which would otherwise outweigh many rounds.
        """
        return replace(self, running=self.running.scaled(positions / float(self.running.counts[0].sum())))

    def _quotient(self) -> "CodebookEMA":
        counts, total = self.running.counts, self.running.counts.sum(1, keepdim=True)
        smooth = (counts + EPSILON) * total / (total + self.codebook.size * EPSILON)
        mean = self.running.sums / smooth.clamp_min(1e-300)[..., None]
        old = self.codebook.vectors
        vectors = torch.where((counts > EPSILON)[..., None], mean.float(), old)
        return CodebookEMA(replace(self.codebook, vectors=vectors, version=self.codebook.version + 1), self.running)
