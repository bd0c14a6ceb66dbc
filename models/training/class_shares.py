"""A client's class shares from few samples, by empirical Bayes.

Counts n_c of n samples follow a Dirichlet-multinomial distribution around the cloud's shares q:
p ~ Dirichlet(A q), n_c ~ Multinomial(n, p). The concentration A says how much a client differs from the cloud. Its
value of highest likelihood, given the client's counts alone, and the posterior mean of p are

    A = argmax log B(n + A q) / B(A q),    p_c = (n_c + A q_c) / (n + A)

A client whose samples look like the cloud's gets the cloud's shares; one with two classes of ten nearly keeps its own.
Counts alone would make a class impossible that none of 25 samples happens to have.
"""

import numpy as np
from scipy.special import gammaln

GRID = np.logspace(-2, 5, 141)  # concentrations that are tried


def posterior_shares(counts: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the posterior mean (K,) of class shares.

    Args:
        counts: (K,) how many samples a client has of each class.
        reference: (K,) the cloud's class shares, each above 0.
    """
    prior = GRID[:, None] * (reference / reference.sum())  # (grid, K)
    fit = gammaln(GRID) - gammaln(counts.sum() + GRID) + (gammaln(counts + prior) - gammaln(prior)).sum(axis=1)
    best = prior[fit.argmax()]
    return np.asarray((counts + best) / (counts.sum() + best.sum()))
