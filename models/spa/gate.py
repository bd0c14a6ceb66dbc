"""The gate: one linear score of the base's last state that decides, before the side runs, whether to call the side.

    a = w.z + c,  z = (b - mean) / std over calibration tokens,  p = sigmoid(a),  g = [a > tau]

After fitting, mean and std are folded into w and c. Without standardisation the gate saturates, because dimensions of b
differ by orders of magnitude. The base is frozen and teacher-forced. Both losses of a training token are therefore
known, and no estimator of a discrete choice is needed: `fit_gate` is a convex problem. The joint objectives serve as
baselines.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Tensor

RIDGE = 1e-3  # on w in standardised units, so that separable tokens have a finite solution


@dataclass(frozen=True)
class Gate:
    """A gate in the form that is sent: weight (d,), bias, and the threshold tau, which may change after training."""

    weight: Tensor
    bias: Tensor
    tau: float = 0.0

    def score(self, b: Tensor) -> Tensor:
        """Compute a (...,) of states b (..., d)."""
        return b @ self.weight + self.bias

    def opens(self, b: Tensor) -> Tensor:
        """Compute g (...,): whether to call the side."""
        return self.score(b) > self.tau

    @classmethod
    def constant(cls, width: int, open_: bool) -> "Gate":
        """Return a gate that always or never opens."""
        return cls(torch.zeros(width), torch.tensor(1.0 if open_ else -1.0))


@dataclass(frozen=True)
class Standardiser:
    """Mean and std (d,) of calibration tokens."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, b: Tensor) -> "Standardiser":
        """Compute mean and std of states (N, d); a constant dimension gets std 1."""
        std = b.std(0, correction=0)
        return cls(b.mean(0), torch.where(std > 1e-6, std, 1.0))

    def __call__(self, b: Tensor) -> Tensor:
        return (b - self.mean) / self.std

    def fold(self, w: Tensor, c: Tensor) -> Gate:
        """Convert a gate (w, c) for standardised b into a gate for raw b."""
        weight = w / self.std
        return Gate(weight, c - weight @ self.mean)


def fit_gate(b: Tensor, base_loss: Tensor, side_loss: Tensor, price: float, ridge: float = RIDGE) -> Gate:
    """Fit the gate in two stages: weighted logistic regression on whether the side's gain exceeds its price.

        min over w, c of  mean_t |u_t| log(1 + exp(-sign(u_t) a_t)) / mean_t |u_t| + ridge / 2 |w|^2,
        u_t = base_loss_t - side_loss_t - price

    Args:
        b: (N, d) states of tokens, preferably not the side's training tokens, on which its loss is too low.
        base_loss, side_loss: (N,) nats, without and with the side.
        price: of a call, nats.
        ridge: weight of the penalty.
    """
    standard = Standardiser.of(b)
    z = standard(b).double().numpy()
    gain = (base_loss - side_loss - price).double().numpy()
    sign, weight = np.sign(gain), np.abs(gain) / max(np.abs(gain).mean(), 1e-12) / len(gain)

    def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
        a = z @ x[:-1] + x[-1]
        loss = weight @ np.logaddexp(0, -sign * a) + ridge / 2 * x[:-1] @ x[:-1]
        slope = -weight * sign / (1 + np.exp(np.clip(sign * a, -500, 500)))
        return float(loss), np.append(z.T @ slope + ridge * x[:-1], slope.sum())

    # bound the intercept, because all tokens may be on one side
    bounds = [(None, None)] * z.shape[1] + [(-1e3, 1e3)]
    optimum = minimize(objective, np.zeros(z.shape[1] + 1), jac=True, method="L-BFGS-B", bounds=bounds).x
    return standard.fold(torch.from_numpy(optimum[:-1]).float(), torch.tensor(optimum[-1]).float())


def threshold(scores: Tensor, share: float) -> float:
    """Return the tau at which at most a ``share`` of the calibration tokens calls the side; scores (N,)."""
    descending = scores.sort(descending=True).values
    count = min(len(descending), math.floor(share * len(descending) + 1e-9))
    return float(descending[count]) if count < len(descending) else -math.inf


# Joint objectives, (N,) per token: from losses (N,) without and with the side, scores a (N,), price. Lower is better.


def mixture(base_loss: Tensor, side_loss: Tensor, a: Tensor, price: float) -> Tensor:
    """Compute -log( p P_side(y) + (1 - p) P_base(y) ) + price p; the branch is a latent variable."""
    either = torch.stack([F.logsigmoid(a) - side_loss, F.logsigmoid(-a) - base_loss])
    return -either.logsumexp(0) + price * a.sigmoid()


def expectation(base_loss: Tensor, side_loss: Tensor, a: Tensor, price: float) -> Tensor:
    """Compute p side_loss + (1 - p) base_loss + price p, the exact expected loss of a random gate."""
    p = a.sigmoid()
    return p * side_loss + (1 - p) * base_loss + price * p


Joint = Callable[[Tensor, Tensor, Tensor, float], Tensor]
JOINT: dict[str, Joint] = {"mixture": mixture, "expectation": expectation}


def straight_through(a: Tensor) -> Tensor:
    """Return g = [a > 0] (N,) in the forward pass, with the gradient of p = sigmoid(a)."""
    p = a.sigmoid()
    return (a > 0).to(p.dtype) + p - p.detach()
