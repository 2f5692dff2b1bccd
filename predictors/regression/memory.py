"""Peak memory of a forward pass, predicted from the measured peaks of some networks on one device.

The peak is nearly the weights plus the largest working set of one layer; how much of each a runtime holds at
once is fitted, with the same non-negative regression as latency.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np

from predictors.predictor import Predictor
from predictors.regression.calibrated import Calibrated, Fitted, left_out_error
from predictors.regression.features import Features, Workload
from predictors.regression.linear import Linear, fit_linear
from predictors.regression.metrics import Floats
from search_spaces import SearchSpace
from search_spaces.layers import Layer
from search_spaces.space import Codes

VERSION = 1
FEWEST = 6
TERMS = ("weight_bytes", "written_bytes", "largest_layer_bytes", "largest_output_bytes", "constant")
WEIGHT_BYTES = 4


def build(space: SearchSpace, *, batch: int = 1, element_bytes: int = 4) -> Predictor:
    """A predictor of peak memory in bytes for networks of `space`, not fitted yet."""
    return Calibrated(
        kind="memory",
        version=VERSION,
        space=space,
        encode=partial(_encode, Workload(batch, element_bytes)),
        regression=NonNegative(),
        identity={"terms": list(TERMS), "batch": batch, "element_bytes": element_bytes},
    )


@dataclass(frozen=True)
class NonNegative:
    """The `Regression` whose terms all have a coefficient of their own."""

    minimum: int = FEWEST

    def fit(self, rows: Floats, values: Floats) -> Fitted:
        """See `Regression.fit`."""
        model, left_out, spread = fit_linear(rows, values, np.eye(len(TERMS)))
        return Fitted(model, left_out, spread, left_out_error(left_out, values))

    def from_json(self, data: Mapping[str, Any]) -> Linear:
        """See `Regression.from_json`."""
        return Linear.from_json(data, len(TERMS))


def _encode(workload: Workload, space: SearchSpace, codes: Codes) -> Floats:
    sums, largest = _of_layer(workload)
    columns = [space.totals(codes, sums), space.maxima(codes, largest), np.ones((len(codes), 1))]
    return np.concatenate(columns, axis=1, dtype=np.float64)


@lru_cache(maxsize=64)
def _of_layer(workload: Workload) -> tuple[Features, Features]:
    """What is summed and what the maximum is taken of; one pair for each workload, as spaces keep tables."""
    scale = workload.batch * workload.element_bytes

    def sums(layer: Layer) -> tuple[int, ...]:
        return layer.params * WEIGHT_BYTES, layer.output_elements * scale

    def largest(layer: Layer) -> tuple[int, ...]:
        return (layer.input_elements + layer.output_elements) * scale, layer.output_elements * scale

    return sums, largest
