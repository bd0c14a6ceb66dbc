"""The two ends of a split training step, alike in simulation and in deployment: only bytes pass between them.

    device: codes up -> cloud: logits down -> device: loss, gradient of logits up -> cloud: gradient in code space down

That is the U shape: labels stay on the device. With label sharing the device sends labels with the codes and the cloud
answers with the gradient in code space at once. What an end keeps between two messages is its half's graph.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from models.vq.network.halves import CloudHalf, DeviceHalf, seeded
from models.vq.network.heads import Head
from models.vq.network.tokens import Tokens
from models.vq.quantiser.boundary import Boundary, Phase
from models.vq.quantiser.codebook import Codebook, Estimator, Statistics, straight_through
from models.vq.quantiser.codec import ErrorFeedback


@dataclass(frozen=True)
class Recipe:
    """AdamW with linear decay after a linear warm-up (DCCT table 1).

    Args:
        lr: peak learning rate of pretrained or deep layers; fresh: of projections and heads.
        steps: of the whole training, 0: constant learning rate.
        warmup: share of the steps.
    """

    lr: float = 1e-4
    fresh: float = 1e-3
    steps: int = 0
    warmup: float = 0.1
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-6

    def build(self, deep: list[nn.Parameter], fresh: list[nn.Parameter]) -> tuple[torch.optim.Optimizer, "Schedule"]:
        groups = [{"params": of, "lr": lr} for of, lr in ((deep, self.lr), (fresh, self.fresh)) if of]
        optimizer = torch.optim.AdamW(
            groups or [{"params": [torch.zeros(1)]}], betas=self.betas, eps=self.eps, weight_decay=self.weight_decay
        )
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, self.factor)

    def factor(self, step: int) -> float:
        """Of the peak learning rate at a step."""
        if not self.steps:
            return 1.0
        warm = max(1, round(self.warmup * self.steps))
        return (step + 1) / warm if step < warm else max(0.0, (self.steps - step) / max(1, self.steps - warm))


Schedule = torch.optim.lr_scheduler.LambdaLR


class DeviceEnd:
    """What happens on the device.

    Args:
        half: the device half.
        boundary: this side's.
        recipe: how it is trained.
        codebook: of the round; None: activations are sent.
        beta: weight of the commitment, which pulls z to its vector.
        estimator: of the gradient through the quantiser.
    """

    def __init__(
        self,
        half: DeviceHalf,
        boundary: Boundary,
        recipe: Recipe,
        codebook: Codebook | None = None,
        beta: float = 0.25,
        estimator: Estimator = straight_through,
    ):
        self.half, self.boundary, self.beta, self.estimator = half, boundary, beta, estimator
        self.use(codebook)
        deep = [p for part in (half.embeddings, half.layers) for p in part.parameters() if p.requires_grad]
        self.optimizer, self.schedule = recipe.build(deep, list(half.into.parameters()))

    def use(self, codebook: Codebook | None) -> None:
        """Take the codebook of a round, and forget the statistics of the last."""
        self.codebook = codebook
        self.statistics: Statistics | None = codebook.no_statistics() if codebook else None

    def send(self, tokens: Tokens, phase: Phase, seed: int = 0, stem: tuple[Tensor, Tensor] | None = None) -> bytes:
        """Codes or activations of some texts, going up.

        Args:
            seed: of dropout, in training.
            stem: what the frozen parts say of the texts, if it is known already.
        """
        training = phase == "train"
        self.half.train(training)
        with seeded(seed), torch.set_grad_enabled(training):
            z = self.half.encode(*(stem or self.half.stem(tokens)))
        lengths = tokens.lengths.tolist()
        if self.codebook is None:
            self._sent = z, z, lengths
            return self.boundary.encode("activations", z, lengths, phase)
        self.codes = codes = self.codebook.assign(z)
        self._sent = z, self.codebook.lookup(codes), lengths
        if training:
            assert self.statistics is not None
            self.statistics = self.statistics + self.codebook.statistics(z, codes)
        return self.boundary.encode("codes", codes, lengths, phase, self.codebook.version)

    def read(self, message: bytes) -> Tensor:
        """Logits that came down for the texts sent last."""
        return self.boundary.decode("logits", message, self._sent[2])[0]

    def answer(self, message: bytes, loss: Callable[[Tensor], Tensor]) -> tuple[float, bytes]:
        """The loss of the logits that came down, and its gradient with respect to them, going up."""
        logits = self.read(message).requires_grad_()
        value = loss(logits)
        (gradient,) = torch.autograd.grad(value, logits)
        return float(value.detach()), self.boundary.encode("logit-gradient", gradient, self._sent[2], "train")

    def learn(self, message: bytes) -> None:
        """One step along the gradient in code space that came down, and that of the commitment."""
        z, q, lengths = self._sent
        g, _ = self.boundary.decode("gradient", message, lengths)
        self.optimizer.zero_grad(set_to_none=True)
        if z.requires_grad:
            z.backward(self.codebook.gradient(z, q, g, self.beta, self.estimator) if self.codebook else g)
        self.optimizer.step()
        self.schedule.step()


class CloudEnd:
    """What happens in the cloud, for one device (a replica) or for all in turn.

    Args:
        half: the shared stack; head: of the device's task.
        boundary: this side's.
        recipe: how both are trained.
        codebook: of the round; None: activations come up.
        feedback: keeps what the gradients' coding left out, per text.

    Attributes:
        norms: of the gradient of the last layer's parameters, one for each step, where ``watched``.
    """

    watched = False

    def __init__(
        self,
        half: CloudHalf,
        head: Head,
        boundary: Boundary,
        recipe: Recipe,
        codebook: Codebook | None = None,
        feedback: ErrorFeedback | None = None,
    ):
        self.half, self.head, self.boundary, self.codebook, self.feedback = half, head, boundary, codebook, feedback
        self.norms: list[float] = []
        fresh = [*half.out.parameters(), *half.positions.parameters(), *head.parameters()]
        self.optimizer, self.schedule = recipe.build(list(half.layers.parameters()), fresh)

    def read(self, message: bytes) -> Tensor:
        """(N, width): what codes or activations that came up stand for.

        Raises:
            StaleCodebook: the codes are of another codebook.
        """
        name, version = ("codes", self.codebook.version) if self.codebook else ("activations", 0)
        rows, self._lengths = self.boundary.decode(name, message, version=version)
        return self.codebook.lookup(rows) if self.codebook else rows

    def logits(self, message: bytes, phase: Phase, seed: int = 0) -> Tensor:
        """Of codes or activations that came up. StaleCodebook: as in `read`."""
        training = phase == "train"
        self._q = self.read(message).requires_grad_(training)
        self.half.train(training)
        self.head.train(training)
        with seeded(seed), torch.set_grad_enabled(training):
            lengths = torch.tensor(self._lengths)
            self._logits: Tensor = self.head(*self.half(self._q, lengths), lengths)
        return self._logits

    def answer(self, message: bytes, phase: Phase, seed: int = 0) -> bytes:
        """The logits, going down."""
        return self.boundary.encode("logits", self.logits(message, phase, seed).detach(), self._lengths, phase)

    def learn(self, message: bytes, keys: list[int] | None = None) -> bytes:
        """One step along the gradient of the logits that came up; the gradient in code space, going down.

        Args:
            keys: (B,) of the texts, for error feedback.
        """
        gradient, _ = self.boundary.decode("logit-gradient", message, self._lengths)
        return self._learn(self._logits, gradient, keys)

    def learn_labels(self, message: bytes, labels: Tensor, seed: int = 0) -> tuple[float, bytes]:
        """The same with label sharing: the loss of what came up and its labels; the gradient, going down."""
        logits = self.logits(message, "train", seed)
        loss = self.head.loss(logits, labels, torch.tensor(self._lengths))
        return float(loss.detach()), self._learn(loss, None, None)

    def _learn(self, of: Tensor, gradient: Tensor | None, keys: list[int] | None) -> bytes:
        self.optimizer.zero_grad(set_to_none=True)
        of.backward(gradient)
        if self.watched:
            self.norms.append(float(get_total_norm([p.grad for p in self.half.layers[-1].parameters()])))  # type: ignore[misc]
        self.optimizer.step()
        self.schedule.step()
        g = self._q.grad
        assert g is not None
        if self.feedback and keys is not None:
            rows = self.boundary.rows(self.boundary.line("gradient"), self._lengths)
            return self.boundary.wrap("gradient", self.feedback.encode(g, rows, keys), self._lengths, "train")
        return self.boundary.encode("gradient", g, self._lengths, "train")
