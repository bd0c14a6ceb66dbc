"""GradNorm (Chen et al., arXiv:1711.02257): loss weights of several tasks, so that all learn at a similar rate.

With G_t = w_t ||grad_W L_t|| over the last shared layer W, the weights minimise sum_t |G_t - mean(G) r_t^alpha|, whose
second term is held constant. The gradient in w_t is sign(G_t - ...) ||grad_W L_t||. No second backward pass is needed,
and a server can compute it from the norms and losses that clients report.
"""

from torch import Tensor


def slope(weights: Tensor, norms: Tensor, losses: Tensor, first: Tensor, alpha: float = 1.5) -> Tensor:
    """Compute the gradient in the weights, (tasks,).

    Args:
        weights: w_t, (tasks,).
        norms: ||grad_W L_t|| without the weight, (tasks,).
        losses: current losses, (tasks,).
        first: initial losses, (tasks,).
        alpha: how strongly a slow task is favoured.
    """
    ratio = losses / first
    weighted_norms = weights * norms
    target = weighted_norms.mean() * (ratio / ratio.mean()) ** alpha
    return (weighted_norms - target).sign() * norms


def reweigh(
    weights: Tensor, norms: Tensor, losses: Tensor, first: Tensor, alpha: float = 1.5, lr: float = 0.025
) -> Tensor:
    """Compute the next weights: positive, with the number of tasks as their sum."""
    updated = (weights - lr * slope(weights, norms, losses, first, alpha)).clamp_min(1e-3)
    return updated * len(updated) / updated.sum()
