"""The `Regression` of predictors that know one number of a network, such as its MACs: a line."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from predictors._calibrated import Fitted, left_out_error
from predictors._linear import Linear, fit_linear
from predictors._metrics import Floats

FEWEST = 3


@dataclass(frozen=True)
class Line:
    """On rows (number, 1); slope and intercept are fitted on relative errors and never negative.

    unit: of `per` of the number, for people.
    """

    unit: str
    per: float = 1.0
    minimum: int = FEWEST

    def fit(self, rows: Floats, latency_ms: Floats) -> Fitted:
        """See `Regression.fit`."""
        linear, left_out, spread = fit_linear(rows, latency_ms, np.eye(2))
        slope, intercept = linear.coefficients
        line = f"{self.per * slope:.3g} ms per {self.unit} and {intercept:.3g} ms"
        return Fitted(linear, left_out, spread, f"{line}, {left_out_error(left_out, latency_ms)}")

    def from_json(self, data: Mapping[str, Any]) -> Linear:
        """See `Regression.from_json`."""
        return Linear.from_json(data, 2)
