"""How much each choice of a space matters for the quality: the variances of an additive model's parts.

Source: Zhou et al., "MM Algorithms for Variance Components Models" (2019); the belief that all choices matter
alike, which keeps few points from switching choices off, is ours.
"""

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from predictors._accuracy_kernels import Floats, one_hot, owners
from search_spaces import SearchSpace
from search_spaces._space import Codes

STEPS = 12
NOISE, LEAST_NOISE = 0.1, 1e-6  # share of the variance: at first, and at least
BELIEF = 1.0  # degrees of freedom of the belief that all choices matter alike


def relevances(space: SearchSpace, codes: Codes, centred: Floats, noises: Floats) -> Floats:
    """The variance that each choice contributes (choices,), 1 on average.

    centred: qualities (n,) of `codes` without their mean.  noises: variances of their noise, 1 on average.
    """
    columns, owner, count = one_hot(space, codes), owners(space), len(space.choices)
    target = centred / (float(centred.std()) or 1.0)
    parts, noise = np.full(count, 1 / count), NOISE
    for _ in range(STEPS):
        factor = cho_factor((columns * parts[owner]) @ columns.T + noise * np.diag(noises), lower=True)
        residual, inner = cho_solve(factor, target), cho_solve(factor, columns)
        explained = np.bincount(owner, np.square(columns.T @ residual), count)
        expected = np.bincount(owner, (columns * inner).sum(axis=0), count)
        mean = parts.mean()
        rise = (mean * explained + BELIEF) / (mean * expected + BELIEF * parts / mean)
        parts = parts * np.sqrt(rise)
        left = np.square(residual) @ noises / np.trace(cho_solve(factor, np.diag(noises)))
        noise = max(noise * float(np.sqrt(left)), LEAST_NOISE)
    relevance: Floats = parts / parts.mean()
    return relevance
