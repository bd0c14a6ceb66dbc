"""Measure how much of a text a curious cloud can read from the exchanged activations."""

import torch
from torch import Tensor

from models.vq.network.tokens import Tokens
from models.vq.quantiser.boundary import pooled_length

CHUNK = 4096  # tokens whose scores over the vocabulary are in memory at the same time


def token_recovery(rows: Tensor, tokens: Tokens, pool: int, floor: float = 0.01) -> float:
    """Return the share of tokens that a linear discriminant recovers from their position's activations.

    It is fitted on every other text and scored on the rest, once per offset in a group of ``pool`` tokens. Tokens
    missing in the fitted texts count as errors. First and last tokens, [CLS] and [SEP], do not count.

    Args:
        rows: (N, width) activations of all positions of all texts. With width 0 it can only guess.
        tokens: the texts.
        pool: tokens per position.
        floor: added to the variances within tokens, as a share of their mean.
    """
    right = total = 0
    offset, position, token, text = _layout(tokens, pool)
    for group_offset in range(pool):
        selected = offset == group_offset
        z, y, fitted = rows[position[selected]].double(), token[selected], text[selected] % 2 == 0
        if not fitted.any():
            continue
        vocabulary, token_class, counts = y[fitted].unique(return_inverse=True, return_counts=True)
        means = z.new_zeros(len(vocabulary), z.shape[1]).index_add_(0, token_class, z[fitted]) / counts[:, None]
        spread = (z[fitted] - means[token_class]).square().mean() if z.shape[1] else z.new_zeros(())
        within = (z[fitted] - means[token_class]).T @ (z[fitted] - means[token_class]) / len(token_class)
        within += floor * (spread + 1e-12) * torch.eye(z.shape[1])
        axes = torch.linalg.solve(within, means.T)
        prior = counts.double().log() - 0.5 * (means.T * axes).sum(0)
        predicted = torch.cat([vocabulary[(chunk @ axes + prior).argmax(1)] for chunk in z[~fitted].split(CHUNK)])
        right, total = right + int((predicted == y[~fitted]).sum()), total + len(predicted)
    return right / max(1, total)


def _layout(tokens: Tokens, pool: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return, per counted token: its offset in the group, its position among all, the token, and its text."""
    parts, start = [], 0
    for text, n in enumerate(tokens.lengths.tolist()):
        i = torch.arange(1, n - 1)
        parts.append(
            torch.stack([(i - 1) % pool, start + 1 + (i - 1) // pool, tokens.ids[text, 1 : n - 1], i * 0 + text])
        )
        start += pooled_length(n, pool)
    offset, position, token, owner = torch.cat(parts, 1)
    return offset, position, token, owner
