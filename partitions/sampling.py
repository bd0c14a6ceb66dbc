"""Draw samples for a device, and replace a part of them so that they follow its current distribution."""

import numpy as np

from partitions.apportion import apportion


def sizes(cells: list[np.ndarray]) -> np.ndarray:
    """Return the number of samples in each cell (K,)."""
    return np.array([len(cell) for cell in cells])


def sample(generator: np.random.Generator, cells: list[np.ndarray], counts: np.ndarray) -> np.ndarray:
    """Draw ``counts[k]`` samples of every ``cells[k]`` without replacement; returns indices (sum(counts),)."""
    chosen = [generator.choice(cells[k], counts[k], replace=False) for k in np.flatnonzero(counts)]
    return np.concatenate([np.empty(0, np.int64), *chosen])


def without(members: np.ndarray, some: np.ndarray) -> np.ndarray:
    """Remove ``some`` from the sorted ``members``; far cheaper than a set difference, which sorts again."""
    return np.delete(members, np.searchsorted(members, some))


def sample_own_first(
    generator: np.random.Generator, own: list[np.ndarray], others: list[np.ndarray], counts: np.ndarray
) -> np.ndarray:
    """Draw ``counts[k]`` samples of every cell k: from ``own[k]``, and from ``others[k]`` what is missing there."""
    from_own = np.minimum(counts, sizes(own))
    return np.concatenate([sample(generator, own, from_own), sample(generator, others, counts - from_own)])


def renew_samples(
    generator: np.random.Generator,
    indices: np.ndarray,
    cell: np.ndarray,
    cells: list[np.ndarray],
    own: np.ndarray,
    p: np.ndarray,
    fraction: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Replace a part of the samples of a device that has ``own`` ones (n,), so that they follow ``p``.

    Arguments are those of `replace_samples`. The device records its own samples anew where it can: removed samples may
    come back. Samples of others fill only what it lacks.

    Returns:
        Samples that stay, and samples that enter; together as many as ``own``, or fewer if the pool lacks them.
    """
    leave = min(round(fraction * len(own)), len(indices))
    order = generator.permutation(len(indices))
    order = order[np.argsort(p[cell[indices[order]]] > 0, kind="stable")]
    kept = indices[np.sort(order[leave:])]
    held = np.bincount(cell[kept], minlength=len(p))
    deficit = apportion(len(own), p, sizes(cells)) - held
    counts = apportion(len(own) - len(kept), deficit.clip(0), sizes(cells) - held)
    fresh, others = [], []
    for k, members in enumerate(cells):
        mine = own[cell[own] == k]
        fresh.append(np.setdiff1d(mine, kept))
        known = np.union1d(mine, kept[cell[kept] == k])
        others.append(without(members, known) if counts[k] > len(fresh[k]) else members[:0])
    return kept, sample_own_first(generator, fresh, others, counts)


def replace_samples(
    generator: np.random.Generator,
    indices: np.ndarray,
    cell: np.ndarray,
    cells: list[np.ndarray],
    p: np.ndarray,
    fraction: float,
    size: int,
) -> np.ndarray:
    """Replace a part of a device's samples so that they follow the distribution ``p``.

    Samples of cells with probability 0 are removed first, then random ones. New samples are drawn where ``p`` lacks
    most. The device gets samples back that were just removed only if the cells of ``p`` contain no new ones.

    Args:
        indices: the device's training samples now (n,); empty for a first draw.
        cell: the cell of every training sample (N,).
        cells: sorted indices of the pool's samples, one array for each of K cells.
        p: probability of each cell (K,).
        fraction: ``round(fraction * size)`` samples are removed.
        size: number of samples that the device should have.

    Returns:
        Indices of the device's samples (size,), or fewer if the pool does not contain enough.
    """
    order = generator.permutation(len(indices))
    order = order[np.argsort(p[cell[indices[order]]] > 0, kind="stable")]
    leave = min(round(fraction * size), len(indices))
    removed, kept = indices[order[:leave]], indices[np.sort(order[leave:])]

    room = np.where(p > 0, sizes(cells) - np.bincount(cell[indices], minlength=len(p)), 0)
    deficit = apportion(size, p, sizes(cells)) - np.bincount(cell[kept], minlength=len(p))
    counts = apportion(size - len(kept), deficit.clip(0), room)
    counts += apportion(size - len(kept) - int(counts.sum()), p, room - counts)
    fresh = [without(cells[k], indices[cell[indices] == k]) if n else cells[k] for k, n in enumerate(counts)]
    new = sample(generator, fresh, counts)

    missing = size - len(kept) - len(new)
    return np.concatenate([kept, new, removed[p[cell[removed]] > 0][:missing]])
