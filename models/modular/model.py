"""The cloud model of ECLM: a modular body and its selector, and how the cloud trains the two (ECLM 4.3)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.modular.derive import quiet_stdout
from models.modular.selector import Routing, Selector, load_balance
from models.nn.body import Body, home
from models.training.loop import Augment, Recipe, Score, batches, precise, score

Progress = Callable[[str, int, int], None]
"""``progress(stage, epoch, epochs)``."""
WARM_UP = 5  # epochs of the selector alone at the start of ability enhancing


@dataclass
class ModularModel:
    """A modular body, its selector, which compute in the same place, and how gates follow from it."""

    body: Body
    selector: Selector
    routing: Routing

    def brought(self, *tensors: Tensor) -> list[Tensor]:
        """Where the two compute."""
        return [tensor.to(home(self.body)) for tensor in tensors]

    def logits(self, x: Tensor) -> list[Tensor]:
        """The selector's clean logits (n, N) per layer."""
        return self.selector.logits(x)

    def gates(self, logits: Sequence[Tensor]) -> list[Tensor]:
        """Gates (n, N) per layer."""
        return [self.routing.gates(layer) for layer in logits]

    def score(self, x: Tensor, y: Tensor, classes: int) -> Score:
        """Score the whole cloud model."""
        return score(self.body, x, y, classes, self.gates(self.logits(x)))


def train(
    model: ModularModel,
    samples: int,
    recipe: Recipe,
    epochs: int,
    generator: np.random.Generator,
    batch_loss: Callable[[Tensor], Tensor],
    stage: str,
    progress: Progress | None,
) -> None:
    """Minimise ``batch_loss(rows)`` over body and selector, in place; the learning rate falls along a cosine.

    The rows lie where the two compute.
    """
    optimizer = recipe.build([*model.body.parameters(), *model.selector.parameters()])
    steps = max(1, epochs * -(-samples // recipe.batch_size))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.body.train()
    model.selector.train()
    for epoch in range(epochs):
        if progress:
            progress(stage, epoch, epochs)
        for rows in batches(samples, recipe.batch_size, generator, home(model.body)):
            loss = batch_loss(rows)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if recipe.clip:  # apart, or the body's gradients would drown the selector's
                torch.nn.utils.clip_grad_norm_(model.body.parameters(), recipe.clip)
                torch.nn.utils.clip_grad_norm_(model.selector.parameters(), recipe.clip)
            optimizer.step()
            schedule.step()


def _noisy_loss(
    model: ModularModel,
    x: Tensor,
    y: Tensor,
    recipe: Recipe,
    generator: np.random.Generator,
    extra: Callable[[list[tuple[Tensor, Tensor, Tensor]], Tensor], Tensor],
    augment: Augment | None,
) -> Callable[[Tensor], Tensor]:
    """Cross-entropy under noisy top-k routing, plus ``extra(routed, rows)``."""
    x, y = model.brought(x, y)
    noise = torch.Generator().manual_seed(int(generator.integers(2**31)))

    def loss(rows: Tensor) -> Tensor:
        inputs = augment(x[rows], generator) if augment else x[rows]
        routed = model.selector.noisy(inputs, noise)
        gates = model.gates([noisy for _, noisy, _ in routed])
        with recipe.arithmetic(inputs.device):  # not of the selector: rounding would decide between modules
            own = F.cross_entropy(precise(model.body(inputs, gates)), y[rows])
        return own + extra(routed, rows)

    return loss


def train_end_to_end(
    model: ModularModel,
    x: Tensor,
    y: Tensor,
    recipe: Recipe,
    epochs: int,
    generator: np.random.Generator,
    balance: float = 0.1,
    progress: Progress | None = None,
    augment: Augment | None = None,
) -> None:
    """Vanilla end-to-end training: CrossEntropy + lambda * LoadBalance, noisy top-k routing."""
    special = model.selector.specialists

    def extra(routed: list[tuple[Tensor, Tensor, Tensor]], rows: Tensor) -> Tensor:
        own = [(special(clean), special(noisy), special(std)) for clean, noisy, std in routed]
        return balance * load_balance(own, model.routing.top_k - (model.selector.core is not None))

    loss = _noisy_loss(model, x, y, recipe, generator, extra, augment)
    train(model, len(x), recipe, epochs, generator, loss, "end-to-end training", progress)


def mapping(logits: Sequence[Tensor], subtask: Tensor, subtasks: int) -> list[np.ndarray]:
    """H (T, N) per layer: the mean load that sub-task t puts on module n; each row sums to 1.

    Load is the soft kind, the score before top-k: it also tells of a module that just missed being chosen.
    """
    one_hot = F.one_hot(subtask, subtasks).float()
    count = one_hot.sum(0).clamp(min=1)[:, None]
    return [(one_hot.T @ layer.softmax(1) / count).double().numpy() for layer in logits]


def assign(load_TN: np.ndarray, kappa1: float, kappa2: int) -> np.ndarray:
    """Which modules serve which sub-task (ECLM 4.3, step 2): a binary mask M (T, N) that solves

        max sum(H * M)  s.t.  sum_t h_tn m_tn <= kappa1        for every module n,
                              1 <= sum_n m_tn <= kappa2        for every sub-task t.

    The formula is lost in the paper's text; this is what its two constraints say, plus 'at least one'.

    Raises:
        ValueError: no mask satisfies the constraints.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp  # slow to import, and no device needs it

    tasks, modules = load_TN.shape
    per_module = np.zeros((modules, tasks * modules))
    per_task = np.zeros((tasks, tasks * modules))
    for n in range(modules):
        per_module[n, n::modules] = load_TN[:, n]
    for t in range(tasks):
        per_task[t, t * modules : (t + 1) * modules] = 1
    with quiet_stdout():
        solution = milp(
            -load_TN.ravel(),
            constraints=[
                LinearConstraint(per_module, -np.inf, kappa1),
                LinearConstraint(per_task, 1, kappa2),
            ],
            integrality=np.ones(tasks * modules),
            bounds=Bounds(0, 1),
        )
    if solution.x is None:
        raise ValueError(
            f"no assignment of {tasks} sub-tasks to {modules} modules with a load of at most {kappa1:.3g} each"
        )
    return solution.x.round().astype(bool).reshape(tasks, modules)


def targets(loads: Sequence[np.ndarray], slack: float, kappa2: int) -> list[np.ndarray]:
    """P = H * M with rows normalised, per layer: the routing that ability enhancing steers to.

    Args:
        slack: kappa1 as a multiple of the load that each module would carry if the kappa2 largest entries of every
            sub-task were spread evenly; near 1 it makes sub-tasks use different modules, large it lets them share
            a few. Raised where no assignment exists.
        kappa2: most modules per sub-task.
    """
    out = []
    for load_TN in loads:
        even = np.sort(load_TN, axis=1)[:, -kappa2:].sum() / load_TN.shape[1]
        kappa1 = slack * even
        while True:
            try:
                mask = assign(load_TN, kappa1, kappa2)
                break
            except ValueError:
                kappa1 *= 1.5  # ends: a limit of T or more admits every mask
        kept = load_TN * mask
        out.append(kept / kept.sum(1, keepdims=True))
    return out


def aims(
    model: ModularModel, x: Tensor, subtask: Tensor, subtasks: int, slack: float, kappa2: int
) -> tuple[list[np.ndarray], list[np.ndarray], list[Tensor]]:
    """(H, P, P[sub-task of each sample] (n, N)) per layer: what was found, what to aim at, and that for each sample.

    A core has no part in them: it serves every sub-task.
    """
    found = mapping([model.selector.specialists(layer) for layer in model.logits(x)], subtask, subtasks)
    wanted = targets(found, slack, kappa2)
    return found, wanted, model.brought(*[torch.from_numpy(p).float()[subtask] for p in wanted])


def divergence(selector: Selector, clean: Sequence[Tensor], label: Sequence[Tensor], rows: Tensor) -> Tensor:
    """KL(P[sub-task], g), mean over the batch and the layers. P comes first, though the paper writes it second: g is
    never 0, P is where a module does not serve a sub-task."""
    own = [selector.specialists(layer).log_softmax(1) for layer in clean]
    each = [F.kl_div(g, p[rows], reduction="batchmean") for g, p in zip(own, label, strict=True)]
    return torch.stack(each).mean()


def steer(
    model: ModularModel,
    x: Tensor,
    subtask: Tensor,
    subtasks: int,
    recipe: Recipe,
    epochs: int,
    generator: np.random.Generator,
    slack: float,
    kappa2: int,
    augment: Augment | None,
) -> tuple[list[np.ndarray], list[np.ndarray], list[Tensor]]:
    """The selector alone first: that costs next to nothing, and the modules then specialise on what they will get.

    Args:
        epochs: of ability enhancing, which comes next; where there are none, the selector stays too.

    Returns:
        As `aims`, of the model as it came.
    """
    found, wanted, label = aims(model, x, subtask, subtasks, slack, kappa2)
    (x,) = model.brought(x)
    optimizer = recipe.build(list(model.selector.parameters()))
    for _ in range(WARM_UP if epochs else 0):
        for rows in batches(len(x), recipe.batch_size, generator, x.device):
            inputs = augment(x[rows], generator) if augment else x[rows]
            optimizer.zero_grad(set_to_none=True)
            divergence(model.selector, model.selector(inputs), label, rows).backward()
            torch.nn.utils.clip_grad_norm_(model.selector.parameters(), recipe.clip or float("inf"))
            optimizer.step()
    return found, wanted, label


def enhance(
    model: ModularModel,
    x: Tensor,
    y: Tensor,
    subtask: Tensor,
    subtasks: int,
    recipe: Recipe,
    epochs: int,
    generator: np.random.Generator,
    strength: float = 0.5,
    slack: float = 1.25,
    kappa2: int = 4,
    progress: Progress | None = None,
    augment: Augment | None = None,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Module ability-enhancing training: CrossEntropy + lambda * KL(P[sub-task of x], g).

    Args:
        epochs: of that, after `WARM_UP` of the selector alone; 0: neither.

    Returns:
        (H, P) per layer: the mapping found by end-to-end training, and the target that was trained.
    """
    found, wanted, label = steer(model, x, subtask, subtasks, recipe, epochs, generator, slack, kappa2, augment)

    def extra(routed: list[tuple[Tensor, Tensor, Tensor]], rows: Tensor) -> Tensor:
        return strength * divergence(model.selector, [clean for clean, _, _ in routed], label, rows)

    loss = _noisy_loss(model, x, y, recipe, generator, extra, augment)
    train(model, len(x), recipe, epochs, generator, loss, "ability enhancing", progress)
    return found, wanted
