"""Bayesian ridge regression of quality, by normal equations: what it costs grows as the evaluations do.

Its priors are those that make the evaluations most likely.
Source: MacKay, "Bayesian Interpolation" (1992); the features are ours.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.linalg import eigh

from predictors.accuracy_kernels import Floats, one_hot
from search_spaces import SearchSpace
from search_spaces.space import INACTIVE, Codes

ROUNDS, ENOUGH = 300, 1e-3  # at most, and the change of all weights together after which none follows
BELIEF = 1e-6  # shape and rate of what is believed of both precisions


@dataclass(frozen=True, eq=False)
class Ridge:
    """Architectures to quality, an `AccuracyPredictor`: a line over `features` with a normal posterior.

    directions: in which the evaluations differ, (features, k).  precisions: those of the weights along
    them, (k,).  prior: that along all others.
    """

    space: SearchSpace
    offset: Floats  # (features,)
    centre: float
    weights: Floats  # (features,)
    directions: Floats
    precisions: Floats
    prior: float

    @classmethod
    def fit(cls, space: SearchSpace, codes: Codes, quality: Floats, noises: Floats) -> Self:
        """noises: variances (n,) of the qualities' noise, relative to each other."""
        counts = 1 / noises
        rows = features(space, codes)
        offset, centre = np.average(rows, axis=0, weights=counts), float(np.average(quality, weights=counts))
        rows, target = (rows - offset) * np.sqrt(counts)[:, None], (quality - centre) * np.sqrt(counts)
        strengths, directions = _axes(rows)
        along = directions.T @ (rows.T @ target)
        prior, exact, weights = _believed(strengths, directions, along, float(target @ target), counts.sum())
        return cls(space, offset, centre, weights, directions, exact * strengths + prior, prior)

    def predict(self, codes: Codes) -> tuple[Floats, Floats]:
        """Mean and standard deviation (n,) each; the latter without the noise of an evaluation."""
        rows = self._rows(codes)
        return self.centre + rows @ self.weights, np.sqrt(self._variances(rows))

    def mean(self, codes: Codes) -> Floats:
        """The mean alone (n,), which is cheaper."""
        mean: Floats = self.centre + self._rows(codes) @ self.weights
        return mean

    def difference(self, codes: Codes, other: Codes) -> tuple[Floats, Floats]:
        """Mean and standard deviation (n,) of how much better each is than one other (1, choices)."""
        apart = self._rows(codes) - self._rows(other)
        mean: Floats = apart @ self.weights
        return mean, np.sqrt(self._variances(apart))

    def joint(self, codes: Codes) -> tuple[Floats, Floats]:
        """Mean (n,) and covariance (n, n)."""
        rows = self._rows(codes)
        along = rows @ self.directions
        covariance: Floats = (along / self.precisions) @ along.T + (
            rows @ rows.T - along @ along.T
        ) / self.prior
        return self.centre + rows @ self.weights, covariance

    def _rows(self, codes: Codes) -> Floats:
        rows: Floats = features(self.space, codes) - self.offset
        return rows

    def _variances(self, rows: Floats) -> Floats:
        """Of what the weights add up to on rows (n, features)."""
        along = np.square(rows @ self.directions)
        others = np.maximum(np.square(rows).sum(axis=1) - along.sum(axis=1), 0)
        variances: Floats = along @ (1 / self.precisions) + others / self.prior
        return variances


def _axes(rows: Floats) -> tuple[Floats, Floats]:
    """Squared singular values (k,) and right singular vectors (features, k), by the smaller square."""
    count, width = rows.shape
    if count >= width:
        strengths, directions = eigh(rows.T @ rows, driver="evd")
        return np.maximum(strengths, 0), directions
    strengths, turned = eigh(rows @ rows.T, driver="evd")
    kept = strengths > np.finfo(np.float64).eps * count * strengths[-1]
    return strengths[kept], rows.T @ turned[:, kept] / np.sqrt(strengths[kept])


def _believed(
    strengths: Floats, directions: Floats, along: Floats, whole: float, count: float
) -> tuple[float, float, Floats]:
    """The precision of the weights beforehand, that of an evaluation, and the weights (features,).

    Both begin and end where they do in scikit-learn's `BayesianRidge`.
    along: the rows times the target, along the axes (k,).  whole: the target's square.  count: of all.
    """
    prior, exact = 1.0, 1 / (whole / count + float(np.finfo(np.float64).eps))
    before, weights = np.full(len(directions), np.inf), directions @ (along / (strengths + prior / exact))
    for _ in range(ROUNDS):
        change = np.abs(weights - before).sum()
        ratio = prior / exact
        explained = np.square(along) * (strengths + 2 * ratio) / np.square(strengths + ratio)
        determined = float((strengths / (strengths + ratio)).sum())
        prior = (determined + 2 * BELIEF) / (float(np.square(weights).sum()) + 2 * BELIEF)
        exact = (count - determined + 2 * BELIEF) / (max(whole - float(explained.sum()), 0) + 2 * BELIEF)
        before, weights = weights, directions @ (along / (strengths + prior / exact))
        if change < ENOUGH:
            break
    return prior, exact, weights


def features(space: SearchSpace, codes: Codes) -> Floats:
    """(n, features): options one-hot, and for what they do together products of the choices' levels.

    Of choices that follow each other, and of every choice with the whole network's mean level.
    """
    last = np.array([max(len(choice.options) - 1, 1) for choice in space.choices])
    levels = np.where(codes == INACTIVE, 0, 2 * codes / last - 1)
    whole = levels.mean(axis=1, keepdims=True)
    return np.concatenate(
        [one_hot(space, codes), levels[:, 1:] * levels[:, :-1], levels * whole, whole**2], axis=1
    )
