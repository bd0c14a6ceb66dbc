"""Training of a split model in one place, for experiments without a network: every step passes the boundary's codec.

A quantised boundary starts in float: for the first ``float_share`` of the steps activations cross, then k-means over
one whole pass of the texts gives the first codebook, and codes cross from there on. A *round* of the codebook is
``round_steps`` steps; at its end the server moves the codebook as a federated one does.
"""

from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.vq.ends import CloudEnd, DeviceEnd, Recipe
from models.vq.network.halves import CloudHalf, DeviceHalf, principal, projected, weigh
from models.vq.network.heads import Head
from models.vq.network.pooling import flatten, pooled_lengths, unflatten
from models.vq.network.tokens import Tokens, batches
from models.vq.quantiser.boundary import Boundary, Ledger, lines
from models.vq.quantiser.codebook import ESTIMATORS, Codebook, Statistics, perplexity
from models.vq.quantiser.codebook_ema import CodebookEMA, Moments
from partitions.rng import Purpose, rng

Tick = Callable[[int, int], None]
"""``tick(step, steps)``: how far a training is."""


@dataclass(frozen=True)
class Quantiser:
    """How a boundary is quantised.

    Args:
        size: K; groups: m; residual: see `Codebook`.
        beta: weight of the commitment; estimator: of the gradient, by name.
        float_share: share of the steps before the quantiser is there.
        round_steps: steps between two updates of the codebook; decay: what they keep of the statistics before.
        weigh: then also weigh code space by the gradients of the answers (`models.vq.network.halves.weigh`), and hold its
            projection fixed from there on.
        learn: 'mean' moves the codebook to the running mean of what it stands for, 'gradient' along the gradient of its
            error, with 1 - decay for a rate; 'frozen' leaves it as k-means gave it.
        revive: replace vectors that fell out of use; only 'mean' knows them.
    """

    size: int = 256
    groups: int = 8
    residual: bool = False
    beta: float = 0.25
    estimator: str = "straight-through"
    float_share: float = 0.2
    round_steps: int = 10
    decay: float = 0.9
    weigh: bool = False
    learn: Literal["mean", "gradient", "frozen"] = "mean"
    revive: bool = True


@dataclass(frozen=True)
class Plan:
    """One training.

    Args:
        epochs, batch: passes over the texts, texts of a step.
        lr, fresh: peak learning rates, see `Recipe`.
        up: coding of activations; down: of gradients in code space.
        quantiser: None: activations cross.
        align: start code space as the principal subspace of the states, otherwise as a random one.
    """

    epochs: int = 4
    batch: int = 32
    lr: float = 1e-4
    fresh: float = 1e-3
    up: str = "float32"
    down: str = "float32"
    quantiser: Quantiser | None = None
    align: bool = True

    def steps(self, texts: int) -> int:
        """Of a training on so many texts."""
        return self.epochs * -(-texts // self.batch)


class Stems:
    """What the frozen parts of a device half say of some texts; computed once where layers are frozen.

    Args:
        device: the half.
        tokens: n texts.
    """

    def __init__(self, device: DeviceHalf, tokens: Tokens):
        self.tokens, self._device = tokens, device
        self._rows: list[Tensor] = []
        self.kept = device.shape.frozen > 1
        if self.kept:
            rows: dict[int, Tensor] = {}
            for at in tokens.lengths.argsort(stable=True).split(64):
                x, lengths = device.eval().stem(tokens[at])
                rows |= zip(at.tolist(), flatten(x, lengths).split(lengths.tolist()), strict=True)
            self._rows = [rows[i] for i in range(len(tokens))]

    def __getitem__(self, rows: Tensor) -> tuple[Tensor, Tensor] | None:
        """(B, T, d) and lengths (B,); None: the half computes them itself."""
        if not self.kept:
            return None
        own = [self._rows[i] for i in rows.tolist()]
        lengths = torch.tensor([len(x) for x in own])
        return unflatten(torch.cat(own), lengths), lengths


@dataclass(frozen=True)
class Step:
    """A training step through the boundary that can be taken.

    Args:
        one, two: the ends.
        tokens, labels: of its texts; stem: what the frozen parts say of them, if that is known.
        epoch: which it is of.
        drops: seeds of dropout, on the device and in the cloud.
    """

    one: DeviceEnd
    two: CloudEnd
    tokens: Tokens
    labels: Tensor
    stem: tuple[Tensor, Tensor] | None
    epoch: int
    drops: tuple[int, int]

    def take(self, weight: float = 1.0) -> float:
        """The loss. Both halves and the head step along ``weight`` times its gradient; only the device need know it."""
        one, two = self.one, self.two
        logits = two.answer(one.send(self.tokens, "train", self.drops[0], self.stem), "train", self.drops[1])
        loss, gradient = one.answer(logits, lambda said: weight * two.head.loss(said, self.labels, self.tokens.lengths))
        one.learn(two.learn(gradient))
        return loss / weight


@dataclass
class Split:
    """A split model, its boundary and what it learned; `fit` trains it, `predict` uses it.

    Args:
        device, cloud, head: its parts.
        plan: how it is trained.
        keeper: of the codebook, once there is one.
        ledger: bytes of all that crossed.
        usage: (m, K) how often the last prediction used each vector.
        arrived: (N, width) what the cloud got in the last prediction, of all positions of all texts in their order.
    """

    device: DeviceHalf
    cloud: CloudHalf
    head: Head
    plan: Plan
    keeper: CodebookEMA | None = None
    ledger: Ledger = field(default_factory=Ledger)
    usage: Tensor | None = None
    arrived: Tensor | None = None

    def __post_init__(self) -> None:
        of, shape = self.plan.quantiser, self.device.shape
        if of and of.weigh and not shape.width:
            raise ValueError("weigh = True needs a projection into code space; give the shape a width")
        codes = (of.size, of.groups) if of else None
        edge = lines(shape.wire, self.head.width, self.head.per, codes, self.plan.up, self.plan.down)
        self.boundary = Boundary(edge, shape.pool, self.ledger)

    @property
    def codebook(self) -> Codebook | None:
        return self.keeper.codebook if self.keeper else None

    def fit(self, tokens: Tokens, labels: Tensor, seed: int, tick: Tick = lambda step, steps: None) -> list[float]:
        """Train on texts and labels (n, ...); the mean loss of each epoch."""
        steps = self.plan.steps(len(tokens))
        one, two = self.ends(Recipe(self.plan.lr, self.plan.fresh, steps))
        losses = [0.0] * self.plan.epochs
        for at, step in enumerate(self.course(tokens, labels, seed, one, two), 1):
            losses[step.epoch] += step.take() * len(step.tokens)
            tick(at, steps)
        return [loss / len(tokens) for loss in losses]

    def course(self, tokens: Tokens, labels: Tensor, seed: int, one: DeviceEnd, two: CloudEnd) -> Iterator[Step]:
        """The steps of a training, each to be taken before the next is asked for; between them the codebook moves."""
        plan, quantiser = self.plan, self.plan.quantiser
        stems, steps = Stems(self.device, tokens), plan.steps(len(tokens))
        if plan.align and self.device.shape.width:
            self._align(stems, seed)
        starts = round(quantiser.float_share * steps) if quantiser else steps
        step = 0
        for epoch in range(plan.epochs):
            for rows in batches(tokens.lengths, plan.batch, rng(seed, Purpose.TRAIN, epoch)):
                if step == starts:
                    self._start(stems, seed)
                    self._use(one, two)
                where = (seed, Purpose.TRAIN, epoch, step)
                device, cloud = (int(rng(*where, half).integers(2**63)) for half in range(2))
                yield Step(one, two, tokens[rows], labels[rows], stems[rows], epoch, (device, cloud))
                step += 1
                if quantiser and step > starts and (step - starts) % quantiser.round_steps == 0:
                    self._update(one, seed, step)
                    self._use(one, two)

    def ends(self, recipe: Recipe) -> tuple[DeviceEnd, CloudEnd]:
        """The two ends of this model, with optimisers that begin."""
        of = self.plan.quantiser or Quantiser()
        one = DeviceEnd(self.device, self.boundary, recipe, None, of.beta, ESTIMATORS[of.estimator])
        return one, CloudEnd(self.cloud, self.head, self.boundary, recipe)

    @torch.no_grad()
    def predict(self, tokens: Tokens, batch: int = 64, stems: Stems | None = None) -> Tensor:
        """Logits (rows, width) of texts that go through the boundary, in inference; their bytes are in the ledger.

        Args:
            stems: of the texts, if they are known already.
        """
        one, two = self.ends(Recipe())
        self._use(one, two)
        found: dict[int, Tensor] = {}
        arrived: dict[int, Tensor] = {}
        self.usage = None
        for rows in tokens.lengths.argsort(stable=True).split(batch):
            message = one.send(tokens[rows], "infer", stem=stems[rows] if stems else None)
            logits = one.read(two.answer(message, "infer"))
            sizes = tokens.lengths[rows].tolist() if self.head.per == "token" else [1] * len(rows)
            found |= zip(rows.tolist(), logits.split(sizes), strict=True)
            positions = pooled_lengths(tokens.lengths[rows], self.device.shape.pool).tolist()
            arrived |= zip(rows.tolist(), two.read(message).split(positions), strict=True)
            if one.codebook:
                usage = one.codebook.usage(one.codes)
                self.usage = usage if self.usage is None else self.usage + usage
        self.arrived = torch.cat([arrived[i] for i in range(len(tokens))])
        return torch.cat([found[i] for i in range(len(tokens))])

    def quantised(self, tokens: Tokens, quantisers: Iterable[Quantiser], seed: int) -> Iterator["Split"]:
        """This trained model with codes across the cut, by each of the quantisers, and without further training.

        With ``weigh`` error is how far it moves the trained model's answers, otherwise plain squared error; both times
        what crosses is turned to its principal coordinates, dealt out to the groups. Schedules mean nothing here.
        """
        stems = Stems(self.device, tokens)
        h, slopes = self._states(stems), self._slopes(stems, seed)
        for of in quantisers:
            other = Split(*projected(self.device, self.cloud), self.head, replace(self.plan, quantiser=of))
            other._settle(h, slopes if of.weigh else torch.eye(self.device.shape.wire), len(tokens), seed)
            yield other

    def taught(self, tokens: Tokens, answers: Tensor, epochs: int, seed: int) -> "Split":
        """This model with a cloud's half and a head that learnt to answer codes as activations were answered.

        Distillation by squared error: no labels are needed, the device's half stays as it is, and nothing crosses but
        the codes of the texts, once.

        Args:
            tokens: n texts; answers: (rows, width) `predict` of them before there were codes.
        """
        pupil = Split(self.device, deepcopy(self.cloud), deepcopy(self.head), self.plan, self.keeper)
        pupil.predict(tokens)
        assert pupil.arrived is not None
        codes = pupil.arrived.split(pooled_lengths(tokens.lengths, self.device.shape.pool).tolist())
        wanted = answers.split(tokens.lengths.tolist() if self.head.per == "token" else 1)
        plan = replace(self.plan, epochs=epochs)
        parts = nn.ModuleList([pupil.cloud, pupil.head]).eval()  # dropout would be in the answers, too
        deep = [p for p in parts.parameters() if p.requires_grad]
        optimizer, schedule = Recipe(plan.lr, steps=plan.steps(len(tokens)), warmup=0.0).build(deep, [])
        for epoch in range(epochs):
            for rows in batches(tokens.lengths, plan.batch, rng(seed, Purpose.STUDY, epoch)):
                lengths, of = tokens.lengths[rows], rows.tolist()
                said = pupil.head(*pupil.cloud(torch.cat([codes[i] for i in of]), lengths), lengths)
                optimizer.zero_grad(set_to_none=True)
                F.mse_loss(said, torch.cat([wanted[i] for i in of])).backward()
                optimizer.step()
                schedule.step()
        return Split(pupil.device, pupil.cloud, pupil.head, pupil.plan, pupil.keeper)

    def perplexity(self) -> float:
        """Mean over codebooks of how many vectors the last prediction used; 0 without a codebook."""
        return 0.0 if self.usage is None else float(perplexity(self.usage).mean())

    def entropy(self) -> float:
        """Bits of all codes of the last prediction if they took their entropy, not whole bits; 0 without codes."""
        return 0.0 if self.usage is None else float(self.usage[0].sum() * perplexity(self.usage).log2().sum())

    def _use(self, one: DeviceEnd, two: CloudEnd) -> None:
        one.use(self.codebook)
        two.codebook = self.codebook

    def _pass(self, stems: Stems) -> Iterator[tuple[Tensor, Tensor]]:
        """Frozen states and lengths of all texts, in evaluation."""
        self.device.eval()
        for rows in stems.tokens.lengths.argsort(stable=True).split(64):
            yield stems[rows] or self.device.stem(stems.tokens[rows])

    @torch.no_grad()
    def _align(self, stems: Stems, seed: int) -> None:
        d = self.device.shape.hidden
        count, sums, products = 0.0, torch.zeros(d).double(), torch.zeros(d, d).double()
        for stem in self._pass(stems):
            h = self.device.hidden(*stem).double()
            count, sums, products = count + len(h), sums + h.sum(0), products + h.T @ h
        principal(self.device, self.cloud, count, sums, products, seed)

    def _slopes(self, stems: Stems, seed: int) -> Tensor:
        """(width, width): the sum over all positions of g g^T, where g is how the answer to a text moves with them.

        Its answer is the logit of a random class less the mean of all, so that the sum is in the mean that over all
        classes. The loss's gradients would be those of the few texts that a trained model still has wrong.
        """
        found = torch.zeros(self.device.shape.wire, self.device.shape.wire, dtype=torch.float64)
        for part in (self.device, self.cloud, self.head):
            part.eval()
        for at, rows in enumerate(stems.tokens.lengths.argsort(stable=True).split(64)):
            tokens = stems.tokens[rows]
            with torch.no_grad():
                z = self.device.encode(*(stems[rows] or self.device.stem(tokens)))
            z.requires_grad_()
            logits = self.head(*self.cloud(z, tokens.lengths), tokens.lengths)
            answers = self.head.drawn(logits, tokens.lengths, rng(seed, Purpose.INIT, 1, at))
            (g,) = torch.autograd.grad(answers.sum(), z)
            found += (g.T @ g).double()
        return found

    @torch.no_grad()
    def _states(self, stems: Stems) -> Tensor:
        """(N, d): what the device half would project, of all positions of all texts."""
        return torch.cat([self.device.hidden(*stem) for stem in self._pass(stems)])

    def _start(self, stems: Stems, seed: int) -> None:
        of = self.plan.quantiser
        assert of is not None
        self._settle(self._states(stems), self._slopes(stems, seed) if of.weigh else None, len(stems.tokens), seed)
        if of.weigh:
            self.device.into.requires_grad_(False)

    @torch.no_grad()
    def _settle(self, h: Tensor, slopes: Tensor | None, texts: int, seed: int) -> None:
        """Weigh code space; then moments and Lloyd iterations of one pass.

        Args:
            h: (N, d), states of all positions of so many ``texts``.
            slopes: (width, width) as `weigh` takes them; None: code space stays as it is.
        """
        of = self.plan.quantiser
        assert of is not None
        if slopes is not None:
            weigh(self.device, self.cloud, self.device.into(h), slopes, 1 if of.residual else of.groups)
        z, generator = self.device.into(h), rng(seed, Purpose.INIT, 0)

        def ask(codebook: Codebook) -> Statistics:
            return codebook.statistics(z, codebook.assign(z))

        keeper = CodebookEMA.start(Moments.of(z), of.groups, of.size, of.residual, generator).lloyd(
            ask, generator
        )
        self.keeper = keeper.weighing(len(z) * of.round_steps * self.plan.batch / texts)

    def _update(self, one: DeviceEnd, seed: int, step: int) -> None:
        of = self.plan.quantiser
        assert of is not None and self.keeper is not None and one.statistics is not None
        if of.learn == "gradient":
            self.keeper = self.keeper.descend(one.statistics, 1 - of.decay)
        if of.learn == "mean":
            self.keeper = self.keeper.update(one.statistics, of.decay)
            if of.revive:
                self.keeper = self.keeper.revive(rng(seed, Purpose.INIT, step))


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of texts whose largest logit is their class's."""
    return float(np.mean(logits.argmax(1).numpy() == labels.numpy()))
