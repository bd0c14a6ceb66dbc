"""A device's samples are slots: some are given up, and what enters follows the distribution of now."""

import numpy as np

from partitions.apportion import apportion


def sizes(cells: list[np.ndarray]) -> np.ndarray:
    return np.array([len(cell) for cell in cells])


def take(generator: np.random.Generator, cells: list[np.ndarray], counts: np.ndarray) -> np.ndarray:
    """``counts[k]`` different members of ``cells[k]``, for every k, in one array (sum(counts),)."""
    chosen = [generator.choice(cells[k], counts[k], replace=False) for k in np.flatnonzero(counts)]
    return np.concatenate([np.empty(0, np.int64), *chosen])


def without(members: np.ndarray, some: np.ndarray) -> np.ndarray:
    """Sorted ``members`` less ``some`` of them; far cheaper than a set difference, which sorts again."""
    return np.delete(members, np.searchsorted(members, some))


def renew(
    generator: np.random.Generator,
    held: np.ndarray,
    cell: np.ndarray,
    cells: list[np.ndarray],
    p: np.ndarray,
    fraction: float,
    size: int,
) -> np.ndarray:
    """A device's samples after one step: ``round(fraction * size)`` of the ``held`` leave, and it fills up to ``size``.

    ``cell`` (N,) is the cell of every train sample, ``cells`` are the pool's members by cell, ``p`` (K,) is what the
    device should look like. Samples whose cell has lost its mass leave first, then any. What enters is new to the
    device as long as the cells with mass hold anything new; with nothing held this is a first draw.
    """
    order = generator.permutation(len(held))
    order = order[np.argsort(p[cell[held[order]]] > 0, kind="stable")]
    leave = min(round(fraction * size), len(held))
    gone, stay = held[order[:leave]], held[np.sort(order[leave:])]

    room = np.where(p > 0, sizes(cells) - np.bincount(cell[held], minlength=len(p)), 0)
    deficit = apportion(size, p, sizes(cells)) - np.bincount(cell[stay], minlength=len(p))
    counts = apportion(size - len(stay), deficit.clip(0), room)
    counts += apportion(size - len(stay) - int(counts.sum()), p, room - counts)
    fresh = [without(cells[k], held[cell[held] == k]) if n else cells[k] for k, n in enumerate(counts)]
    enter = take(generator, fresh, counts)

    short = size - len(stay) - len(enter)
    back = gone[p[cell[gone]] > 0][:short]  # nothing new is left: old ones return
    return np.concatenate([stay, enter, back])
