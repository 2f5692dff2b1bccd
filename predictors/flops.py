"""Latency as a line in multiply-accumulates: what most published searches assume, for comparison.

Slope and intercept are fitted on relative errors and never negative; good from 3 measured networks on, where
all networks do their work in the same kinds of layers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from predictors._calibrated import Calibrated, Fitted, left_out_error
from predictors._linear import Linear, fit_linear
from predictors._metrics import Floats
from predictors._predictor import Predictor
from search_spaces import SearchSpace
from search_spaces._space import Codes

VERSION = 1
FEWEST = 3


def build(space: SearchSpace, *, batch: int = 1, element_bytes: int = 4) -> Predictor:
    """A line in MACs for networks of `space`, not fitted yet.

    batch, element_bytes: how the device runs the networks.
    """
    return Calibrated(
        kind="flops",
        version=VERSION,
        space=space,
        encode=partial(_encode, batch),
        regression=Line(),
        identity={"batch": batch, "element_bytes": element_bytes},
    )


@dataclass(frozen=True)
class Line:
    """The `Regression` on rows (MACs of a batch, 1)."""

    minimum: int = FEWEST

    def fit(self, rows: Floats, latency_ms: Floats) -> Fitted:
        """See `Regression.fit`."""
        linear, left_out, spread = fit_linear(rows, latency_ms, np.eye(2))
        slope, intercept = linear.coefficients
        line = f"{1e9 * slope:.3g} ms per GMAC and {intercept:.3g} ms"
        return Fitted(linear, left_out, spread, f"{line}, {left_out_error(left_out, latency_ms)}")

    def from_json(self, data: Mapping[str, Any]) -> Linear:
        """See `Regression.from_json`."""
        return Linear.from_json(dict(data), 2)


def _encode(batch: int, space: SearchSpace, codes: Codes) -> Floats:
    macs = batch * space.costs(codes)["macs"].astype(np.float64)
    return np.stack([macs, np.ones(len(codes))], axis=1)
