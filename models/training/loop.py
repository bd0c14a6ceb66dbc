"""Local training and scoring on index batches of tensors in memory, without data loaders or global random state."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.nn.blocks import descending, freeze_statistics, torch_batch_norms
from models.nn.body import Body, device_of
from models.submodel import State
from models.training.descent import Descent

Augment = Callable[[Tensor, np.random.Generator], Tensor]
Extra = Callable[[Tensor, Tensor], Tensor]
CorrectGradients = Callable[[Mapping[str, nn.Parameter], int], None]
"""Changes gradients in place, given the parameters that have one, by name, and the epoch."""

Precision = Literal["float32", "bfloat16"]
LogitCorrection = Literal["none", "zero", "prior"]
"""How a client corrects logits for the class frequencies of its data: 'none'; 'zero': set the logits of absent classes
to 0 in training (HeteroFL's masked loss, arXiv:2010.01264); 'prior': add log class shares in training and in evaluation
(Saerens et al. 2002; Menon et al. 2021, arXiv:2007.07314)."""

MAX_LOSS = float(-np.log(np.finfo(np.float32).tiny))  # nats; bounds the loss of a class with probability 0


def to_float32(logits: Tensor) -> Tensor:
    """Convert logits of lower precision to float32: losses are never computed in bfloat16."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def correct_logits(logits: Tensor, class_shares: Tensor | None, correction: LogitCorrection) -> Tensor:
    """Convert logits (B, classes) to float32 and apply ``correction``.

    Args:
        logits: (B, classes).
        class_shares: (classes,) class frequencies on the client relative to the cloud's data; 0 for absent classes.
            With 'prior', p(y | x) on the client is proportional to ``class_shares[y]`` times the cloud's p(y | x).
            None: no correction.
        correction: which correction.
    """
    logits = to_float32(logits)
    if class_shares is None or correction == "none":
        return logits
    return logits.masked_fill(class_shares == 0, 0.0) if correction == "zero" else logits + class_shares.log()


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters of training, shared by all methods.

    Args:
        lr: learning rate.
        batch_size: samples per step; the last batch of an epoch may be smaller.
        optimizer: 'sgd' (with ``momentum``) or 'adam'.
        momentum: momentum of SGD.
        weight_decay: L2 penalty.
        clip: largest gradient norm, 0 for none.
        precision: of forward and backward passes: 'float32', or 'bfloat16' through torch's autocast (Micikevicius et
            al. 2018, arXiv:1710.03740). Parameters, their gradients and updates are float32 in both cases.
        frozen_statistics: batch norms normalise by their running statistics, also in training, and keep them.
    """

    lr: float = 0.01
    batch_size: int = 16
    optimizer: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 0.0
    clip: float = 0.0
    precision: Precision = "float32"
    frozen_statistics: bool = False

    def build(self, parameters: Iterator[Tensor] | Sequence[Tensor]) -> torch.optim.Optimizer:
        """Create the torch optimizer."""
        if self.optimizer == "sgd":
            return torch.optim.SGD(parameters, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        return torch.optim.Adam(parameters, lr=self.lr, weight_decay=self.weight_decay)

    @property
    def descent(self) -> Descent | None:
        """The update of plain SGD, which needs no gradient but a parameter's own; None for other optimizers."""
        plain = self.optimizer == "sgd" and not self.momentum and not self.clip and self.precision == "float32"
        return Descent(self.lr, self.weight_decay) if plain else None

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """Return a context in which networks on ``device`` compute with this precision."""
        return torch.autocast(device.type, torch.bfloat16) if self.precision == "bfloat16" else nullcontext()

    @property
    def slots(self) -> int:
        """Numbers that the optimizer stores per parameter."""
        return 2 if self.optimizer == "adam" else int(self.momentum > 0)


def flip_and_shift(x: Tensor, generator: np.random.Generator) -> Tensor:
    """Augment small images (B, C, H, W): mirror half of them, shift the batch by up to H / 8 pixels."""
    flip = torch.from_numpy(generator.random(len(x)) < 0.5).to(x.device)
    x = torch.where(flip[:, None, None, None], x.flip(3), x)
    max_shift = x.shape[2] // 8
    down, right = (int(n) for n in generator.integers(0, 2 * max_shift + 1, 2))
    return F.pad(x, (max_shift,) * 4)[:, :, down : down + x.shape[2], right : right + x.shape[3]]


def batches(n: int, size: int, generator: np.random.Generator, device: torch.device | None = None) -> Iterator[Tensor]:
    """Yield one epoch of index batches in random order, on the device of the samples."""
    order = torch.from_numpy(generator.permutation(n)).to(device)
    yield from order.split(size)


def optimizer_state(optimizer: torch.optim.Optimizer) -> State:
    """Copy an optimizer's state, keyed by parameter number and slot name; `load_optimizer_state` is the inverse."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{slot}": torch.as_tensor(v).clone() for i, slots in state.items() for slot, v in slots.items()}


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: State) -> None:
    """Load a copy made by `optimizer_state` into an optimizer of the same parameters."""
    slots: dict[int, State] = {}
    for name, value in state.items():
        number, _, slot = name.partition(".")
        slots.setdefault(int(number), {})[slot] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})


def with_gradients(named: Iterable[tuple[str, nn.Parameter]]) -> dict[str, nn.Parameter]:
    """Return the parameters that have a gradient, by name."""
    return {name: parameter for name, parameter in named if parameter.grad is not None}


def fit(
    body: Body,
    x: Tensor,
    y: Tensor,
    recipe: Recipe,
    epochs: int,
    generator: np.random.Generator,
    gates: Sequence[Tensor] | None = None,
    class_shares: Tensor | None = None,
    correction: LogitCorrection = "none",
    cosine: bool = False,
    on_epoch: Callable[[int, int], None] | None = None,
    augment: Augment | None = None,
    extra: Extra | None = None,
    correct_gradients: CorrectGradients | None = None,
    stops: Callable[[int, float], bool] | None = None,
) -> float:
    """Train ``body`` in place on the samples of one client or of the cloud.

    Args:
        body: the (sub-)model. Samples are moved to its device.
        x: (n, ...) inputs.
        y: (n,) classes.
        recipe: hyper-parameters.
        epochs: passes over the data.
        generator: decides the order of the samples.
        gates: (n, M_l) per module layer; constant, because clients do not train the selector.
        class_shares, correction: see `correct_logits`.
        cosine: let the learning rate fall to 0 along a cosine.
        on_epoch: called with (epoch, epochs) at the start of each epoch.
        augment: transforms each batch of inputs.
        extra: a term added to the loss of a batch, given its inputs and its logits.
        correct_gradients: called after each backward pass.
        stops: called after each epoch with the number of epochs so far and the mean training loss of the last one;
            returns whether training ends.

    Returns:
        Mean training loss of the last epoch, NaN if there is none.
    """
    body.train()
    device = device_of(body)
    x, y, class_shares = x.to(device), y.to(device), None if class_shares is None else class_shares.to(device)
    gates = None if gates is None else [g.to(device) for g in gates]
    optimizer = recipe.build(list(body.parameters()))
    steps = max(1, epochs * -(-len(x) // recipe.batch_size))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps) if cosine else None
    loss_sum = torch.full((), float("nan"), dtype=torch.float64, device=device)
    norms = torch_batch_norms(body)
    if recipe.frozen_statistics:
        freeze_statistics(body)
        norms = []
    # each linear map is used once per pass, its gradient stays, and the learning rate is constant
    single_use = extra is None and correct_gradients is None and not cosine
    with descending(body, recipe.descent if single_use else None):
        for epoch in range(epochs):
            if on_epoch:
                on_epoch(epoch, epochs)
            loss_sum.zero_()
            for rows in batches(len(x), recipe.batch_size, generator, device):
                for norm in norms:
                    norm.train(len(rows) > 1)
                inputs = augment(x[rows], generator) if augment else x[rows]
                with recipe.autocast(device):
                    logits = body(inputs, None if gates is None else [g[rows] for g in gates])
                    loss = F.cross_entropy(correct_logits(logits, class_shares, correction), y[rows])
                    if extra is not None:
                        loss = loss + extra(inputs, logits)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                if correct_gradients:
                    correct_gradients(with_gradients(body.named_parameters()), epoch)
                if recipe.clip:
                    torch.nn.utils.clip_grad_norm_(body.parameters(), recipe.clip)
                optimizer.step()
                if schedule:
                    schedule.step()
                # stays on the device: reading it would synchronise with a GPU
                loss_sum.add_(loss.detach(), alpha=len(rows))
            if stops and stops(epoch + 1, float(loss_sum) / len(x)):
                break
    optimizer.zero_grad(set_to_none=True)  # free the gradients' memory
    return float(loss_sum) / len(x)


@dataclass(frozen=True)
class Score:
    """Evaluation counts per class, and the summed cross-entropy.

    Args:
        samples: (classes,) number of samples.
        hits: (classes,) number of correct predictions.
        loss_sum: sum of the cross-entropies, nats.
    """

    samples: np.ndarray
    hits: np.ndarray
    loss_sum: float

    @property
    def accuracy(self) -> float:
        return float(self.hits.sum() / max(1, self.samples.sum()))

    @property
    def balanced_accuracy(self) -> float:
        """Mean recall over the classes that occur."""
        present = self.samples > 0
        return float((self.hits[present] / self.samples[present]).mean()) if present.any() else float("nan")


def hits_and_losses(logits_BC: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor]:
    """Return whether each prediction is correct, and its cross-entropy, at most `MAX_LOSS`.

    A NaN logit counts as a wrong prediction.

    Args:
        logits_BC: (B, classes).
        y_B: (B,) classes.
    """
    losses = F.cross_entropy(logits_BC, y_B, reduction="none").clamp(max=MAX_LOSS).nan_to_num(MAX_LOSS)
    return (logits_BC.argmax(1) == y_B) & ~logits_BC.isnan().any(1), losses


@torch.no_grad()
def score(
    body: Body,
    x: Tensor,
    y: Tensor,
    classes: int,
    gates: Sequence[Tensor] | None = None,
    class_shares: Tensor | None = None,
    batch_size: int = 500,
) -> Score:
    """Score ``body`` on samples, always in float32.

    Args:
        body: the (sub-)model. Samples are moved to its device.
        x: (n, ...) inputs.
        y: (n,) classes.
        classes: number of classes.
        gates: (n, M_l) per module layer.
        class_shares: (classes,) for 'prior', see `correct_logits`. Samples of a class with share 0 count as errors.
        batch_size: samples per forward pass.
    """
    body.eval()
    device = device_of(body)
    class_shares = None if class_shares is None else class_shares.to(device)
    hits, loss = [], 0.0
    for start in range(0, len(x), batch_size):
        rows = slice(start, start + batch_size)
        logits = body(x[rows].to(device), None if gates is None else [g[rows].to(device) for g in gates])
        hit, losses = hits_and_losses(correct_logits(logits, class_shares, "prior"), y[rows].to(device))
        hits.append(hit.cpu())
        loss += float(losses.sum())
    hit = torch.cat(hits) if hits else torch.zeros(0, dtype=torch.bool)
    return Score(
        np.bincount(y.numpy(), minlength=classes),
        np.bincount(y[hit].numpy(), minlength=classes),
        loss,
    )
