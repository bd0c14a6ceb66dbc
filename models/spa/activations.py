"""States of the frozen base for examples: computed once, used in every epoch and round."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.spa.bases import Base
from partitions.datasets.text.personas import Example


@dataclass(frozen=True)
class ExampleStates:
    """The base's states of one example; position t predicts token t + 1.

    Args:
        stack: (T, S, d) states of the example without its last token; if the side has no attention, only from the last
            token of the prompt on.
        start: position that predicts the answer's first token.
        targets: (T - start,) tokens of the answer.
    """

    stack: Tensor
    start: int
    targets: Tensor

    @property
    def b(self) -> Tensor:
        """(T - start, d): the base's last state at the positions that predict the answer."""
        return self.stack[self.start :, -1]


Examples = Sequence[ExampleStates]


@dataclass
class Activations:
    """`ExampleStates` of examples, in a memory cache that drops the least recently used ones first.

    Args:
        base: the base model.
        states: indices of the base's states.
        whole: include the states of the prompt.
        limit: size of the cache in bytes.
    """

    base: Base
    states: tuple[int, ...]
    whole: bool
    limit: int = 512 * 2**20
    _cache: OrderedDict[Example, ExampleStates] = field(default_factory=OrderedDict)
    _bytes: int = 0

    def __call__(self, examples: Sequence[Example]) -> list[ExampleStates]:
        """Return the states of each example, in order."""
        return [self._of(example) for example in examples]

    def _of(self, example: Example) -> ExampleStates:
        if example in self._cache:
            self._cache.move_to_end(example)
            return self._cache[example]
        prompt, answer = self.base.encode(example)
        stack = self.base.stack(torch.tensor([[*prompt, *answer[:-1]]]))[0, :, list(self.states)]
        start = len(prompt) - 1
        stack, start = (stack, start) if self.whole else (stack[start:].clone(), 0)
        states = ExampleStates(stack, start, torch.tensor(answer))
        self._cache[example] = states
        self._bytes += states.stack.nbytes
        while self._bytes > self.limit and len(self._cache) > 1:
            self._bytes -= self._cache.popitem(last=False)[1].stack.nbytes
        return states


@dataclass(frozen=True)
class Batch:
    """Examples, padded at their end. N is the number of answer tokens in the batch.

    Args:
        stack: (B, T, S, d).
        start: (B,).
        scored: (B, T) bool, positions that predict the answer.
        targets: (N,).
    """

    stack: Tensor
    start: Tensor
    scored: Tensor
    targets: Tensor

    @classmethod
    def of(cls, examples: Sequence[ExampleStates]) -> "Batch":
        stack = torch.nn.utils.rnn.pad_sequence([e.stack for e in examples], batch_first=True)
        positions, start = torch.arange(stack.shape[1]), torch.tensor([e.start for e in examples])
        ends = torch.tensor([len(e.stack) for e in examples])
        scored = (positions >= start[:, None]) & (positions < ends[:, None])
        return cls(stack, start, scored, torch.cat([e.targets for e in examples]))

    @property
    def b(self) -> Tensor:
        """(B, T, d): the base's last state."""
        return self.stack[:, :, -1]
