"""Several tasks at once: each has its own device half, boundary and head, all share one stack in the cloud.

A step is one of one task. Weights of the tasks' losses are equal, or GradNorm's, which moves them at the end of a
*round*: as soon as every task has made a step in it, the one with the fewest steps a single one. AdamW takes next
to no notice of the scale of a gradient, so the weights matter where gradients of several tasks meet: in the stack.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from models.vq.ends import Recipe
from models.vq.network.tokens import Tokens
from models.vq.training.gradnorm import reweigh
from models.vq.training.train import Split, Tick


@dataclass(frozen=True)
class Task:
    """A task, its texts and labels (n, ...); the plans of tasks that learn together differ in nothing but epochs."""

    split: Split
    tokens: Tokens
    labels: Tensor

    @property
    def steps(self) -> int:
        return self.split.plan.steps(len(self.tokens))


def fit(
    tasks: Sequence[Task], seed: int, gradnorm: bool = False, tick: Tick = lambda step, steps: None
) -> tuple[list[list[float]], Tensor]:
    """Train all: the mean loss of each epoch, by task, and the weights (rounds + 1, tasks) before and after each round.

    A single task is trained as by `Split.fit`. GradNorm's W is the last shared layer, its norms and losses are means
    over a round, and its first losses those of the first round.

    Raises:
        ValueError: the tasks' clouds are not one object, or their code space is projected, which each would align.
    """
    cloud, plan = tasks[0].split.cloud, tasks[0].split.plan
    if any(task.split.cloud is not cloud for task in tasks):
        raise ValueError("tasks share one stack in the cloud; give every Split the same CloudHalf")
    if cloud.shape.width:
        raise ValueError("tasks share what crosses the cut as it is; build the halves with width = 0")
    order = interleaved([task.steps for task in tasks])
    heads = [p for task in tasks for p in task.split.head.parameters()]  # AdamW skips those without a gradient
    fresh = [*cloud.out.parameters(), *cloud.positions.parameters(), *heads]
    shared = Recipe(plan.lr, plan.fresh, len(order)).build(list(cloud.layers.parameters()), fresh)
    courses = []
    for task in tasks:
        one, two = task.split.ends(Recipe(plan.lr, plan.fresh, task.steps))
        two.optimizer, two.schedule = shared
        courses.append(task.split.course(task.tokens, task.labels, seed, one, two))
    losses = [[0.0] * task.split.plan.epochs for task in tasks]
    weights, first = [torch.ones(len(tasks))], None
    seen: list[list[tuple[float, float]]] = [[] for _ in tasks]  # norm and loss of the steps of the round
    for at, t in enumerate(order, 1):
        step, weight = next(courses[t]), float(weights[-1][t])
        loss = step.take(weight)
        losses[t][step.epoch] += loss * len(step.tokens)
        slopes = [p.grad for p in cloud.layers[-1].parameters() if p.grad is not None]
        seen[t].append((float(get_total_norm(slopes)) / weight, loss))
        if all(seen):
            norm, now = torch.stack([torch.tensor(of).mean(0) for of in seen]).T
            first = now if first is None else first
            weights.append(reweigh(weights[-1], norm, now, first) if gradnorm else weights[-1])
            seen = [[] for _ in tasks]
        tick(at, len(order))
    for course in courses:
        next(course, None)  # a codebook may move after the last step
    means = [[loss / len(task.tokens) for loss in own] for task, own in zip(tasks, losses, strict=True)]
    return means, torch.stack(weights)


def interleaved(steps: Sequence[int]) -> list[int]:
    """Whose step each is: ``steps[t]`` of task t, all spread evenly from the first to the last."""
    return [t for _, t in sorted(((k + 0.5) / n, t) for t, n in enumerate(steps) for k in range(n))]
