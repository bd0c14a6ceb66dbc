"""Training of several tasks that share the cloud half; each has its own device half, boundary and head.

A step belongs to one task. The loss weights are equal, or GradNorm's. GradNorm updates them at the end of a *round*:
when every task has made at least one step. AdamW is nearly invariant to the scale of a gradient, so the weights matter
where gradients of several tasks meet: in the cloud half.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from models.vq.ends import LearningRates
from models.vq.network.tokens import Tokens
from models.vq.training.gradnorm import reweigh
from models.vq.training.train import Split, Tick


@dataclass(frozen=True)
class TaskTraining:
    """A task with its texts and labels (n, ...); the plans of tasks trained together may differ only in epochs."""

    split: Split
    tokens: Tokens
    labels: Tensor

    @property
    def steps(self) -> int:
        return self.split.plan.steps(len(self.tokens))


def fit(
    tasks: Sequence[TaskTraining], seed: int, gradnorm: bool = False, tick: Tick = lambda step, steps: None
) -> tuple[list[list[float]], Tensor]:
    """Train all tasks.

    A single task is trained exactly as by `Split.fit`. GradNorm's W is the last shared layer. Its norms and losses are
    means over a round, and its first losses are those of the first round.

    Args:
        tasks: with one shared cloud half.
        seed: of all random numbers.
        gradnorm: update the loss weights by GradNorm.
        tick: called with (step, steps) after every step.

    Returns:
        The mean loss of each epoch, by task; the weights (rounds + 1, tasks) before and after each round.

    Raises:
        ValueError: the tasks have different cloud halves, or a projection, which each task would initialise.
    """
    cloud, plan = tasks[0].split.cloud, tasks[0].split.plan
    if any(task.split.cloud is not cloud for task in tasks):
        raise ValueError("tasks share the cloud half; give every Split the same CloudHalf")
    if cloud.shape.width:
        raise ValueError("tasks exchange unprojected activations; build the halves with width = 0")
    order = interleave([task.steps for task in tasks])
    heads = [p for task in tasks for p in task.split.head.parameters()]  # AdamW skips parameters without a gradient
    fresh = [*cloud.out.parameters(), *cloud.positions.parameters(), *heads]
    shared = LearningRates(plan.lr, plan.fresh, len(order)).build(list(cloud.layers.parameters()), fresh)
    step_iterators = []
    for task in tasks:
        device, cloud_end = task.split.ends(LearningRates(plan.lr, plan.fresh, task.steps))
        cloud_end.optimizer, cloud_end.schedule = shared
        step_iterators.append(task.split.steps(task.tokens, task.labels, seed, device, cloud_end))
    losses = [[0.0] * task.split.plan.epochs for task in tasks]
    weights, first = [torch.ones(len(tasks))], None
    observed: list[list[tuple[float, float]]] = [[] for _ in tasks]  # norm and loss of each step in the round
    for number, t in enumerate(order, 1):
        step, weight = next(step_iterators[t]), float(weights[-1][t])
        loss = step.take(weight)
        losses[t][step.epoch] += loss * len(step.tokens)
        gradients = [p.grad for p in cloud.layers[-1].parameters() if p.grad is not None]
        observed[t].append((float(get_total_norm(gradients)) / weight, loss))
        if all(observed):
            norm, current = torch.stack([torch.tensor(of_task).mean(0) for of_task in observed]).T
            first = current if first is None else first
            weights.append(reweigh(weights[-1], norm, current, first) if gradnorm else weights[-1])
            observed = [[] for _ in tasks]
        tick(number, len(order))
    for steps in step_iterators:
        next(steps, None)  # the codebook may move after the last step
    means = [[loss / len(task.tokens) for loss in task_losses] for task, task_losses in zip(tasks, losses, strict=True)]
    return means, torch.stack(weights)


def interleave(steps: Sequence[int]) -> list[int]:
    """Return the task of each step: ``steps[t]`` steps of task t, all spread evenly."""
    return [t for _, t in sorted(((k + 0.5) / n, t) for t, n in enumerate(steps) for k in range(n))]
