"""Tailoring: ability-enhancing training on the very sub-models that devices will get. Ours; the paper stops at 4.3.

The paper trains all modules together and cuts them apart on the devices, where a few modules meet sums, norms and gates
that they never saw in training. Here every step trains the whole model on a batch, and beside it one device:

    its data      a few sub-tasks, and a batch of their samples
    its modules   the core of every layer, which all devices hold, and the most important others for these data, a
                  random share of the layer (5.1 without the knapsack)
    its loss      cross-entropy corrected for the class shares, half of it replaced by what the dense model says of them
                  (Hinton et al. 2015, arXiv:1503.02531; sub-models of random size: Cai et al. 2020, arXiv:1908.09791;
                  always with the whole one: Yu & Huang 2019, arXiv:1903.05134)

A core (shared experts: Dai et al. 2024, arXiv:2401.06066) is for what all sub-tasks need: modules that are chosen each
need not learn it anew. KL(P[sub-task], g) holds the selector to its targets, as in 4.3.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.modular.model import ModularModel, Progress, divergence, steer, train
from models.modular.selector import Routing, importance
from models.nn.body import Body
from models.training.loop import Augment, Recipe, mask

SMALLEST, LARGEST, SPREAD = 0.15, 0.9, 0.1  # share of a layer that an imagined device holds; its spread over layers


def imagine(subtask: Tensor, least: int, size: int, generator: np.random.Generator) -> tuple[Tensor, float]:
    """An imagined device: which samples (about ``size``,) it holds, and what share of the modules.

    It has ``least`` to all of the sub-tasks that occur, few more often than many, and as many samples of each.
    """
    share = generator.uniform(SMALLEST, LARGEST)
    known = subtask.unique()
    many = min(len(known), max(least, round(len(known) ** generator.random())))
    chosen = known[torch.from_numpy(generator.choice(len(known), many, replace=False))]
    rows = [torch.nonzero(subtask == t).squeeze(1) for t in chosen]
    drawn = [own[torch.from_numpy(generator.integers(0, len(own), -(-size // many)))] for own in rows]
    return torch.cat(drawn), share


def held(logits: list[Tensor], share: float, generator: np.random.Generator) -> list[Tensor]:
    """The numbers of the most important modules of every layer for a batch: about ``share`` of them, at least one."""
    kept = []
    for scores in importance([layer.detach() for layer in logits]):
        count = round(len(scores) * (share + SPREAD * generator.standard_normal()))
        kept.append(scores.topk(min(len(scores), max(1, count))).indices.sort().values)
    return kept


def gates_among(routing: Routing, logits: list[Tensor], kept: list[Tensor]) -> list[Tensor]:
    """Gates (B, N) per layer as a device computes them that holds the modules ``kept``; 0 for all others."""
    return [
        torch.zeros_like(layer).index_copy(1, own, routing.gates(layer[:, own]))
        for layer, own in zip(logits, kept, strict=True)
    ]


def tailor(
    model: ModularModel,
    teacher: Body,
    x: Tensor,
    y: Tensor,
    subtask: Tensor,
    subtasks: int,
    recipe: Recipe,
    epochs: int,
    generator: np.random.Generator,
    strength: float = 1.0,
    slack: float = 1.25,
    kappa2: int = 4,
    progress: Progress | None = None,
    augment: Augment | None = None,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Train body and selector in place on imagined devices; arguments and result as of `models.modular.model.enhance`.

    Args:
        teacher: the dense model.
    """
    found, wanted, label = steer(model, x, subtask, subtasks, recipe, epochs, generator, slack, kappa2, augment)
    least = 2 if torch.equal(subtask, y) else 1  # one class alone has nothing to tell apart
    classes = model.body.sizes["classes"]
    x, y = model.brought(x, y)
    usual = torch.bincount(y, minlength=classes).clamp(min=1) / len(y)
    teacher.eval()

    def taught(rows: Tensor, share: float | None = None) -> Tensor:
        """The loss of a device that holds these samples and a share of the modules, or of the whole model."""
        inputs = augment(x[rows], generator) if augment else x[rows]
        clean = model.selector(inputs)
        if share is None:
            shares, gates = torch.ones_like(usual), model.gates(clean)
        else:
            shares = torch.bincount(y[rows], minlength=classes) / len(rows) / usual
            gates = gates_among(model.routing, clean, held(clean, share, generator))
        with recipe.arithmetic(inputs.device):
            logits, present = mask(model.body(inputs, gates), shares, "prior"), shares > 0
            with torch.no_grad():
                told = mask(teacher(inputs), shares, "prior").softmax(1)
            distance = F.kl_div(logits[:, present].log_softmax(1), told[:, present], reduction="batchmean")
            own = (F.cross_entropy(logits, y[rows]) + distance) / 2
        return own + strength * divergence(model.selector, clean, label, rows)

    def loss(rows: Tensor) -> Tensor:
        whole = taught(rows)
        own, share = imagine(subtask, least, recipe.batch_size, generator)
        return (whole + taught(own.to(rows.device), share)) / 2

    train(model, len(x), recipe, epochs, generator, loss, "tailoring", progress)
    return found, wanted
