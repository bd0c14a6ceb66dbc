"""Text as numbers: batches of token ids, and the order of the batches."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Tokens:
    """Tokenised texts.

    Args:
        ids: (B, T) int64, 0 is padding.
        types: (B, T) int64, 1 in the second text of a pair.
        lengths: (B,) int64, tokens of each text with [CLS] and [SEP].
    """

    ids: Tensor
    types: Tensor
    lengths: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: Tensor) -> "Tokens":
        """Select some texts, cut to the longest of them."""
        lengths = self.lengths[rows]
        longest = int(lengths.max())
        return Tokens(self.ids[rows, :longest], self.types[rows, :longest], lengths)


def encode(
    tokenizer: Tokenizer, texts: Sequence[str], seconds: Sequence[str] | None = None, limit: int = 128
) -> Tokens:
    """Tokenise texts, or pairs of texts as one input, cut to ``limit`` tokens."""
    tokenizer.no_padding()
    tokenizer.enable_truncation(limit)
    inputs = list(texts) if seconds is None else list(zip(texts, seconds, strict=True))
    encodings = tokenizer.encode_batch(inputs)
    lengths = torch.tensor([len(encoding.ids) for encoding in encodings])
    ids = torch.zeros(len(encodings), int(lengths.max()), dtype=torch.int64)
    types = torch.zeros_like(ids)
    for i, encoding in enumerate(encodings):
        ids[i, : lengths[i]] = torch.tensor(encoding.ids)
        types[i, : lengths[i]] = torch.tensor(encoding.type_ids)
    return Tokens(ids, types, lengths)


def batches(lengths: Tensor, size: int, generator: np.random.Generator, pool: int = 16) -> list[Tensor]:
    """Return one epoch of index batches in random order; texts of a batch have similar lengths, which saves padding.

    Args:
        lengths: (n,) tokens of each text.
        size: texts per batch.
        generator: source of the order.
        pool: number of batches whose texts are sorted by length together.
    """
    order = torch.from_numpy(generator.permutation(len(lengths)))
    epoch = [
        rows for chunk in order.split(size * pool) for rows in chunk[lengths[chunk].argsort(stable=True)].split(size)
    ]
    return [epoch[i] for i in generator.permutation(len(epoch))]
