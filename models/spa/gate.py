"""The gate: one linear score of the base's last state that says, before the side runs, whether to ask it.

    a = w.z + c,  z = (b - mean) / std over calibration tokens,  p = sigmoid(a),  g = [a > tau]

Mean and std are folded into w and c once fitted. Unstandardised the gate saturates: dimensions of b differ by orders of
magnitude. The base is frozen and teacher-forced, so both losses of a training token are known and no estimator of a
discrete choice is needed: `fit_gate` is a convex problem. The joint objectives are here for comparison.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Tensor

RIDGE = 1e-3  # on w in standardised units, so that separable tokens have a finite answer


@dataclass(frozen=True)
class Gate:
    """A gate as it is sent: weight (d,), bias, and the threshold tau, which may be moved after training."""

    weight: Tensor
    bias: Tensor
    tau: float = 0.0

    def score(self, b: Tensor) -> Tensor:
        """a (...,) of states b (..., d)."""
        return b @ self.weight + self.bias

    def opens(self, b: Tensor) -> Tensor:
        """g (...,): whether the side is asked."""
        return self.score(b) > self.tau

    @classmethod
    def constant(cls, width: int, open_: bool) -> "Gate":
        """A gate that always or never opens."""
        return cls(torch.zeros(width), torch.tensor(1.0 if open_ else -1.0))


@dataclass(frozen=True)
class Standard:
    """Mean and std (d,) of calibration tokens."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, b: Tensor) -> "Standard":
        """Of states (N, d); a dimension that never varies is left as it is."""
        std = b.std(0, correction=0)
        return cls(b.mean(0), torch.where(std > 1e-6, std, 1.0))

    def __call__(self, b: Tensor) -> Tensor:
        return (b - self.mean) / self.std

    def folded(self, w: Tensor, c: Tensor) -> Gate:
        """The gate on raw b that is the gate (w, c) on standardised b."""
        weight = w / self.std
        return Gate(weight, c - weight @ self.mean)


def fit_gate(b: Tensor, base_loss: Tensor, side_loss: Tensor, price: float, ridge: float = RIDGE) -> Gate:
    """The two-stage fit: weighted logistic regression on whether the side is worth its price.

        min over w, c of  mean_t |u_t| log(1 + exp(-sign(u_t) a_t)) / mean_t |u_t| + ridge / 2 |w|^2,
        u_t = base_loss_t - side_loss_t - price

    Args:
        b: (N, d) of tokens, better not those that the side was trained on, where it looks better than it is.
        base_loss, side_loss: (N,) nats, without and with the side.
        price: of a call, nats.
    """
    standard = Standard.of(b)
    z = standard(b).double().numpy()
    worth = (base_loss - side_loss - price).double().numpy()
    sign, weight = np.sign(worth), np.abs(worth) / max(np.abs(worth).mean(), 1e-12) / len(worth)

    def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
        a = z @ x[:-1] + x[-1]
        loss = weight @ np.logaddexp(0, -sign * a) + ridge / 2 * x[:-1] @ x[:-1]
        slope = -weight * sign / (1 + np.exp(np.clip(sign * a, -500, 500)))
        return float(loss), np.append(z.T @ slope + ridge * x[:-1], slope.sum())

    # the intercept is bounded for the case that all tokens are on one side
    bounds = [(None, None)] * z.shape[1] + [(-1e3, 1e3)]
    found = minimize(objective, np.zeros(z.shape[1] + 1), jac=True, method="L-BFGS-B", bounds=bounds).x
    return standard.folded(torch.from_numpy(found[:-1]).float(), torch.tensor(found[-1]).float())


def threshold(scores: Tensor, share: float) -> float:
    """The tau at which a ``share`` of calibration tokens, no more, is asked about; scores (N,)."""
    ordered = scores.sort(descending=True).values
    count = min(len(ordered), math.floor(share * len(ordered) + 1e-9))
    return float(ordered[count]) if count < len(ordered) else -math.inf


# Joint objectives, (N,) per token: of losses (N,) without and with the side, scores a (N,), price. Lower is better.


def mixture(base_loss: Tensor, side_loss: Tensor, a: Tensor, price: float) -> Tensor:
    """-log( p P_side(y) + (1 - p) P_base(y) ) + price p: which branch speaks is a latent variable."""
    either = torch.stack([F.logsigmoid(a) - side_loss, F.logsigmoid(-a) - base_loss])
    return -either.logsumexp(0) + price * a.sigmoid()


def expectation(base_loss: Tensor, side_loss: Tensor, a: Tensor, price: float) -> Tensor:
    """p side_loss + (1 - p) base_loss + price p: the exact expected loss of a gate that tosses a coin."""
    p = a.sigmoid()
    return p * side_loss + (1 - p) * base_loss + price * p


Joint = Callable[[Tensor, Tensor, Tensor, float], Tensor]
JOINT: dict[str, Joint] = {"mixture": mixture, "expectation": expectation}


def straight_through(a: Tensor) -> Tensor:
    """g = [a > 0] (N,) going forward, p = sigmoid(a) going backward."""
    p = a.sigmoid()
    return (a > 0).to(p.dtype) + p - p.detach()
