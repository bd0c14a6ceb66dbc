"""How much of a text is read from what crosses the cut, by a cloud that has seen other texts together with theirs."""

import torch
from torch import Tensor

from models.vq.network.tokens import Tokens
from models.vq.quantiser.boundary import pooled

AT_ONCE = 4096  # tokens whose scores of the whole vocabulary are in memory together


def recovered(rows: Tensor, tokens: Tokens, pool: int, floor: float = 0.01) -> float:
    """Share of tokens that a linear discriminant reads right from the position that stands for them.

    It is fitted on every other text and scored on the rest, one for each place in a group of ``pool`` tokens; a token
    that it never saw is read wrong. First and last tokens, [CLS] and [SEP], do not count.

    Args:
        rows: (N, width), what crossed of all positions of all texts; without numbers it can but guess.
        floor: what is added to the variances within tokens, as a share of their mean.
    """
    right = total = 0
    place, position, token, own = _layout(tokens, pool)
    for at in range(pool):
        there = place == at
        z, y, fit = rows[position[there]].double(), token[there], own[there] % 2 == 0
        if not fit.any():
            continue
        known, of, counts = y[fit].unique(return_inverse=True, return_counts=True)
        means = z.new_zeros(len(known), z.shape[1]).index_add_(0, of, z[fit]) / counts[:, None]
        spread = (z[fit] - means[of]).square().mean() if z.shape[1] else z.new_zeros(())
        within = (z[fit] - means[of]).T @ (z[fit] - means[of]) / len(of)
        within += floor * (spread + 1e-12) * torch.eye(z.shape[1])
        axes = torch.linalg.solve(within, means.T)
        prior = counts.double().log() - 0.5 * (means.T * axes).sum(0)
        read = torch.cat([known[(some @ axes + prior).argmax(1)] for some in z[~fit].split(AT_ONCE)])
        right, total = right + int((read == y[~fit]).sum()), total + len(read)
    return right / max(1, total)


def _layout(tokens: Tokens, pool: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of each token that counts: its place in its group, its position among all, itself, and its text."""
    found, start = [], 0
    for text, n in enumerate(tokens.lengths.tolist()):
        at = torch.arange(1, n - 1)
        found.append(
            torch.stack([(at - 1) % pool, start + 1 + (at - 1) // pool, tokens.ids[text, 1 : n - 1], at * 0 + text])
        )
        start += pooled(n, pool)
    place, position, token, own = torch.cat(found, 1)
    return place, position, token, own
