"""Fewer positions than tokens on the wire: Funnel pooling, and repetition where every token needs an answer."""

import torch
from torch import Tensor

from models.vq.quantiser.boundary import pooled


def valid(lengths: Tensor, longest: int | None = None) -> Tensor:
    """(B,) -> bool (B, T): which positions are no padding; T is the longest unless given."""
    return torch.arange(longest or int(lengths.max())) < lengths[:, None]


def pooled_lengths(lengths: Tensor, stride: int) -> Tensor:
    """(B,) tokens -> (B,) positions."""
    return torch.tensor([pooled(n, stride) for n in lengths.tolist()])


def pool(x: Tensor, lengths: Tensor, stride: int) -> Tensor:
    """(B, T, d) -> (B, T', d): means of ``stride`` neighbours, [CLS] by itself (Funnel-Transformer, arXiv:2006.03236).

    Padding counts for nothing: a mean is over the tokens that there are, and 0 where there are none.
    """
    if stride == 1:
        return x
    first, rest = x[:, :1], x[:, 1:]
    gaps = -rest.shape[1] % stride
    there = torch.nn.functional.pad(valid(lengths, x.shape[1])[:, 1:, None].to(x.dtype), (0, 0, 0, gaps))
    rest = torch.nn.functional.pad(rest, (0, 0, 0, gaps)) * there
    sums = rest.unflatten(1, (-1, stride)).sum(2)
    return torch.cat([first, sums / there.unflatten(1, (-1, stride)).sum(2).clamp_min(1)], 1)


def upsample(h: Tensor, tokens: int, stride: int) -> Tensor:
    """(B, T', d) -> (B, tokens, d): every position but [CLS] stands for ``stride`` tokens."""
    return torch.cat([h[:, :1], h[:, 1:].repeat_interleave(stride, 1)], 1)[:, :tokens]


def flatten(x: Tensor, lengths: Tensor) -> Tensor:
    """(B, T, d) -> (sum of lengths, d): the rows that are no padding."""
    return x[valid(lengths, x.shape[1])]


def unflatten(rows: Tensor, lengths: Tensor) -> Tensor:
    """(sum of lengths, d) -> (B, T, d), padded by 0."""
    there = valid(lengths)
    return rows.new_zeros(*there.shape, rows.shape[1]).masked_scatter(there[..., None], rows)
