"""What the frozen base says of an example: computed once, used in every epoch and round."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.spa.bases import Base
from partitions.personas import Example


@dataclass(frozen=True)
class Known:
    """The base's states of one example; position t is where token t + 1 is predicted.

    Args:
        stack: (T, S, d) of the whole example but its last token, or from the last token of the prompt on where the
            side attends to nothing.
        start: the position that predicts the answer's first token; targets: (T - start,) the answer.
    """

    stack: Tensor
    start: int
    targets: Tensor

    @property
    def b(self) -> Tensor:
        """(T - start, d): the base's last state where it predicts the answer."""
        return self.stack[self.start :, -1]


@dataclass
class Activations:
    """`Known` of examples, kept in memory up to a limit; what was not used for longest is dropped first.

    Args:
        states: which of the base's; whole: keep the prompt's too.
        limit: bytes.
    """

    base: Base
    states: tuple[int, ...]
    whole: bool
    limit: int = 512 * 2**20
    _kept: OrderedDict[Example, Known] = field(default_factory=OrderedDict)
    _bytes: int = 0

    def __call__(self, examples: Sequence[Example]) -> list[Known]:
        """What the base says of each, in their order."""
        return [self._of(example) for example in examples]

    def _of(self, example: Example) -> Known:
        if example in self._kept:
            self._kept.move_to_end(example)
            return self._kept[example]
        prompt, answer = self.base.encode(example)
        stack = self.base.stack(torch.tensor([[*prompt, *answer[:-1]]]))[0, :, list(self.states)]
        begin = len(prompt) - 1
        known = Known(stack if self.whole else stack[begin:].clone(), begin if self.whole else 0, torch.tensor(answer))
        self._kept[example] = known
        self._bytes += known.stack.nbytes
        while self._bytes > self.limit and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].stack.nbytes
        return known


@dataclass(frozen=True)
class Batch:
    """Examples padded at their end. N is the number of answer tokens in it.

    Args:
        stack: (B, T, S, d); start: (B,); scored: (B, T) bool, positions that predict the answer; targets: (N,).
    """

    stack: Tensor
    start: Tensor
    scored: Tensor
    targets: Tensor

    @classmethod
    def of(cls, known: Sequence[Known]) -> "Batch":
        stack = torch.nn.utils.rnn.pad_sequence([k.stack for k in known], batch_first=True)
        at, start = torch.arange(stack.shape[1]), torch.tensor([k.start for k in known])
        ends = torch.tensor([len(k.stack) for k in known])
        scored = (at >= start[:, None]) & (at < ends[:, None])
        return cls(stack, start, scored, torch.cat([k.targets for k in known]))

    @property
    def b(self) -> Tensor:
        """(B, T, d): the base's last state."""
        return self.stack[:, :, -1]
