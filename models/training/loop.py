"""Local training and scoring: index batches over tensors that are already there; no loader, no global random state."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.nn.blocks import descending
from models.nn.body import Body, home
from models.submodel import State
from models.training.descent import Descent

Augment = Callable[[Tensor, np.random.Generator], Tensor]
Extra = Callable[[Tensor, Tensor], Tensor]
Precision = Literal["float32", "bfloat16"]
LogitCorrection = Literal["none", "zero", "prior"]
"""What a device does with the logits, knowing how often each class occurs in its data: nothing; zero those of classes
that it lacks, in training (HeteroFL's masked loss, arXiv:2010.01264); or correct for its class shares, in training and
in use (Saerens et al. 2002; Menon et al. 2021, arXiv:2007.07314)."""

WORST_LOSS = float(-np.log(np.finfo(np.float32).tiny))  # nats, of a class that was given no chance at all


def precise(logits: Tensor) -> Tensor:
    """Logits in float32 where they are in less: a loss is not computed in bfloat16."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def mask(logits: Tensor, shares: Tensor | None, masking: LogitCorrection) -> Tensor:
    """Logits (B, classes) as ``masking`` has them, `precise` ones.

    Args:
        shares: (classes,) how often the device sees a class, relative to how often the cloud did; 0 where it lacks it.
            With 'prior', p(y | x) on the device is proportional to ``shares[y]`` times that in the cloud.
    """
    logits = precise(logits)
    if shares is None or masking == "none":
        return logits
    return logits.masked_fill(shares == 0, 0.0) if masking == "zero" else logits + shares.log()


@dataclass(frozen=True)
class Recipe:
    """How a model is trained, the same for every method.

    Args:
        lr: learning rate.
        batch_size: samples per step; the last batch of an epoch may be smaller.
        optimizer: 'sgd' (with ``momentum``) or 'adam'.
        momentum: of SGD.
        weight_decay: L2 penalty.
        clip: largest gradient norm, 0 for none.
        precision: of training's passes: 'float32', or 'bfloat16' where torch's autocast takes it (Micikevicius et al.
            2018, arXiv:1710.03740); parameters, gradients of them and steps are float32 in both.
    """

    lr: float = 0.01
    batch_size: int = 16
    optimizer: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 0.0
    clip: float = 0.0
    precision: Precision = "float32"

    def build(self, parameters: Iterator[Tensor] | Sequence[Tensor]) -> torch.optim.Optimizer:
        """The torch optimizer."""
        if self.optimizer == "sgd":
            return torch.optim.SGD(parameters, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        return torch.optim.Adam(parameters, lr=self.lr, weight_decay=self.weight_decay)

    @property
    def descent(self) -> Descent | None:
        """The step of plain SGD, which needs no gradient but a parameter's own; None for any other."""
        plain = self.optimizer == "sgd" and not self.momentum and not self.clip and self.precision == "float32"
        return Descent(self.lr, self.weight_decay) if plain else None

    def arithmetic(self, place: torch.device) -> AbstractContextManager[object]:
        """Within it, passes of networks that compute at ``place`` have the precision."""
        return torch.autocast(place.type, torch.bfloat16) if self.precision == "bfloat16" else nullcontext()

    @property
    def slots(self) -> int:
        """Numbers that the optimizer keeps per parameter."""
        return 2 if self.optimizer == "adam" else int(self.momentum > 0)


def flip_and_shift(x: Tensor, generator: np.random.Generator) -> Tensor:
    """Usual augmentation of small images (B, C, H, W): mirror half of them, shift a batch by up to H / 8 pixels."""
    mirrored = torch.from_numpy(generator.random(len(x)) < 0.5).to(x.device)
    x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
    reach = x.shape[2] // 8
    down, right = (int(n) for n in generator.integers(0, 2 * reach + 1, 2))
    return F.pad(x, (reach,) * 4)[:, :, down : down + x.shape[2], right : right + x.shape[3]]


def batches(n: int, size: int, generator: np.random.Generator, place: torch.device | None = None) -> Iterator[Tensor]:
    """One epoch of index batches in random order, for samples that lie at ``place``."""
    order = torch.from_numpy(generator.permutation(n)).to(place)
    yield from order.split(size)


def slots(optimizer: torch.optim.Optimizer) -> State:
    """What an optimizer remembers, by the parameter's number and the name of the slot; `load_slots` is the way back."""
    kept = optimizer.state_dict()["state"]
    return {f"{i}.{slot}": torch.as_tensor(value).clone() for i, of in kept.items() for slot, value in of.items()}


def load_slots(optimizer: torch.optim.Optimizer, kept: State) -> None:
    """Give an optimizer of the same parameters what `slots` took from another."""
    of: dict[int, State] = {}
    for name, value in kept.items():
        at, _, slot = name.partition(".")
        of.setdefault(int(at), {})[slot] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": of})


def fit(
    body: Body,
    x: Tensor,
    y: Tensor,
    recipe: Recipe,
    epochs: int,
    generator: np.random.Generator,
    gates: Sequence[Tensor] | None = None,
    shares: Tensor | None = None,
    masking: LogitCorrection = "none",
    cosine: bool = False,
    on_epoch: Callable[[int, int], None] | None = None,
    augment: Augment | None = None,
    extra: Extra | None = None,
) -> float:
    """Train ``body`` in place, on the samples of one device or of the cloud, which are brought to where it computes.

    Args:
        body: the (sub-)model.
        x: (n, ...) inputs; y: (n,) classes.
        epochs: passes over the data.
        generator: decides the order of the samples.
        gates: (n, M_l) per module layer; constant, because the selector is not trained on devices.
        shares, masking: as in `mask`.
        cosine: let the learning rate fall to 0 over the epochs along a cosine.
        on_epoch: called with (epoch, epochs) as each one starts.
        augment: changes each batch of inputs before it is used.
        extra: a term to add to a batch's loss, given its inputs and its logits.

    Returns:
        Mean training loss of the last epoch, NaN without any.
    """
    body.train()
    place = home(body)
    x, y, shares = x.to(place), y.to(place), None if shares is None else shares.to(place)
    gates = None if gates is None else [g.to(place) for g in gates]
    optimizer = recipe.build(list(body.parameters()))
    steps = max(1, epochs * -(-len(x) // recipe.batch_size))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps) if cosine else None
    loss_sum = torch.full((), float("nan"), dtype=torch.float64, device=place)
    once = extra is None and not cosine  # a map is used once in a pass, and the learning rate stays
    with descending(body, recipe.descent if once else None):
        for epoch in range(epochs):
            if on_epoch:
                on_epoch(epoch, epochs)
            loss_sum.zero_()
            for rows in batches(len(x), recipe.batch_size, generator, place):
                inputs = augment(x[rows], generator) if augment else x[rows]
                with recipe.arithmetic(place):
                    logits = body(inputs, None if gates is None else [g[rows] for g in gates])
                    loss = F.cross_entropy(mask(logits, shares, masking), y[rows])
                    if extra is not None:
                        loss = loss + extra(inputs, logits)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                if recipe.clip:
                    torch.nn.utils.clip_grad_norm_(body.parameters(), recipe.clip)
                optimizer.step()
                if schedule:
                    schedule.step()
                loss_sum.add_(loss.detach(), alpha=len(rows))  # read later: a GPU would be waited for
    optimizer.zero_grad(set_to_none=True)  # whoever keeps the network need not keep its gradients
    return float(loss_sum) / len(x)


@dataclass(frozen=True)
class Score:
    """What a model got right: per class the number of samples and of hits, and the summed cross-entropy."""

    samples: np.ndarray  # (classes,)
    hits: np.ndarray  # (classes,)
    loss_sum: float

    @property
    def accuracy(self) -> float:
        return float(self.hits.sum() / max(1, self.samples.sum()))

    @property
    def balanced_accuracy(self) -> float:
        """Mean recall over the classes that occur."""
        seen = self.samples > 0
        return float((self.hits[seen] / self.samples[seen]).mean()) if seen.any() else float("nan")


def graded(logits_BC: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor]:
    """Whether each sample is right, and its cross-entropy, at most `WORST_LOSS`. A diverged model is wrong."""
    nats = F.cross_entropy(logits_BC, y_B, reduction="none").clamp(max=WORST_LOSS).nan_to_num(WORST_LOSS)
    return (logits_BC.argmax(1) == y_B) & ~logits_BC.isnan().any(1), nats


@torch.no_grad()
def score(
    body: Body,
    x: Tensor,
    y: Tensor,
    classes: int,
    gates: Sequence[Tensor] | None = None,
    shares: Tensor | None = None,
    batch_size: int = 500,
) -> Score:
    """Score ``body`` on samples (n, ...) of classes (n,), which are brought to where it computes. Always in float32.

    Args:
        shares: (classes,) as in `mask`, for 'prior'; a sample of a class without any is missed.
    """
    body.eval()
    place = home(body)
    shares = None if shares is None else shares.to(place)
    hits, loss = [], 0.0
    for at in range(0, len(x), batch_size):
        rows = slice(at, at + batch_size)
        logits = body(x[rows].to(place), None if gates is None else [g[rows].to(place) for g in gates])
        right, nats = graded(mask(logits, shares, "prior"), y[rows].to(place))
        hits.append(right.cpu())
        loss += float(nats.sum())
    right = torch.cat(hits) if hits else torch.zeros(0, dtype=torch.bool)
    return Score(
        np.bincount(y.numpy(), minlength=classes),
        np.bincount(y[right].numpy(), minlength=classes),
        loss,
    )
