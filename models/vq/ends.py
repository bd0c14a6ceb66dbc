"""The two ends of a split training step, the same in simulation and deployment: they exchange only bytes.

    device: codes up -> cloud: logits down -> device: loss, gradient of logits up -> cloud: gradient in code space down

In this U shape labels stay on the device. With shared labels, the device sends labels with the codes, and the cloud
answers with the gradient in code space. Between two messages, an end stores the graph of its half.
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
class LearningRates:
    """AdamW with linear warm-up and linear decay (DCCT table 1).

    Args:
        lr: peak learning rate of pretrained or deep layers.
        fresh: peak learning rate of projections and heads.
        steps: length of the whole training; 0: constant learning rate.
        warmup: share of the steps.
        weight_decay, betas, eps: as in torch.
    """

    lr: float = 1e-4
    fresh: float = 1e-3
    steps: int = 0
    warmup: float = 0.1
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-6

    def build(self, deep: list[nn.Parameter], fresh: list[nn.Parameter]) -> tuple[torch.optim.Optimizer, "Schedule"]:
        groups = [{"params": params, "lr": lr} for params, lr in ((deep, self.lr), (fresh, self.fresh)) if params]
        optimizer = torch.optim.AdamW(
            groups or [{"params": [torch.zeros(1)]}], betas=self.betas, eps=self.eps, weight_decay=self.weight_decay
        )
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, self.factor)

    def factor(self, step: int) -> float:
        """Return the learning rate at a step, as a share of the peak."""
        if not self.steps:
            return 1.0
        warm = max(1, round(self.warmup * self.steps))
        return (step + 1) / warm if step < warm else max(0.0, (self.steps - step) / max(1, self.steps - warm))


Schedule = torch.optim.lr_scheduler.LambdaLR


class DeviceEnd:
    """The device's end.

    Args:
        half: the device half.
        boundary: this side's boundary.
        rates: learning rates.
        codebook: of the round; None: send activations.
        beta: weight of the commitment loss, which pulls z towards its vector.
        estimator: of the gradient through the quantiser.
    """

    def __init__(
        self,
        half: DeviceHalf,
        boundary: Boundary,
        rates: LearningRates,
        codebook: Codebook | None = None,
        beta: float = 0.25,
        estimator: Estimator = straight_through,
    ):
        self.half, self.boundary, self.beta, self.estimator = half, boundary, beta, estimator
        self.set_codebook(codebook)
        layers = [p for part in (half.embeddings, half.layers) for p in part.parameters() if p.requires_grad]
        self.optimizer, self.schedule = rates.build(layers, list(half.into.parameters()))

    def set_codebook(self, codebook: Codebook | None) -> None:
        """Set the codebook of a round and reset the statistics."""
        self.codebook = codebook
        self.statistics: Statistics | None = codebook.zero_statistics() if codebook else None

    def send(self, tokens: Tokens, phase: Phase, seed: int = 0, stem: tuple[Tensor, Tensor] | None = None) -> bytes:
        """Encode the codes or activations of some texts, for the cloud.

        Args:
            tokens: B texts.
            phase: 'train' or 'infer'.
            seed: of dropout, in training.
            stem: output of the frozen layers, if it is known already.
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

    def read_logits(self, message: bytes) -> Tensor:
        """Decode the logits of the last texts."""
        return self.boundary.decode("logits", message, self._sent[2])[0]

    def loss_gradient(self, message: bytes, loss: Callable[[Tensor], Tensor]) -> tuple[float, bytes]:
        """Compute the loss of the received logits, and encode its gradient for the cloud."""
        logits = self.read_logits(message).requires_grad_()
        loss_value = loss(logits)
        (gradient,) = torch.autograd.grad(loss_value, logits)
        return float(loss_value.detach()), self.boundary.encode("logit-gradient", gradient, self._sent[2], "train")

    def update(self, message: bytes) -> None:
        """Take one step along the received gradient in code space and the gradient of the commitment loss."""
        z, q, lengths = self._sent
        g, _ = self.boundary.decode("gradient", message, lengths)
        self.optimizer.zero_grad(set_to_none=True)
        if z.requires_grad:
            z.backward(self.codebook.gradient(z, q, g, self.beta, self.estimator) if self.codebook else g)
        self.optimizer.step()
        self.schedule.step()


class CloudEnd:
    """The cloud's end, for one client (a replica) or for all in turn.

    Args:
        half: the shared layers.
        head: head of the client's task.
        boundary: this side's boundary.
        rates: learning rates of both.
        codebook: of the round; None: receive activations.
        feedback: coding errors of the gradients, per text.

    Attributes:
        record_norms: record the gradient norm of the last layer's parameters in every step, in ``norms``.
    """

    record_norms = False

    def __init__(
        self,
        half: CloudHalf,
        head: Head,
        boundary: Boundary,
        rates: LearningRates,
        codebook: Codebook | None = None,
        feedback: ErrorFeedback | None = None,
    ):
        self.half, self.head, self.boundary, self.codebook, self.feedback = half, head, boundary, codebook, feedback
        self.norms: list[float] = []
        fresh = [*half.out.parameters(), *half.positions.parameters(), *head.parameters()]
        self.optimizer, self.schedule = rates.build(list(half.layers.parameters()), fresh)

    def decode(self, message: bytes) -> Tensor:
        """Decode the activations (N, width) of received codes or activations.

        Raises:
            StaleCodebook: the codes belong to another codebook.
        """
        name, version = ("codes", self.codebook.version) if self.codebook else ("activations", 0)
        rows, self._lengths = self.boundary.decode(name, message, version=version)
        return self.codebook.lookup(rows) if self.codebook else rows

    def logits(self, message: bytes, phase: Phase, seed: int = 0) -> Tensor:
        """Compute the logits of received codes or activations. StaleCodebook: as in `decode`."""
        training = phase == "train"
        self._q = self.decode(message).requires_grad_(training)
        self.half.train(training)
        self.head.train(training)
        with seeded(seed), torch.set_grad_enabled(training):
            lengths = torch.tensor(self._lengths)
            self._logits: Tensor = self.head(*self.half(self._q, lengths), lengths)
        return self._logits

    def send_logits(self, message: bytes, phase: Phase, seed: int = 0) -> bytes:
        """Encode the logits of received codes or activations, for the device."""
        return self.boundary.encode("logits", self.logits(message, phase, seed).detach(), self._lengths, phase)

    def update(self, message: bytes, keys: list[int] | None = None) -> bytes:
        """Take one step along the received gradient of the logits, and encode the gradient in code space.

        Args:
            message: gradient of the logits.
            keys: (B,) keys of the texts, for error feedback.
        """
        gradient, _ = self.boundary.decode("logit-gradient", message, self._lengths)
        return self._update(self._logits, gradient, keys)

    def update_from_labels(self, message: bytes, labels: Tensor, seed: int = 0) -> tuple[float, bytes]:
        """Take one step with shared labels.

        Returns:
            The loss, and the encoded gradient in code space.
        """
        logits = self.logits(message, "train", seed)
        loss = self.head.loss(logits, labels, torch.tensor(self._lengths))
        return float(loss.detach()), self._update(loss, None, None)

    def _update(self, output: Tensor, gradient: Tensor | None, keys: list[int] | None) -> bytes:
        self.optimizer.zero_grad(set_to_none=True)
        output.backward(gradient)
        if self.record_norms:
            self.norms.append(float(get_total_norm([p.grad for p in self.half.layers[-1].parameters()])))  # type: ignore[misc]
        self.optimizer.step()
        self.schedule.step()
        g = self._q.grad
        assert g is not None
        if self.feedback and keys is not None:
            rows = self.boundary.rows(self.boundary.channel("gradient"), self._lengths)
            return self.boundary.wrap("gradient", self.feedback.encode(g, rows, keys), self._lengths, "train")
        return self.boundary.encode("gradient", g, self._lengths, "train")
