"""Prediction intervals from the errors on left-out networks (split conformal quantile).

Source: Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World" (2005).
"""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np

from predictors.regression.metrics import Floats

COVERAGE = 0.9
STD_PER_HALF_WIDTH = 1 / 1.6449  # of a normal distribution at this coverage
FEW = 10
WIDER_FOR_FEW = 1.15


@dataclass(frozen=True, slots=True)
class Intervals:
    """How far off predictions are.

    half_width: half of the interval that covers COVERAGE of new networks, over the prediction, where the
        spread is at most the typical one; elsewhere the interval is as much wider as the spread.
    typical: the spread (of `Model.predict`) of the networks that this is known from.
    """

    half_width: float
    typical: float

    @classmethod
    def of(cls, predicted: Floats, measured: Floats, spread: Floats) -> Self:
        """From networks that were left out: `(n,)` predictions and labels in one unit, and spreads.

        Errors are divided by the root of how much wider their own intervals are. An error holds noise, which
        grows with the spread, and what the model lacks, which does not: divided by all of it, intervals hold
        too few measured networks where few were fitted; divided by nothing, too many sums with noise.
        With fewer than 9 networks no such quantile exists, and the largest error is taken, widened.
        """
        finite = spread[np.isfinite(spread)]
        typical = float(np.median(finite)) if len(finite) else 1.0
        errors = np.sort(np.abs(predicted - measured) / predicted / np.sqrt(_wider(spread, typical)))
        rank = math.ceil((len(errors) + 1) * COVERAGE)
        width = float(errors[min(rank, len(errors)) - 1])
        return cls(width * WIDER_FOR_FEW if len(errors) < FEW else width, typical)

    def std(self, mean: Floats, spread: Floats) -> Floats:
        """Standard deviations `(n,)` of which 1.64 are half an interval, wider where the spread is wide.

        The whole mean where the spread is infinite: nothing is known there.
        """
        relative = STD_PER_HALF_WIDTH * self.half_width * _wider(spread, self.typical)
        std: Floats = np.where(np.isfinite(spread), relative, 1.0) * mean
        return std


def _wider(spread: Floats, typical: float) -> Floats:
    """How many times an interval is as wide as a typical one; 1 where the spread is infinite."""
    wider: Floats = np.maximum(1.0, np.where(np.isfinite(spread), spread, typical) / typical)
    return wider


def interval(mean: Floats, std: Floats) -> tuple[Floats, Floats]:
    """The lower and upper ends `(n,)` between which COVERAGE of the values are expected."""
    half = std / STD_PER_HALF_WIDTH
    return np.maximum(mean - half, 0), mean + half
