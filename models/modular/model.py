"""ECLM's cloud model: a modular body, its selector, and their training in the cloud (ECLM 4.3)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.modular.derive import silent_printf
from models.modular.selector import Routing, Selector, load_balance
from models.nn.blocks import torch_batch_norms
from models.nn.body import Body, device_of
from models.training.loop import Augment, Recipe, Score, batches, score, to_float32

Progress = Callable[[str, int, int], None]
"""``progress(stage, epoch, epochs)``."""
WARM_UP = 5  # epochs that train only the selector, before ability enhancing


@dataclass
class ModularModel:
    """A modular body, its selector on the same hardware device, and the rule that turns logits into gates."""

    body: Body
    selector: Selector
    routing: Routing

    def to_device(self, *tensors: Tensor) -> list[Tensor]:
        """Move tensors to the device of body and selector."""
        return [tensor.to(device_of(self.body)) for tensor in tensors]

    def logits(self, x: Tensor) -> list[Tensor]:
        """Compute the selector's logits without noise, (n, N) per layer."""
        return self.selector.logits(x)

    def gates(self, logits: Sequence[Tensor]) -> list[Tensor]:
        """Compute gates (n, N) per layer."""
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

    Args:
        model: body and selector.
        samples: number of training samples.
        recipe: hyper-parameters.
        epochs: passes over the data.
        generator: decides the order of the samples.
        batch_loss: loss of a batch, given its rows, which are on the model's device.
        stage: name of the training, for ``progress``.
        progress: called at the start of each epoch.
    """
    optimizer = recipe.build([*model.body.parameters(), *model.selector.parameters()])
    steps = max(1, epochs * -(-samples // recipe.batch_size))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.body.train()
    model.selector.train()
    norms = torch_batch_norms(model.body)
    for epoch in range(epochs):
        if progress:
            progress(stage, epoch, epochs)
        for rows in batches(samples, recipe.batch_size, generator, device_of(model.body)):
            for norm in norms:
                norm.train(len(rows) > 1)
            loss = batch_loss(rows)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if recipe.clip:  # clip separately, because the body's gradients are much larger than the selector's
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
    """Return the loss of a batch: cross-entropy under noisy top-k routing, plus ``extra(routed, rows)``."""
    x, y = model.to_device(x, y)
    noise = torch.Generator().manual_seed(int(generator.integers(2**31)))

    def loss(rows: Tensor) -> Tensor:
        inputs = augment(x[rows], generator) if augment else x[rows]
        routed = model.selector.noisy(inputs, noise)
        gates = model.gates([noisy for _, noisy, _ in routed])
        with recipe.autocast(inputs.device):  # exclude the selector: rounding would change its choice of modules
            cross_entropy = F.cross_entropy(to_float32(model.body(inputs, gates)), y[rows])
        return cross_entropy + extra(routed, rows)

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
    """Train end to end: CrossEntropy + lambda * LoadBalance with noisy top-k routing (ECLM 4.3).

    Args:
        balance: lambda.
        model, x, y, recipe, epochs, generator, progress, augment: as in `enhance`.
    """
    specialists = model.selector.specialists

    def extra(routed: list[tuple[Tensor, Tensor, Tensor]], rows: Tensor) -> Tensor:
        specialist_routes = [(specialists(clean), specialists(noisy), specialists(std)) for clean, noisy, std in routed]
        return balance * load_balance(specialist_routes, model.routing.top_k - (model.selector.core is not None))

    loss = _noisy_loss(model, x, y, recipe, generator, extra, augment)
    train(model, len(x), recipe, epochs, generator, loss, "end-to-end training", progress)


def mapping(logits: Sequence[Tensor], subtask: Tensor, subtasks: int) -> list[np.ndarray]:
    """Compute H (T, N) per layer: the mean load that sub-task t puts on module n. Each row sums to 1.

    The load is the selector's softmax before top-k, which also counts modules that narrowly missed the top k.
    """
    one_hot = F.one_hot(subtask, subtasks).float()
    count = one_hot.sum(0).clamp(min=1)[:, None]
    return [(one_hot.T @ layer.softmax(1) / count).double().numpy() for layer in logits]


def assign(load_TN: np.ndarray, kappa1: float, kappa2: int) -> np.ndarray:
    """Assign modules to sub-tasks (ECLM 4.3, step 2): a binary mask M (T, N) that solves a linear program.

        max sum(H * M)  s.t.  sum_t h_tn m_tn <= kappa1        for every module n,
                              1 <= sum_n m_tn <= kappa2        for every sub-task t.

    The paper's text lacks the formula. This program states its two constraints, plus at least one module per sub-task.

    Args:
        load_TN: H, from `mapping`.
        kappa1: largest load of a module.
        kappa2: largest number of modules per sub-task.

    Raises:
        ValueError: no mask satisfies the constraints.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp  # slow import; clients do not need it

    tasks, modules = load_TN.shape
    per_module = np.zeros((modules, tasks * modules))
    per_task = np.zeros((tasks, tasks * modules))
    for n in range(modules):
        per_module[n, n::modules] = load_TN[:, n]
    for t in range(tasks):
        per_task[t, t * modules : (t + 1) * modules] = 1
    with silent_printf():
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
    """Compute P = H * M with normalised rows, per layer: the routing that ability enhancing aims at.

    Args:
        loads: H, (T, N) per layer, from `mapping`.
        slack: kappa1 relative to the module load if the kappa2 largest entries of every sub-task were spread evenly.
            Near 1, sub-tasks use different modules; large values let them share a few. It grows until an assignment
            exists.
        kappa2: largest number of modules per sub-task.
    """
    targets_ = []
    for load_TN in loads:
        even_load = np.sort(load_TN, axis=1)[:, -kappa2:].sum() / load_TN.shape[1]
        kappa1 = slack * even_load
        while True:
            try:
                mask = assign(load_TN, kappa1, kappa2)
                break
            except ValueError:
                kappa1 *= 1.5  # terminates: a limit of T or more admits every mask
        masked_load = load_TN * mask
        total = masked_load.sum(1, keepdims=True)  # 0 for a sub-task without samples
        targets_.append(np.divide(masked_load, total, out=np.zeros_like(masked_load), where=total > 0))
    return targets_


def routing_targets(
    model: ModularModel, x: Tensor, subtask: Tensor, subtasks: int, slack: float, kappa2: int
) -> tuple[list[np.ndarray], list[np.ndarray], list[Tensor]]:
    """Compute the current routing, the target routing and each sample's target.

    A core module is excluded: it serves every sub-task.

    Returns:
        H (T, N), P (T, N) and P[sub-task of each sample] (n, N), per layer.
    """
    current = mapping([model.selector.specialists(layer) for layer in model.logits(x)], subtask, subtasks)
    target = targets(current, slack, kappa2)
    return current, target, model.to_device(*[torch.from_numpy(p).float()[subtask] for p in target])


def divergence(selector: Selector, clean: Sequence[Tensor], sample_targets: Sequence[Tensor], rows: Tensor) -> Tensor:
    """Compute KL(P[sub-task], g), averaged over the batch and the layers.

    The paper writes the arguments in the other order. Here P comes first, because g is never 0, and P is 0 for modules
    that do not serve a sub-task.
    """
    log_probs = [selector.specialists(layer).log_softmax(1) for layer in clean]
    per_layer = [F.kl_div(g, p[rows], reduction="batchmean") for g, p in zip(log_probs, sample_targets, strict=True)]
    return torch.stack(per_layer).mean()


def fit_selector(
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
    """Train only the selector towards the target routing, before ability enhancing.

    This is cheap, and the modules then specialise on the samples that they will get.

    Args:
        epochs: epochs of ability enhancing, which follows; with 0 the selector is not trained either.

    Returns:
        The result of `routing_targets` before this training.
    """
    h, p, labels = routing_targets(model, x, subtask, subtasks, slack, kappa2)
    (x,) = model.to_device(x)
    optimizer = recipe.build(list(model.selector.parameters()))
    for _ in range(WARM_UP if epochs else 0):
        for rows in batches(len(x), recipe.batch_size, generator, x.device):
            inputs = augment(x[rows], generator) if augment else x[rows]
            optimizer.zero_grad(set_to_none=True)
            divergence(model.selector, model.selector(inputs), labels, rows).backward()
            torch.nn.utils.clip_grad_norm_(model.selector.parameters(), recipe.clip or float("inf"))
            optimizer.step()
    return h, p, labels


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
    """Train module abilities: CrossEntropy + lambda * KL(P[sub-task of x], g) (ECLM 4.3).

    Args:
        model: body and selector, trained in place.
        x: (n, ...) inputs.
        y: (n,) classes.
        subtask: (n,) sub-task of each sample.
        subtasks: number of sub-tasks, T.
        recipe: hyper-parameters.
        epochs: epochs after `WARM_UP` epochs of the selector alone; 0: train neither.
        generator: decides the order of the samples.
        strength: lambda.
        slack, kappa2: see `targets`.
        progress: called at the start of each epoch.
        augment: transforms each batch of inputs.

    Returns:
        (H, P) per layer: the routing after end-to-end training, and the target routing.
    """
    h, p, labels = fit_selector(model, x, subtask, subtasks, recipe, epochs, generator, slack, kappa2, augment)

    def extra(routed: list[tuple[Tensor, Tensor, Tensor]], rows: Tensor) -> Tensor:
        return strength * divergence(model.selector, [clean for clean, _, _ in routed], labels, rows)

    loss = _noisy_loss(model, x, y, recipe, generator, extra, augment)
    train(model, len(x), recipe, epochs, generator, loss, "ability enhancing", progress)
    return h, p
