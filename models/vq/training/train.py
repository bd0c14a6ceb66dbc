"""Central training of a split model, for experiments without a network; every step passes the boundary's codec.

A quantised boundary starts without codes: for the first ``float_share`` of the steps, the halves exchange activations.
Then k-means over one pass of the texts initialises the codebook, and the halves exchange codes. A *round* of the
codebook is ``round_steps`` steps. At its end, the codebook is updated as a federated server would.
"""

from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.vq.ends import CloudEnd, DeviceEnd, LearningRates
from models.vq.network.halves import CloudHalf, DeviceHalf, principal, projected, weigh
from models.vq.network.heads import Head
from models.vq.network.pooling import flatten, pooled_lengths, unflatten
from models.vq.network.tokens import Tokens, batches
from models.vq.quantiser.boundary import Boundary, BoundaryTraffic, channels
from models.vq.quantiser.codebook import ESTIMATORS, Codebook, Statistics, perplexity
from models.vq.quantiser.codebook_ema import CodebookEMA, Moments
from partitions.rng import Purpose, rng

Tick = Callable[[int, int], None]
"""``tick(step, steps)``: progress of a training."""


@dataclass(frozen=True)
class Quantiser:
    """How to quantise a boundary.

    Args:
        size: K, vectors per codebook.
        groups: m, codes per position.
        residual: see `Codebook`.
        beta: weight of the commitment loss.
        estimator: gradient estimator, by name.
        float_share: share of the steps before quantisation starts.
        round_steps: steps between two updates of the codebook.
        decay: weight of the previous statistics in an update.
        weigh: when quantisation starts, also weight code space by the gradients of the predictions
            (`models.vq.network.halves.weigh`), and freeze its projection.
        learn: 'mean' moves the codebook to the running mean of its inputs; 'gradient' moves it along the gradient of
            its error, with rate 1 - decay; 'frozen' keeps the result of k-means.
        revive: replace unused vectors; only for 'mean'.
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
class SplitTrainingPlan:
    """One training.

    Args:
        epochs, batch: passes over the texts, texts per step.
        lr, fresh: peak learning rates, see `LearningRates`.
        up: coding of activations.
        down: coding of gradients in code space.
        quantiser: None: exchange activations.
        align: initialise code space as the principal subspace of the states; otherwise it is random.
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
        """Return the number of steps of a training on ``texts`` texts."""
        return self.epochs * -(-texts // self.batch)


class StemCache:
    """Output of a device half's frozen layers for some texts; computed once if layers are frozen.

    Args:
        device: the half.
        tokens: n texts.
    """

    def __init__(self, device: DeviceHalf, tokens: Tokens):
        self.tokens, self._device = tokens, device
        self._rows: list[Tensor] = []
        self.cached = device.shape.frozen > 1
        if self.cached:
            rows: dict[int, Tensor] = {}
            for index in tokens.lengths.argsort(stable=True).split(64):
                x, lengths = device.eval().stem(tokens[index])
                rows |= zip(index.tolist(), flatten(x, lengths).split(lengths.tolist()), strict=True)
            self._rows = [rows[i] for i in range(len(tokens))]

    def __getitem__(self, rows: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return (B, T, d) and lengths (B,); None: the half must compute them."""
        if not self.cached:
            return None
        selected = [self._rows[i] for i in rows.tolist()]
        lengths = torch.tensor([len(x) for x in selected])
        return unflatten(torch.cat(selected), lengths), lengths


@dataclass(frozen=True)
class Step:
    """A prepared training step through the boundary.

    Args:
        device, cloud: the ends.
        tokens, labels: the step's texts and labels.
        stem: output of the frozen layers, if it is known.
        epoch: the step's epoch.
        dropout_seeds: on the device and in the cloud.
    """

    device: DeviceEnd
    cloud: CloudEnd
    tokens: Tokens
    labels: Tensor
    stem: tuple[Tensor, Tensor] | None
    epoch: int
    seeds: tuple[int, int]

    def take(self, weight: float = 1.0) -> float:
        """Update both halves and the head along ``weight`` times the loss's gradient, and return the loss.

        Only the device needs the weight.
        """
        device, cloud, lengths = self.device, self.cloud, self.tokens.lengths
        logits = cloud.send_logits(device.send(self.tokens, "train", self.seeds[0], self.stem), "train", self.seeds[1])
        loss, gradient = device.loss_gradient(logits, lambda out: weight * cloud.head.loss(out, self.labels, lengths))
        device.update(cloud.update(gradient))
        return loss / weight


@dataclass
class Split:
    """A split model, its boundary and its training state; `fit` trains it, `predict` uses it.

    Args:
        device, cloud, head: its parts.
        plan: how it is trained.
        codebook_ema: state of the codebook, once it exists.
        traffic: bytes of all messages.
        usage: (m, K) how often the last prediction used each vector.
        received: (N, width) activations that the cloud received in the last prediction, of all positions in text order.
    """

    device: DeviceHalf
    cloud: CloudHalf
    head: Head
    plan: SplitTrainingPlan
    codebook_ema: CodebookEMA | None = None
    traffic: BoundaryTraffic = field(default_factory=BoundaryTraffic)
    usage: Tensor | None = None
    received: Tensor | None = None

    def __post_init__(self) -> None:
        quantiser, shape = self.plan.quantiser, self.device.shape
        if quantiser and quantiser.weigh and not shape.width:
            raise ValueError("weigh = True needs a projection into code space; give the shape a width")
        codes = (quantiser.size, quantiser.groups) if quantiser else None
        exchanged = channels(shape.wire, self.head.width, self.head.per, codes, self.plan.up, self.plan.down)
        self.boundary = Boundary(exchanged, shape.pool, self.traffic)

    @property
    def codebook(self) -> Codebook | None:
        return self.codebook_ema.codebook if self.codebook_ema else None

    def fit(self, tokens: Tokens, labels: Tensor, seed: int, tick: Tick = lambda step, steps: None) -> list[float]:
        """Train on texts and labels (n, ...) and return the mean loss of each epoch."""
        steps = self.plan.steps(len(tokens))
        device, cloud = self.ends(LearningRates(self.plan.lr, self.plan.fresh, steps))
        losses = [0.0] * self.plan.epochs
        for number, step in enumerate(self.steps(tokens, labels, seed, device, cloud), 1):
            losses[step.epoch] += step.take() * len(step.tokens)
            tick(number, steps)
        return [loss / len(tokens) for loss in losses]

    def steps(self, tokens: Tokens, labels: Tensor, seed: int, device: DeviceEnd, cloud: CloudEnd) -> Iterator[Step]:
        """Yield the steps of a training, to be taken one by one. The codebook is updated in between."""
        plan, quantiser = self.plan, self.plan.quantiser
        cache, steps = StemCache(self.device, tokens), plan.steps(len(tokens))
        if plan.align and self.device.shape.width:
            self._align(cache, seed)
        first_quantised = round(quantiser.float_share * steps) if quantiser else steps
        step = 0
        for epoch in range(plan.epochs):
            for rows in batches(tokens.lengths, plan.batch, rng(seed, Purpose.TRAIN, epoch)):
                if step == first_quantised:
                    self._start(cache, seed)
                    self._use(device, cloud)
                address = (seed, Purpose.TRAIN, epoch, step)
                device_seed, cloud_seed = (int(rng(*address, half).integers(2**63)) for half in range(2))
                yield Step(device, cloud, tokens[rows], labels[rows], cache[rows], epoch, (device_seed, cloud_seed))
                step += 1
                if quantiser and step > first_quantised and (step - first_quantised) % quantiser.round_steps == 0:
                    self._update(device, seed, step)
                    self._use(device, cloud)

    def ends(self, rates: LearningRates) -> tuple[DeviceEnd, CloudEnd]:
        """Create both ends of this model with new optimizers."""
        quantiser = self.plan.quantiser or Quantiser()
        device = DeviceEnd(self.device, self.boundary, rates, None, quantiser.beta, ESTIMATORS[quantiser.estimator])
        return device, CloudEnd(self.cloud, self.head, self.boundary, rates)

    @torch.no_grad()
    def predict(self, tokens: Tokens, batch: int = 64, stems: StemCache | None = None) -> Tensor:
        """Compute logits (rows, width) of texts through the boundary, in evaluation; traffic counts their bytes.

        Args:
            tokens, batch: n texts, texts per message.
            stems: of the texts, if they are known.
        """
        device, cloud = self.ends(LearningRates())
        self._use(device, cloud)
        logits_by_text: dict[int, Tensor] = {}
        received: dict[int, Tensor] = {}
        self.usage = None
        for rows in tokens.lengths.argsort(stable=True).split(batch):
            message = device.send(tokens[rows], "infer", stem=stems[rows] if stems else None)
            logits = device.read_logits(cloud.send_logits(message, "infer"))
            sizes = tokens.lengths[rows].tolist() if self.head.per == "token" else [1] * len(rows)
            logits_by_text |= zip(rows.tolist(), logits.split(sizes), strict=True)
            positions = pooled_lengths(tokens.lengths[rows], self.device.shape.pool).tolist()
            received |= zip(rows.tolist(), cloud.decode(message).split(positions), strict=True)
            if device.codebook:
                usage = device.codebook.usage(device.codes)
                self.usage = usage if self.usage is None else self.usage + usage
        self.received = torch.cat([received[i] for i in range(len(tokens))])
        return torch.cat([logits_by_text[i] for i in range(len(tokens))])

    def quantised(self, tokens: Tokens, quantisers: Iterable[Quantiser], seed: int) -> Iterator["Split"]:
        """Yield copies of this trained model that exchange codes, one per quantiser, without further training.

        With ``weigh`` the error is the change of the trained model's predictions; otherwise it is plain squared error.
        In both cases code space is rotated to its principal coordinates, which are assigned to the groups. Schedules of
        the quantisers are ignored.
        """
        stems = StemCache(self.device, tokens)
        h, slopes = self._states(stems), self._slopes(stems, seed)
        for quantiser in quantisers:
            copy = Split(*projected(self.device, self.cloud), self.head, replace(self.plan, quantiser=quantiser))
            copy._fit_quantiser(h, slopes if quantiser.weigh else torch.eye(self.device.shape.wire), len(tokens), seed)
            yield copy

    def distil_cloud(self, tokens: Tokens, answers: Tensor, epochs: int, seed: int) -> "Split":
        """Return this model with a cloud half and head trained to predict from codes as they did from activations.

        The distillation minimises squared error. It needs no labels, does not change the device half, and sends the
        codes of each text once.

        Args:
            tokens: n texts.
            answers: (rows, width) result of `predict` for them before quantisation.
            epochs, seed: passes over the texts, seed of the batches.
        """
        student = Split(self.device, deepcopy(self.cloud), deepcopy(self.head), self.plan, self.codebook_ema)
        student.predict(tokens)
        assert student.received is not None
        codes = student.received.split(pooled_lengths(tokens.lengths, self.device.shape.pool).tolist())
        targets = answers.split(tokens.lengths.tolist() if self.head.per == "token" else 1)
        plan = replace(self.plan, epochs=epochs)
        parts = nn.ModuleList([student.cloud, student.head]).eval()  # evaluation mode: the targets contain no dropout
        parameters = [p for p in parts.parameters() if p.requires_grad]
        optimizer, schedule = LearningRates(plan.lr, steps=plan.steps(len(tokens)), warmup=0.0).build(parameters, [])
        for epoch in range(epochs):
            for rows in batches(tokens.lengths, plan.batch, rng(seed, Purpose.STUDY, epoch)):
                lengths, texts = tokens.lengths[rows], rows.tolist()
                output = student.head(*student.cloud(torch.cat([codes[i] for i in texts]), lengths), lengths)
                optimizer.zero_grad(set_to_none=True)
                F.mse_loss(output, torch.cat([targets[i] for i in texts])).backward()
                optimizer.step()
                schedule.step()
        return Split(student.device, student.cloud, student.head, student.plan, student.codebook_ema)

    def perplexity(self) -> float:
        """Return how many vectors the last prediction used, averaged over codebooks; 0 without a codebook."""
        return 0.0 if self.usage is None else float(perplexity(self.usage).mean())

    def entropy(self) -> float:
        """Return the bits of all codes of the last prediction under entropy coding; 0 without codes."""
        return 0.0 if self.usage is None else float(self.usage[0].sum() * perplexity(self.usage).log2().sum())

    def _use(self, device: DeviceEnd, cloud: CloudEnd) -> None:
        device.set_codebook(self.codebook)
        cloud.codebook = self.codebook

    def _frozen_states(self, stems: StemCache) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield frozen states and lengths of all texts, in evaluation."""
        self.device.eval()
        for rows in stems.tokens.lengths.argsort(stable=True).split(64):
            yield stems[rows] or self.device.stem(stems.tokens[rows])

    @torch.no_grad()
    def _align(self, stems: StemCache, seed: int) -> None:
        d = self.device.shape.hidden
        count, sums, products = 0.0, torch.zeros(d).double(), torch.zeros(d, d).double()
        for stem in self._frozen_states(stems):
            h = self.device.hidden(*stem).double()
            count, sums, products = count + len(h), sums + h.sum(0), products + h.T @ h
        principal(self.device, self.cloud, count, sums, products, seed)

    def _slopes(self, stems: StemCache, seed: int) -> Tensor:
        """Return (width, width), the sum over all positions of g g^T, where g is the gradient of a text's prediction.

        The prediction is the logit of a random class minus the mean of all logits, so the sum is in expectation that
        over all classes. Gradients of the loss would depend on the few texts that a trained model still gets wrong.
        """
        products = torch.zeros(self.device.shape.wire, self.device.shape.wire, dtype=torch.float64)
        for part in (self.device, self.cloud, self.head):
            part.eval()
        for batch, rows in enumerate(stems.tokens.lengths.argsort(stable=True).split(64)):
            tokens = stems.tokens[rows]
            with torch.no_grad():
                z = self.device.encode(*(stems[rows] or self.device.stem(tokens)))
            z.requires_grad_()
            logits = self.head(*self.cloud(z, tokens.lengths), tokens.lengths)
            answers = self.head.sampled_logit(logits, tokens.lengths, rng(seed, Purpose.INIT, 1, batch))
            (g,) = torch.autograd.grad(answers.sum(), z)
            products += (g.T @ g).double()
        return products

    @torch.no_grad()
    def _states(self, stems: StemCache) -> Tensor:
        """Return (N, d), the states that the device half projects, of all positions of all texts."""
        return torch.cat([self.device.hidden(*stem) for stem in self._frozen_states(stems)])

    def _start(self, stems: StemCache, seed: int) -> None:
        quantiser = self.plan.quantiser
        assert quantiser is not None
        slopes = self._slopes(stems, seed) if quantiser.weigh else None
        self._fit_quantiser(self._states(stems), slopes, len(stems.tokens), seed)
        if quantiser.weigh:
            self.device.into.requires_grad_(False)

    @torch.no_grad()
    def _fit_quantiser(self, h: Tensor, slopes: Tensor | None, texts: int, seed: int) -> None:
        """Weight code space, then initialise the codebook by moments and Lloyd iterations over one pass.

        Args:
            h: (N, d), states of all positions of ``texts`` texts.
            slopes: (width, width) as in `weigh`; None: code space does not change.
            texts: number of texts.
            seed: of the initial vectors.
        """
        quantiser = self.plan.quantiser
        assert quantiser is not None
        if slopes is not None:
            weigh(self.device, self.cloud, self.device.into(h), slopes, 1 if quantiser.residual else quantiser.groups)
        z, generator = self.device.into(h), rng(seed, Purpose.INIT, 0)

        def collect(codebook: Codebook) -> Statistics:
            return codebook.statistics(z, codebook.assign(z))

        codebook_ema = CodebookEMA.start(
            Moments.of(z), quantiser.groups, quantiser.size, quantiser.residual, generator
        ).lloyd(collect, generator)
        self.codebook_ema = codebook_ema.with_mass(len(z) * quantiser.round_steps * self.plan.batch / texts)

    def _update(self, device: DeviceEnd, seed: int, step: int) -> None:
        quantiser = self.plan.quantiser
        assert quantiser is not None and self.codebook_ema is not None and device.statistics is not None
        if quantiser.learn == "gradient":
            self.codebook_ema = self.codebook_ema.descend(device.statistics, 1 - quantiser.decay)
        if quantiser.learn == "mean":
            self.codebook_ema = self.codebook_ema.update(device.statistics, quantiser.decay)
            if quantiser.revive:
                self.codebook_ema = self.codebook_ema.revive(rng(seed, Purpose.INIT, step))


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of texts whose largest logit belongs to their class."""
    return float(np.mean(logits.argmax(1).numpy() == labels.numpy()))
