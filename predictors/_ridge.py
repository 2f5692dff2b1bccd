"""Bayesian ridge regression of quality, whose cost is linear in the evaluations.

Features: options one-hot; for what options do together, products of the levels of choices that follow each
other, and of every choice with the whole network's mean level. Strengths of the prior and of the noise are
those that make the evaluations most likely.
Source: MacKay, "Bayesian Interpolation" (1992), as scikit-learn has it; the features are ours.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import BayesianRidge

from predictors.accuracy import one_hot
from search_spaces import SearchSpace
from search_spaces._space import INACTIVE, Codes

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Ridge:
    """An `AccuracyPredictor`."""

    space: SearchSpace
    model: BayesianRidge

    @classmethod
    def fit(cls, space: SearchSpace, codes: Codes, quality: Floats, noises: Floats) -> Self:
        """noises: variances (n,) of the qualities' noise, relative to each other."""
        return cls(space, BayesianRidge().fit(features(space, codes), quality, sample_weight=1 / noises))

    def predict(self, codes: Codes) -> tuple[Floats, Floats]:
        """Mean and standard deviation (n,) each; the latter without the noise of an evaluation."""
        mean, std = self.model.predict(features(self.space, codes), return_std=True)
        return mean, np.sqrt(np.maximum(np.square(std) - 1 / self.model.alpha_, 0))

    def mean(self, codes: Codes) -> Floats:
        """The mean alone (n,), which is cheaper."""
        mean: Floats = self.model.predict(features(self.space, codes))
        return mean


def features(space: SearchSpace, codes: Codes) -> Floats:
    """(n, features): one-hot options, products of neighbours, products with the mean level."""
    last = np.array([max(len(choice.options) - 1, 1) for choice in space.choices])
    levels = np.where(codes == INACTIVE, 0, 2 * codes / last - 1)
    whole = levels.mean(axis=1, keepdims=True)
    return np.concatenate(
        [one_hot(space, codes), levels[:, 1:] * levels[:, :-1], levels * whole, whole**2], axis=1
    )
