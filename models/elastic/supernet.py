"""AdaptiveNet's supernet: every block has its own branches at several widths, and a path takes one per layer.

Wen et al., "AdaptiveNet: Post-deployment Neural Architecture Adaptation for Diverse Edge Environments", MobiCom 2023,
arXiv:2303.07129. This module implements its pruned branches, at the granularity of module layers. It omits the branches
that merge several blocks into one.

The branches of a layer lie next to each other along its module axis: a branch with k/S of the block's inner width is k
modules of 1/S. A path contains the modules of its branches, each with gate 1. A path is therefore an ordinary coverage,
and the path of the widest branches is the dense model from which the supernet starts.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.costs import CostModel
from models.elastic.nested import RandomSubmodel
from models.modular.modularize import modularize
from models.nn.body import Architecture, Body
from models.submodel import Coverage, State, axis_names, extract
from models.training.loop import Extra, score, to_float32

Path = tuple[int, ...]
"""The branch of each layer; 0 is the widest."""
TRIALS = 32  # paths that a client evaluates, or all affordable ones if there are fewer
POPULATION = 8  # best paths that become parents


def branches(slices: int) -> list[int]:
    """Return the number of slices in each branch of a layer: all, half of them, ... one."""
    return [slices >> halvings for halvings in range(slices.bit_length())]


def elastic(dense: Architecture, slices: int) -> Architecture:
    """Return the architecture of the supernet.

    Raises:
        ValueError: ``slices`` does not divide an inner width.
    """
    return dense.modular(sum(branches(slices)), slices)


def grow(dense: Architecture, state: State, slices: int) -> State:
    """Initialise the supernet from a trained dense model: branches start from the slices of largest L1 norm."""
    modular, modular_state = modularize(dense, state, slices, slices)
    body = modular.part({})
    axes, norm = body.axes(), {layer: torch.zeros(slices) for layer in body.layers}
    for name, value in modular_state.items():
        for dim, dimension in enumerate(axes[name]):
            for axis in axis_names([dimension]) & norm.keys():  # modules come first in a dimension that they share
                norm[axis] += value.abs().movedim(dim, 0).reshape(slices, -1).sum(1)
    ranked = {layer: values.argsort(descending=True, stable=True) for layer, values in norm.items()}
    order = {layer: torch.cat([best[:k].sort().values for k in branches(slices)]) for layer, best in ranked.items()}
    return extract(modular_state, axes, order)


def coverage(layers: Sequence[str], slices: int, path: Path) -> Coverage:
    """Return the coverage of a path."""
    ends = np.cumsum(branches(slices))
    return {
        layer: torch.arange(ends[branch] - branches(slices)[branch], ends[branch])
        for layer, branch in zip(layers, path, strict=True)
    }


def random_paths(architecture: Architecture, body: Body, slices: int, generator: np.random.Generator) -> RandomSubmodel:
    """Train the supernet ``body`` along a random path for every batch.

    Batch norms keep running statistics over all paths that contain them, as the server's data have them. Clients use
    these: statistics of a client's own data would be those of its few classes.
    """

    def draw() -> tuple[Coverage, float]:
        path = tuple(int(branch) for branch in generator.integers(len(branches(slices)), size=len(body.layers)))
        return coverage(body.layers, slices, path), 1.0

    return RandomSubmodel(body, architecture.build, draw, statistics=True)


def distillation(teacher: Body) -> Extra:
    """Return a distillation loss: cross-entropy of a batch to the soft predictions of ``teacher``."""
    teacher.eval()

    def term(x: Tensor, logits: Tensor) -> Tensor:
        with torch.no_grad():
            soft_targets = to_float32(teacher(x)).softmax(1)
        return F.cross_entropy(to_float32(logits), soft_targets)

    return term


def affordable_paths(costs: CostModel, slices: int, macs: float, memory: float) -> list[Path]:
    """Return all paths within both limits, the most expensive first; if none fits, the narrowest path.

    Args:
        costs: costs of the supernet's sub-models.
        slices: slices of the widest branch.
        macs: limit in multiply-accumulates per sample.
        memory: limit in bytes during training.
    """
    widths, layers = np.array(branches(slices)), costs.layers
    paths = np.indices((len(widths),) * len(layers)).reshape(len(layers), -1).T  # (paths, L)
    layer_cost = np.array([costs.module[layer].vector[2:] for layer in layers])  # (L, 2)
    total = np.array(costs.base.vector[2:]) + widths[paths] @ layer_cost
    fits = (total <= (macs, memory)).all(1)
    if not fits.any():
        fits[-1] = True
    order = np.argsort(-total[fits, 0], kind="stable")
    return [tuple(path) for path in paths[fits][order].tolist()]


def search(paths: Sequence[Path], loss: Callable[[Path], float], generator: np.random.Generator) -> Path:
    """Return the path of the smallest loss; by evolution if there are more than `TRIALS`.

    Args:
        paths: candidates, the most expensive first; the first ones are the initial population.
        loss: called at most once per path.
        generator: source of the random choices.
    """
    all_paths, losses = set(paths), {}
    for path in paths if len(paths) <= TRIALS else paths[:POPULATION]:
        losses[path] = loss(path)
    while len(losses) < min(TRIALS, len(paths)):
        parents = sorted(losses, key=lambda path: losses[path])[:POPULATION]
        mother, father = (np.array(parents[i]) for i in generator.choice(len(parents), 2))
        child = np.where(generator.random(len(mother)) < 0.5, mother, father)
        child[generator.integers(len(child))] = generator.choice([path[0] for path in paths])  # mutate one layer
        child_path = tuple(child.tolist())
        if child_path not in all_paths or child_path in losses:
            child_path = next(p for p in (paths[i] for i in generator.permutation(len(paths))) if p not in losses)
        losses[child_path] = loss(child_path)
    return min(losses, key=lambda path: losses[path])


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
    device: torch.device,
) -> tuple[Coverage, float]:
    """Find the path with the smallest loss on a client's samples under its limits.

    Args:
        supernet: state of the supernet.
        costs: costs of the supernet's paths.
        slices: slices of the widest branch.
        macs: limit in multiply-accumulates per sample.
        memory: limit in bytes during training.
        x: (n, ...) local samples.
        y: (n,) their classes.
        classes: number of classes.
        generator: source of the random choices.
        device: hardware on which paths are evaluated.

    Returns:
        The coverage of the path, and the MACs spent on evaluating candidates.
    """
    axes = costs.architecture.part({}).axes()
    state = {name: value.to(device) for name, value in supernet.items()}
    spent = 0.0

    def loss(path: Path) -> float:
        nonlocal spent
        submodel = coverage(costs.layers, slices, path)
        spent += len(x) * costs.of({layer: len(modules) for layer, modules in submodel.items()}).macs
        part = costs.architecture.part(submodel).to(device)
        part.load_state_dict(extract(state, axes, submodel))
        return score(part, x, y, classes).loss_sum

    path = search(affordable_paths(costs, slices, macs, memory), loss, generator)
    return coverage(costs.layers, slices, path), spent
