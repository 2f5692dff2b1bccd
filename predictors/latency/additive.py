"""Every option of every choice multiplies the latency by its own factor: what DyNAS-T fits, for comparison.

A ridge regression of log latency on one-hot options; its strength has the least leave-one-out error of a
grid, in closed form. It knows nothing of layers and needs some 100 networks in spaces with many choices.
Source: Cummings et al., "A Hardware-Aware Framework for Accelerating NAS Across Modalities" (2022), DyNAS-T.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from predictors.accuracy_kernels import one_hot
from predictors.devices import JSON
from predictors.regression.calibrated import Calibrated, Fitted, left_out_error
from predictors.regression.metrics import Floats, relative_errors
from search_spaces import SearchSpace

VERSION = 2  # 1 was another predictor under this name
FEWEST = 8
STRENGTHS = tuple(float(f"{strength:.3g}") for strength in np.geomspace(1e-3, 1e2, 26))
MOST_LOG = 50.0  # of what a network may take over the geometric mean


def build(space: SearchSpace, *, batch: int = 1, element_bytes: int = 4) -> Calibrated:
    """A ridge regression on the options of `space`, not fitted yet.

    batch, element_bytes: how the device runs the networks.
    """
    return Calibrated(
        kind="additive",
        version=VERSION,
        space=space,
        encode=one_hot,
        regression=Ridge(sum(len(choice.options) for choice in space.choices)),
        identity={"batch": batch, "element_bytes": element_bytes},
    )


@dataclass(frozen=True, eq=False)
class Factors:
    """log(latency_ms) = intercept + (row - centre) @ weights, all `(options,)`.

    covariance: of the weights over the noise's variance, `(options, options)`.
    """

    intercept: float
    centre: Floats
    weights: Floats
    covariance: Floats
    count: int

    def predict(self, rows: Floats) -> tuple[Floats, Floats]:
        """See `Model.predict`."""
        inputs = rows - self.centre
        logs = np.clip(inputs @ self.weights, -MOST_LOG, MOST_LOG)
        leverage = np.einsum("ij,ij->i", inputs @ self.covariance, inputs)
        mean: Floats = np.exp(self.intercept + logs)
        return mean, np.sqrt(1 + 1 / self.count + leverage)

    def to_json(self) -> dict[str, JSON]:
        """See `Model.to_json`."""
        arrays = {name: getattr(self, name).tolist() for name in ("centre", "weights", "covariance")}
        return arrays | {"intercept": self.intercept, "count": self.count}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], size: int) -> Self:
        """What `to_json` wrote, for `size` options; raises ValueError, KeyError or TypeError for damage."""
        centre = np.array(data["centre"], dtype=np.float64).reshape(size)
        weights = np.array(data["weights"], dtype=np.float64).reshape(size)
        covariance = np.array(data["covariance"], dtype=np.float64).reshape(size, size)
        intercept, count = float(data["intercept"]), int(data["count"])
        if not all(np.isfinite(array).all() for array in (centre, weights, covariance, intercept)):
            raise ValueError("a number is not finite")
        if count < 1:
            raise ValueError(f"fitted on {count} networks")
        return cls(intercept, centre, weights, covariance, count)


@dataclass(frozen=True)
class Ridge:
    """The `Regression`; see the module."""

    options: int
    minimum: int = FEWEST

    def fit(self, rows: Floats, latency_ms: Floats) -> Fitted:
        """See `Regression.fit`."""
        logs, count = np.log(latency_ms), len(rows)
        centre, intercept = rows.mean(axis=0), float(logs.mean())
        inputs, targets = rows - centre, logs - intercept
        left, values, right = np.linalg.svd(inputs, full_matrices=False)
        best = None
        for strength in STRENGTHS:
            kept = values**2 / (values**2 + strength)
            hat = np.einsum("ij,j,ij->i", left, kept, left) + 1 / count
            residual = targets - left @ (kept * (left.T @ targets))
            left_out_ms = np.exp(logs - residual / (1 - hat).clip(1e-9))
            error = float(relative_errors(left_out_ms, latency_ms).mean())
            if best is None or error < best[0]:
                best = error, strength, left_out_ms, hat
        assert best is not None, "the grid is not empty"
        _, strength, left_out_ms, hat = best
        weights = right.T @ (values / (values**2 + strength) * (left.T @ targets))
        # Directions that no network varies have only the prior's certainty: 1 / strength.
        seen = right.T @ np.diag(1 / (values**2 + strength) - 1 / strength) @ right
        covariance = seen + np.eye(len(centre)) / strength
        model = Factors(intercept, centre, weights, covariance, count)
        why = f"ridge of strength {strength:g}, {left_out_error(left_out_ms, latency_ms)}"
        return Fitted(model, left_out_ms, np.sqrt(1 / (1 - hat).clip(1e-9)), why)

    def from_json(self, data: Mapping[str, Any]) -> Factors:
        """See `Regression.from_json`."""
        return Factors.from_json(data, self.options)
