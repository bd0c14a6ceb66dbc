"""Tailoring (ours, not in the paper): ability-enhancing training on sub-models like those of clients.

The paper trains all modules together. Clients then use a few modules with sums, norms and gates that did not occur in
training. Here every step trains the whole model on a batch, and also one simulated client:

    its data      samples of a few sub-tasks
    its modules   the core of every layer, which all clients have, and the most important other modules for these data,
                  a random share of the layer (5.1 without the knapsack)
    its loss      half cross-entropy corrected for the class shares, half distillation from the dense model
                  (Hinton et al. 2015, arXiv:1503.02531; sub-models of random size: Cai et al. 2020, arXiv:1908.09791;
                  always with the whole model: Yu & Huang 2019, arXiv:1903.05134)

A core (shared experts: Dai et al. 2024, arXiv:2401.06066) learns what all sub-tasks need, so the other modules need not
learn it again. KL(P[sub-task], g) keeps the selector near its targets, as in 4.3.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.modular.model import ModularModel, Progress, divergence, fit_selector, train
from models.modular.selector import Routing, importance
from models.nn.body import Body
from models.training.loop import Augment, Recipe, correct_logits

# share of a layer's modules on a simulated client; standard deviation over layers
MIN_SHARE, MAX_SHARE, SPREAD = 0.15, 0.9, 0.1


def simulate_client(subtask: Tensor, minimum: int, size: int, generator: np.random.Generator) -> tuple[Tensor, float]:
    """Draw the data and the size of a simulated client.

    The client has at least ``minimum`` of the sub-tasks in the data, more often few than many, with equal numbers
    of samples of each.

    Args:
        subtask: (n,) sub-task of each sample.
        minimum: smallest number of sub-tasks.
        size: number of samples, rounded up to a multiple of the number of sub-tasks.
        generator: source of the random choices.

    Returns:
        Rows of the samples, and the share of the modules.
    """
    share = generator.uniform(MIN_SHARE, MAX_SHARE)
    present = subtask.unique()
    count = min(len(present), max(minimum, round(len(present) ** generator.random())))
    chosen = present[torch.from_numpy(generator.choice(len(present), count, replace=False))]
    rows = [torch.nonzero(subtask == t).squeeze(1) for t in chosen]
    samples = [indices[torch.from_numpy(generator.integers(0, len(indices), -(-size // count)))] for indices in rows]
    return torch.cat(samples), share


def important_modules(logits: list[Tensor], share: float, generator: np.random.Generator) -> list[Tensor]:
    """Return the most important modules of every layer for a batch: about ``share`` of them, at least one."""
    modules = []
    for scores in importance([layer.detach() for layer in logits]):
        count = round(len(scores) * (share + SPREAD * generator.standard_normal()))
        modules.append(scores.topk(min(len(scores), max(1, count))).indices.sort().values)
    return modules


def gates_among(routing: Routing, logits: list[Tensor], modules: list[Tensor]) -> list[Tensor]:
    """Compute gates (B, N) per layer as on a client with the given ``modules``; 0 for all others."""
    return [
        torch.zeros_like(layer).index_copy(1, indices, routing.gates(layer[:, indices]))
        for layer, indices in zip(logits, modules, strict=True)
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
    """Train body and selector in place on simulated clients; as `models.modular.model.enhance`, with a teacher.

    Args:
        teacher: the dense model.
    """
    h, p, labels = fit_selector(model, x, subtask, subtasks, recipe, epochs, generator, slack, kappa2, augment)
    minimum = 2 if torch.equal(subtask, y) else 1  # a client with one class has nothing to distinguish
    classes = model.body.sizes["classes"]
    x, y = model.to_device(x, y)
    class_frequencies = torch.bincount(y, minlength=classes).clamp(min=1) / len(y)
    teacher.eval()

    def client_loss(rows: Tensor, share: float | None = None) -> Tensor:
        """Compute the loss of a client with these samples and a share of the modules, or of the whole model."""
        inputs = augment(x[rows], generator) if augment else x[rows]
        clean = model.selector(inputs)
        if share is None:
            shares, gates = torch.ones_like(class_frequencies), model.gates(clean)
        else:
            shares = torch.bincount(y[rows], minlength=classes) / len(rows) / class_frequencies
            gates = gates_among(model.routing, clean, important_modules(clean, share, generator))
        with recipe.autocast(inputs.device):
            logits, present = correct_logits(model.body(inputs, gates), shares, "prior"), shares > 0
            with torch.no_grad():
                soft_targets = correct_logits(teacher(inputs), shares, "prior").softmax(1)
            distance = F.kl_div(logits[:, present].log_softmax(1), soft_targets[:, present], reduction="batchmean")
            loss_ = (F.cross_entropy(logits, y[rows]) + distance) / 2
        return loss_ + strength * divergence(model.selector, clean, labels, rows)

    def loss(rows: Tensor) -> Tensor:
        whole_loss = client_loss(rows)
        rows_, share = simulate_client(subtask, minimum, recipe.batch_size, generator)
        return (whole_loss + client_loss(rows_.to(rows.device), share)) / 2

    train(model, len(x), recipe, epochs, generator, loss, "tailoring", progress)
    return h, p
