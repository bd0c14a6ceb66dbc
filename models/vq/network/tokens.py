"""Text as numbers: a batch of token ids, and in which order batches come."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Tokens:
    """Texts.

    Args:
        ids: (B, T) int64, 0 is padding; types: (B, T) int64, 1 in the second text of a pair.
        lengths: (B,) int64, tokens of each with [CLS] and [SEP].
    """

    ids: Tensor
    types: Tensor
    lengths: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: Tensor) -> "Tokens":
        """Some of them, cut to the longest."""
        lengths = self.lengths[rows]
        longest = int(lengths.max())
        return Tokens(self.ids[rows, :longest], self.types[rows, :longest], lengths)


def encode(
    tokenizer: Tokenizer, texts: Sequence[str], seconds: Sequence[str] | None = None, limit: int = 128
) -> Tokens:
    """Texts, or pairs of texts in one input, cut to ``limit`` tokens."""
    tokenizer.no_padding()
    tokenizer.enable_truncation(limit)
    inputs = list(texts) if seconds is None else list(zip(texts, seconds, strict=True))
    found = tokenizer.encode_batch(inputs)
    lengths = torch.tensor([len(own.ids) for own in found])
    ids = torch.zeros(len(found), int(lengths.max()), dtype=torch.int64)
    types = torch.zeros_like(ids)
    for i, own in enumerate(found):
        ids[i, : lengths[i]] = torch.tensor(own.ids)
        types[i, : lengths[i]] = torch.tensor(own.type_ids)
    return Tokens(ids, types, lengths)


def batches(lengths: Tensor, size: int, generator: np.random.Generator, pool: int = 16) -> list[Tensor]:
    """One epoch of index batches in random order; the texts of a batch are of like length, so that little is padded.

    Args:
        pool: batches' worth of random texts that are sorted by length together.
    """
    order = torch.from_numpy(generator.permutation(len(lengths)))
    found = [
        rows for chunk in order.split(size * pool) for rows in chunk[lengths[chunk].argsort(stable=True)].split(size)
    ]
    return [found[i] for i in generator.permutation(len(found))]
