"""AdaptiveNet's supernet: every block has branches of its own at several widths, and a path takes one in each layer.

Wen et al., "AdaptiveNet: Post-deployment Neural Architecture Adaptation for Diverse Edge Environments", MobiCom 2023,
arXiv:2303.07129. Its pruned branches are there, in the granularity of module layers; those that merge several blocks
into one are not.

The branches of a layer lie side by side along its module axis: one of k/S of the block's inner width is k modules
of 1/S. A path keeps the modules of its branches, each with gate 1, so it is a coverage like any other, and the path
of the widest branches is the dense model that the supernet was grown from.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.costs import CostModel
from models.elastic.nested import Sampled, recalibrate_batch_norm
from models.modular.modularize import modularize
from models.nn.body import Architecture, Body
from models.submodel import Coverage, State, extract
from models.training.loop import Extra, precise, score

Path = tuple[int, ...]
"""The branch of each layer, 0 being the widest."""
TRIALS = 32  # paths that a device tries; all that fit, where there are no more
POPULATION = 8  # of them the parents of the next ones


def branches(slices: int) -> list[int]:
    """Slices in each branch of a layer: all, half of them, ... one."""
    return [slices >> halvings for halvings in range(slices.bit_length())]


def elastic(dense: Architecture, slices: int) -> Architecture:
    """The architecture of the supernet.

    Raises:
        ValueError: ``slices`` does not divide an inner width.
    """
    return dense.modular(sum(branches(slices)), slices)


def grow(dense: Architecture, state: State, slices: int) -> State:
    """The supernet of a trained dense model: a branch starts from the slices of largest L1 norm."""
    modular, taken = modularize(dense, state, slices, slices)
    body = modular.part({})
    axes, norm = body.axes(), {layer: torch.zeros(slices) for layer in body.layers}
    for name, value in taken.items():
        for dim, axis in enumerate(axes[name]):
            if axis in norm:
                norm[axis] += value.abs().movedim(dim, 0).flatten(1).sum(1)
    ranked = {layer: values.argsort(descending=True, stable=True) for layer, values in norm.items()}
    lined_up = {layer: torch.cat([best[:k].sort().values for k in branches(slices)]) for layer, best in ranked.items()}
    return extract(taken, axes, lined_up)


def coverage(layers: Sequence[str], slices: int, path: Path) -> Coverage:
    """The modules of a path."""
    ends = np.cumsum(branches(slices))
    return {
        layer: torch.arange(ends[branch] - branches(slices)[branch], ends[branch])
        for layer, branch in zip(layers, path, strict=True)
    }


def random_paths(architecture: Architecture, body: Body, slices: int, generator: np.random.Generator) -> Sampled:
    """The supernet ``body``, trained along a random path for every batch."""

    def draw() -> tuple[Coverage, float]:
        path = tuple(int(branch) for branch in generator.integers(len(branches(slices)), size=len(body.layers)))
        return coverage(body.layers, slices, path), 1.0

    return Sampled(body, architecture.build, draw)


def taught(teacher: Body) -> Extra:
    """Distillation: a batch's cross-entropy to the soft answers of ``teacher``."""
    teacher.eval()

    def term(x: Tensor, logits: Tensor) -> Tensor:
        with torch.no_grad():
            soft = precise(teacher(x)).softmax(1)
        return F.cross_entropy(precise(logits), soft)

    return term


def fitting(costs: CostModel, slices: int, macs: float, memory: float) -> list[Path]:
    """All paths of at most so many MACs a sample and bytes of training memory, the most expensive first.

    Where none fits, the narrowest alone.
    """
    widths, layers = np.array(branches(slices)), costs.layers
    paths = np.indices((len(widths),) * len(layers)).reshape(len(layers), -1).T  # (paths, L)
    price = np.array([costs.module[layer].vector[2:] for layer in layers])  # (L, 2)
    spent = np.array(costs.base.vector[2:]) + widths[paths] @ price
    fits = (spent <= (macs, memory)).all(1)
    if not fits.any():
        fits[-1] = True
    order = np.argsort(-spent[fits, 0], kind="stable")
    return [tuple(path) for path in paths[fits][order].tolist()]


def search(paths: Sequence[Path], loss: Callable[[Path], float], generator: np.random.Generator) -> Path:
    """The path of the smallest loss; by evolution where there are more than `TRIALS`.

    Args:
        paths: those that fit, the most expensive first: the first population.
        loss: called at most once per path.
    """
    allowed, tried = set(paths), {}
    for path in paths if len(paths) <= TRIALS else paths[:POPULATION]:
        tried[path] = loss(path)
    while len(tried) < min(TRIALS, len(paths)):
        parents = sorted(tried, key=lambda path: tried[path])[:POPULATION]
        mother, father = (np.array(parents[i]) for i in generator.choice(len(parents), 2))
        child = np.where(generator.random(len(mother)) < 0.5, mother, father)
        child[generator.integers(len(child))] = generator.choice([path[0] for path in paths])  # one gene mutates
        born = tuple(child.tolist())
        if born not in allowed or born in tried:
            born = next(p for p in (paths[i] for i in generator.permutation(len(paths))) if p not in tried)
        tried[born] = loss(born)
    return min(tried, key=lambda path: tried[path])


def best_path(
    supernet: State,
    costs: CostModel,
    slices: int,
    macs: float,
    memory: float,
    x: Tensor,
    y: Tensor,
    classes: int,
    generator: np.random.Generator,
    place: torch.device,
) -> tuple[Coverage, float]:
    """The modules of the path that suits a device's samples best under its limits, and the MACs of trying them out.

    Args:
        costs: of the supernet's paths.
        macs, memory: limits, of a forward pass of a sample and in bytes while training.
        x: (n, ...) local samples; y: (n,) their classes.
        place: where paths are tried out.
    """
    axes = costs.architecture.part({}).axes()
    there = {name: value.to(place) for name, value in supernet.items()}
    spent = 0.0

    def loss(path: Path) -> float:
        nonlocal spent
        kept = coverage(costs.layers, slices, path)
        spent += len(x) * costs.of({layer: len(own) for layer, own in kept.items()}).macs
        part = costs.architecture.part(kept).to(place)
        part.load_state_dict(extract(there, axes, kept))
        recalibrate_batch_norm(part, x)  # the running statistics of a batch norm differ by path
        return score(part, x, y, classes).loss_sum

    found = search(fitting(costs, slices, macs, memory), loss, generator)
    return coverage(costs.layers, slices, found), spent
