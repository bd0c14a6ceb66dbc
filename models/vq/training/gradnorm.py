"""GradNorm (Chen et al., arXiv:1711.02257): weights of several tasks' losses, so that all learn at a like pace.

With G_t = w_t ||grad_W L_t|| over the last shared layer W, the weights follow sum_t |G_t - mean(G) r_t^alpha|, whose
second term is held fixed. Its gradient in w_t is sign(G_t - ...) ||grad_W L_t||, so no second backward pass is needed,
and a server can do it from the norms and losses that devices report.
"""

from torch import Tensor


def slope(weights: Tensor, norms: Tensor, losses: Tensor, first: Tensor, alpha: float = 1.5) -> Tensor:
    """(tasks,): the gradient in the weights.

    Args:
        weights: w_t; norms: ||grad_W L_t|| without the weight; losses: now; first: at the start, all (tasks,).
        alpha: how strongly a task that lags is favoured.
    """
    ratio = losses / first
    own = weights * norms
    wanted = own.mean() * (ratio / ratio.mean()) ** alpha
    return (own - wanted).sign() * norms


def reweigh(
    weights: Tensor, norms: Tensor, losses: Tensor, first: Tensor, alpha: float = 1.5, lr: float = 0.025
) -> Tensor:
    """The next weights: positive, and as many in sum as there are tasks."""
    moved = (weights - lr * slope(weights, norms, losses, first, alpha)).clamp_min(1e-3)
    return moved * len(moved) / moved.sum()
