"""Heads: what a task reads from the shared layers, and its loss. A new task is a class here and an entry of ``HEADS``.

A head gets hidden states (B, T', d), the positions of each text (B,) and its tokens (B,). It returns one row of logits
per text, or per token that is not padding, in the order of the texts. Two texts of a pair are one input.
"""

from abc import abstractmethod
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.vq.network.halves import Half, PooledLayer, Shape, bert_init, seeded
from models.vq.network.pooling import flatten, unflatten, upsample, valid
from models.vq.network.tokens import Tokens
from models.vq.quantiser.boundary import Per

MAX_ANSWER_TOKENS = 30  # longest answer, in tokens


class Head(Half):
    """One task.

    Args:
        shape: of the halves.
        width: numbers per row of logits.
    """

    per: ClassVar[Per] = "example"

    def __init__(self, shape: Shape, width: int):
        super().__init__()
        self.shape, self.width = shape, width

    @abstractmethod
    def forward(self, h: Tensor, positions: Tensor, lengths: Tensor) -> Tensor:
        """Compute logits (rows, width)."""

    @staticmethod
    @abstractmethod
    def loss(logits: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
        """Compute the mean loss of a batch; it needs no parameter, so it can run where the labels are."""

    @staticmethod
    def sampled_logit(logits: Tensor, lengths: Tensor, generator: np.random.Generator) -> Tensor:
        """Return the logit of a random class minus the mean of all classes, one per row of logits."""
        chosen = torch.from_numpy(generator.integers(logits.shape[1], size=len(logits)))
        return logits.gather(1, chosen[:, None])[:, 0] - logits.mean(1) * (logits.shape[1] > 1)


class Classify(Head):
    """Classify a text or a pair into ``width`` classes; labels int64 (B,)."""

    def __init__(self, shape: Shape, width: int):
        super().__init__(shape, width)
        self.dropout, self.read = nn.Dropout(shape.dropout), nn.Linear(shape.hidden, width)

    def forward(self, h: Tensor, positions: Tensor, lengths: Tensor) -> Tensor:
        mask = valid(positions, h.shape[1])[..., None]
        return self.read(self.dropout((h * mask).sum(1) / positions[:, None]))

    @staticmethod
    def loss(logits: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels)


class Regress(Classify):
    """Predict a number per text or pair; labels float32 (B,)."""

    def __init__(self, shape: Shape, width: int = 1):
        super().__init__(shape, width)

    @staticmethod
    def loss(logits: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
        return F.mse_loss(logits[:, 0], labels)


class Choice(Classify):
    """Choose one of several texts; each of B x options texts gets one logit.

    The texts of a question are adjacent. Labels int64 (B,) are the numbers of the correct options.
    """

    def __init__(self, shape: Shape, width: int = 1):
        super().__init__(shape, width)

    @staticmethod
    def loss(logits: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
        return F.cross_entropy(logits.view(len(labels), -1), labels)


class PerToken(Head):
    """Compute ``width`` logits per token.

    The head repeats positions, adds an embedding of the token's place in its group, and applies a layer.
    """

    per = "token"

    def __init__(self, shape: Shape, width: int, layers: int = 1):
        super().__init__(shape, width)
        self.offset = nn.Embedding(shape.pool, shape.hidden)
        self.layers = nn.ModuleList(PooledLayer(shape.bert, 1) for _ in range(layers))
        self.read = nn.Linear(shape.hidden, width)

    def hidden(self, h: Tensor, lengths: Tensor) -> Tensor:
        """Compute (B, T', d) -> (sum of lengths, d)."""
        tokens, stride = int(lengths.max()), self.shape.pool
        offsets = (torch.arange(tokens) - 1) % stride
        x = upsample(h, tokens, stride) + self.offset(offsets)
        for layer in self.layers:
            x, _ = layer(x, lengths)
        return flatten(x, lengths)

    def forward(self, h: Tensor, positions: Tensor, lengths: Tensor) -> Tensor:
        return self.read(self.hidden(h, lengths))


class Span(PerToken):
    """Find the first and last token of an answer; labels int64 (B, 2)."""

    def __init__(self, shape: Shape, width: int = 2, layers: int = 1):
        super().__init__(shape, width, layers)

    @staticmethod
    def loss(logits: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
        mask = valid(lengths)
        scores = logits.new_full((*mask.shape, 2), -1e9).masked_scatter(mask[..., None], logits)
        return F.cross_entropy(scores.transpose(1, 2).reshape(-1, mask.shape[1]), labels.flatten())

    @staticmethod
    def sampled_logit(logits: Tensor, lengths: Tensor, generator: np.random.Generator) -> Tensor:
        """Return (B, 2): the classes are the tokens of the text, once for the first and once for the last token."""
        chosen = torch.from_numpy(generator.integers(lengths.numpy()[:, None], size=(len(lengths), 2)))
        scores = unflatten(logits, lengths)
        return scores.gather(1, chosen[:, None])[:, 0] - scores.sum(1) / lengths[:, None]

    @staticmethod
    def best(logits: Tensor, tokens: Tokens) -> Tensor:
        """Return the best answer: first and last token int64 (B, 2), with the largest sum of logits.

        Answers have at most `MAX_ANSWER_TOKENS` tokens and lie in the second text.
        """
        scores = unflatten(logits, tokens.lengths)
        longest = scores.shape[1]
        inside = valid(tokens.lengths - 1, longest) & (tokens.types[:, :longest] == 1)  # [SEP] ends the second text
        first, last = scores.masked_fill(~inside[..., None], -torch.inf).unbind(2)
        span = min(MAX_ANSWER_TOKENS, longest)
        sums = [F.pad(first[:, : longest - k] + last[:, k:], (0, k), value=-torch.inf) for k in range(span)]
        index = torch.stack(sums, 2).flatten(1).argmax(1)
        return torch.stack([index // span, index // span + index % span], 1)


class Replaced(PerToken):
    """ELECTRA's task: was this token replaced? Labels float32 (sum of lengths,), 1 if so."""

    def __init__(self, shape: Shape, width: int = 1, layers: int = 1):
        super().__init__(shape, width, layers)

    @staticmethod
    def loss(logits: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits[:, 0], labels)


class Masked(PerToken):
    """Compute hidden states of every token for a tied embedding on the device.

    `models.vq.training.pretrain` has the loss.
    """

    def __init__(self, shape: Shape, width: int = 0, layers: int = 1):
        super().__init__(shape, shape.hidden, layers)

    @staticmethod
    def loss(logits: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
        raise TypeError("only the device computes the loss of masked tokens, because it has the embedding")


HEADS: dict[str, type[Head]] = {
    "classify": Classify,
    "regress": Regress,
    "choice": Choice,
    "span": Span,
    "rtd": Replaced,
    "mlm": Masked,
}


def head_for(task: str, shape: Shape, width: int, seed: int) -> Head:
    """Build a new head with BERT's initial weights.

    Raises:
        ValueError: the task is unknown.
    """
    if task not in HEADS:
        raise ValueError(f"unknown task '{task}'; choose from {', '.join(HEADS)}")
    with seeded(seed):
        head = HEADS[task](shape, width)
        head.apply(bert_init)
    return head
