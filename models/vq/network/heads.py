"""Heads: what a task reads from the shared stack, and its loss. A new task is a class here and a line in ``HEADS``.

A head sees hidden states (B, T', d), the positions of each text (B,) and its tokens (B,), and gives logits of one row
per text or per token that is no padding, in the order of the texts. Two texts of a pair are one input.
"""

from abc import abstractmethod
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.vq.network.halves import Half, PooledLayer, Shape, initial, seeded
from models.vq.network.pooling import flatten, unflatten, upsample, valid
from models.vq.network.tokens import Tokens
from models.vq.quantiser.boundary import Per

LONGEST = 30  # tokens of an answer


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
        """Logits (rows, width)."""

    @staticmethod
    @abstractmethod
    def loss(logits: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
        """Mean over the batch; it needs no parameter, so it can be where the labels are."""

    @staticmethod
    def drawn(logits: Tensor, lengths: Tensor, generator: np.random.Generator) -> Tensor:
        """The logit of a random class less the mean of all, one for each row of logits."""
        chosen = torch.from_numpy(generator.integers(logits.shape[1], size=len(logits)))
        return logits.gather(1, chosen[:, None])[:, 0] - logits.mean(1) * (logits.shape[1] > 1)


class Classify(Head):
    """One of ``width`` classes of a text or a pair; labels int64 (B,)."""

    def __init__(self, shape: Shape, width: int):
        super().__init__(shape, width)
        self.dropout, self.read = nn.Dropout(shape.dropout), nn.Linear(shape.hidden, width)

    def forward(self, h: Tensor, positions: Tensor, lengths: Tensor) -> Tensor:
        there = valid(positions, h.shape[1])[..., None]
        return self.read(self.dropout((h * there).sum(1) / positions[:, None]))

    @staticmethod
    def loss(logits: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels)


class Regress(Classify):
    """A number per text or pair; labels float32 (B,)."""

    def __init__(self, shape: Shape, width: int = 1):
        super().__init__(shape, width)

    @staticmethod
    def loss(logits: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
        return F.mse_loss(logits[:, 0], labels)


class Choice(Classify):
    """One of several texts; each text of B x options gives one logit, those of a question follow each other.

    Labels int64 (B,), the option's number.
    """

    def __init__(self, shape: Shape, width: int = 1):
        super().__init__(shape, width)

    @staticmethod
    def loss(logits: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
        return F.cross_entropy(logits.view(len(labels), -1), labels)


class PerToken(Head):
    """``width`` logits of every token: positions are repeated, told their place in the group, and mixed by a layer."""

    per = "token"

    def __init__(self, shape: Shape, width: int, layers: int = 1):
        super().__init__(shape, width)
        self.offset = nn.Embedding(shape.pool, shape.hidden)
        self.layers = nn.ModuleList(PooledLayer(shape.bert, 1) for _ in range(layers))
        self.read = nn.Linear(shape.hidden, width)

    def hidden(self, h: Tensor, lengths: Tensor) -> Tensor:
        """(B, T', d) -> (sum of lengths, d)."""
        tokens, stride = int(lengths.max()), self.shape.pool
        place = (torch.arange(tokens) - 1) % stride
        x = upsample(h, tokens, stride) + self.offset(place)
        for layer in self.layers:
            x, _ = layer(x, lengths)
        return flatten(x, lengths)

    def forward(self, h: Tensor, positions: Tensor, lengths: Tensor) -> Tensor:
        return self.read(self.hidden(h, lengths))


class Span(PerToken):
    """First and last token of an answer; labels int64 (B, 2)."""

    def __init__(self, shape: Shape, width: int = 2, layers: int = 1):
        super().__init__(shape, width, layers)

    @staticmethod
    def loss(logits: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
        there = valid(lengths)
        scores = logits.new_full((*there.shape, 2), -1e9).masked_scatter(there[..., None], logits)
        return F.cross_entropy(scores.transpose(1, 2).reshape(-1, there.shape[1]), labels.flatten())

    @staticmethod
    def drawn(logits: Tensor, lengths: Tensor, generator: np.random.Generator) -> Tensor:
        """(B, 2): tokens are the classes, once of those that may be the first and once of the last."""
        chosen = torch.from_numpy(generator.integers(lengths.numpy()[:, None], size=(len(lengths), 2)))
        scores = unflatten(logits, lengths)
        return scores.gather(1, chosen[:, None])[:, 0] - scores.sum(1) / lengths[:, None]

    @staticmethod
    def best(logits: Tensor, tokens: Tokens) -> Tensor:
        """First and last token int64 (B, 2) of at most `LONGEST` in the second text, whose logits sum to the most."""
        scores = unflatten(logits, tokens.lengths)
        longest = scores.shape[1]
        inside = valid(tokens.lengths - 1, longest) & (tokens.types[:, :longest] == 1)  # [SEP] ends the second text
        first, last = scores.masked_fill(~inside[..., None], -torch.inf).unbind(2)
        more = min(LONGEST, longest)
        sums = [F.pad(first[:, : longest - k] + last[:, k:], (0, k), value=-torch.inf) for k in range(more)]
        at = torch.stack(sums, 2).flatten(1).argmax(1)
        return torch.stack([at // more, at // more + at % more], 1)


class Replaced(PerToken):
    """ELECTRA's question of every token: was it replaced? Labels float32 (sum of lengths,), 1 if so."""

    def __init__(self, shape: Shape, width: int = 1, layers: int = 1):
        super().__init__(shape, width, layers)

    @staticmethod
    def loss(logits: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits[:, 0], labels)


class Masked(PerToken):
    """Hidden states of every token, for a tied embedding on the device; `models.vq.training.pretrain` has the loss."""

    def __init__(self, shape: Shape, width: int = 0, layers: int = 1):
        super().__init__(shape, shape.hidden, layers)

    @staticmethod
    def loss(logits: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
        raise TypeError("the loss of masked tokens is the device's: it holds the embedding")


HEADS: dict[str, type[Head]] = {
    "classify": Classify,
    "regress": Regress,
    "choice": Choice,
    "span": Span,
    "rtd": Replaced,
    "mlm": Masked,
}


def head_for(task: str, shape: Shape, width: int, seed: int) -> Head:
    """A new head with BERT's initial weights.

    Raises:
        ValueError: no such task.
    """
    if task not in HEADS:
        raise ValueError(f"unknown task '{task}'; choose from {', '.join(HEADS)}")
    with seeded(seed):
        head = HEADS[task](shape, width)
        head.apply(initial)
    return head
