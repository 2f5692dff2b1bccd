"""How good a prediction is, and how well two measurements agree.

Every share and error is a fraction, not a percentage.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Score:
    """Predictions against measurements.

    mape: mean absolute relative error.  within_10, within_5: share with an error of at most 10 % and 5 %.
    tau: Kendall's rank correlation.  count: subnets scored.
    """

    mape: float
    within_10: float
    within_5: float
    tau: float
    count: int


def score(predicted: Floats, measured: Floats) -> Score:
    """`predicted` against `measured`, both `(n,)` and in the same unit, `measured` positive."""
    errors = relative_errors(predicted, measured)
    return Score(
        mape=float(errors.mean()),
        within_10=float((errors <= 0.10).mean()),
        within_5=float((errors <= 0.05).mean()),
        tau=rank_correlation(predicted, measured),
        count=len(errors),
    )


def relative_errors(predicted: Floats, measured: Floats) -> Floats:
    """|predicted - measured| / measured, `(n,)`."""
    errors: Floats = np.abs(predicted - measured) / measured
    return errors


def rank_correlation(a: Floats, b: Floats) -> float:
    """Kendall's tau-b in [-1, 1]; 0 where one side is constant or has fewer than two values."""
    from scipy.stats import kendalltau  # noqa: PLC0415 - takes a second to import

    tau = float(kendalltau(a, b).statistic) if len(a) > 1 else math.nan
    return 0.0 if math.isnan(tau) else tau
