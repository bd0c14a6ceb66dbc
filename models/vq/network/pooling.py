"""Fewer positions than tokens in a message: Funnel pooling, and upsampling for outputs per token."""

import torch
from torch import Tensor

from models.vq.quantiser.boundary import pooled_length


def valid(lengths: Tensor, longest: int | None = None) -> Tensor:
    """Return which positions are not padding, (B,) -> bool (B, T); T is the longest length by default."""
    return torch.arange(longest or int(lengths.max())) < lengths[:, None]


def pooled_lengths(lengths: Tensor, stride: int) -> Tensor:
    """Convert numbers of tokens (B,) into numbers of positions (B,)."""
    return torch.tensor([pooled_length(n, stride) for n in lengths.tolist()])


def pool(x: Tensor, lengths: Tensor, stride: int) -> Tensor:
    """Average ``stride`` neighbours, [CLS] excepted (Funnel-Transformer, arXiv:2006.03236). (B, T, d) -> (B, T', d).

    Padding does not count: a mean covers only the tokens of the text, and is 0 without any.
    """
    if stride == 1:
        return x
    first, rest = x[:, :1], x[:, 1:]
    padding = -rest.shape[1] % stride
    mask = torch.nn.functional.pad(valid(lengths, x.shape[1])[:, 1:, None].to(x.dtype), (0, 0, 0, padding))
    rest = torch.nn.functional.pad(rest, (0, 0, 0, padding)) * mask
    sums = rest.unflatten(1, (-1, stride)).sum(2)
    return torch.cat([first, sums / mask.unflatten(1, (-1, stride)).sum(2).clamp_min(1)], 1)


def upsample(h: Tensor, tokens: int, stride: int) -> Tensor:
    """Repeat every position but [CLS] for its ``stride`` tokens. (B, T', d) -> (B, tokens, d)."""
    return torch.cat([h[:, :1], h[:, 1:].repeat_interleave(stride, 1)], 1)[:, :tokens]


def flatten(x: Tensor, lengths: Tensor) -> Tensor:
    """Select the rows that are not padding. (B, T, d) -> (sum of lengths, d)."""
    return x[valid(lengths, x.shape[1])]


def unflatten(rows: Tensor, lengths: Tensor) -> Tensor:
    """Pad rows with zeros. (sum of lengths, d) -> (B, T, d)."""
    mask = valid(lengths)
    return rows.new_zeros(*mask.shape, rows.shape[1]).masked_scatter(mask[..., None], rows)
