"""Non-negative linear models of latency, fitted on relative errors: the rungs of the roofline ladder.

A rung is a matrix `(features, columns)`: it says which sums of features may have a coefficient of their own.
Whatever the rung, the model is one row of coefficients, ms per unit of each feature.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from predictors.devices import JSON
from predictors.regression.calibrated import Fitted, left_out_error
from predictors.regression.metrics import Floats

FEWEST = 3
RIDGE = 0.03
LEAST_SHARE = 1e-3  # of a left-out network's latency: errors are told over predictions, which must not be 0


@dataclass(frozen=True, eq=False)
class Linear:
    """latency_ms = row @ coefficients; `coefficients` `(features,)` are not negative.

    covariance: of the coefficients over the noise's variance, `(features, features)`.
    seen: the features that some measured network has, or that the rung does not use, `(features,)`.
    """

    coefficients: Floats
    covariance: Floats
    seen: NDArray[np.bool_]

    def predict(self, rows: Floats) -> tuple[Floats, Floats]:
        """Means in ms and their spread, each `(n,)`: the standard deviation over that of a label's noise.

        Infinite for work of a kind that no measured network did.
        """
        mean: Floats = np.maximum(rows @ self.coefficients, np.finfo(np.float64).tiny)
        leverage = np.einsum("ij,ij->i", rows @ self.covariance, rows) / mean**2
        spread = np.sqrt(1 + leverage)
        if not self.seen.all():
            spread[rows[:, ~self.seen].any(axis=1)] = np.inf
        return mean, spread

    def to_json(self) -> dict[str, JSON]:
        """All of it as plain data."""
        return {
            "coefficients": self.coefficients.tolist(),
            "covariance": self.covariance.tolist(),
            "seen": self.seen.tolist(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], size: int) -> Self:
        """What `to_json` wrote, for `size` features; raises ValueError, KeyError or TypeError for damage."""
        coefficients = np.array(data["coefficients"], dtype=np.float64).reshape(size)
        covariance = np.array(data["covariance"], dtype=np.float64).reshape(size, size)
        if not (np.isfinite(coefficients).all() and np.isfinite(covariance).all()):
            raise ValueError("a number is not finite")
        return cls(coefficients, covariance, np.array(data["seen"], dtype=np.bool_).reshape(size))


def fit_linear(rows: Floats, latency_ms: Floats, rung: Floats) -> tuple[Linear, Floats, Floats]:
    """The model, and for each network what a fit without it says: means in ms and spreads, each `(n,)`.

    Rows are divided by their latency in units of the geometric mean and columns scaled to unit norm, so that
    one small ridge fits all features and devices of any speed.
    """
    columns, scale, used = _scaled(rows, latency_ms, rung)
    weights = _solve(columns)
    active = np.diag(weights > 0).astype(np.float64)
    inner = active @ (columns.T @ columns) @ active + RIDGE**2 * np.eye(len(active))
    inverse = active @ np.linalg.inv(inner) @ active
    back = rung[:, used] * scale
    model = Linear(back @ weights, back @ inverse @ back.T, np.asarray(rows.any(axis=0) | ~rung.any(axis=1)))
    leverage = np.einsum("ij,jk,ik->i", columns, inverse, columns).clip(0, 1 - 1e-9)
    return model, left_out(rows, latency_ms, rung), np.sqrt(1 / (1 - leverage))


def left_out(rows: Floats, latency_ms: Floats, rung: Floats) -> Floats:
    """Latencies in ms `(n,)`, each predicted by a fit without its network."""
    columns, _, _ = _scaled(rows, latency_ms, rung)
    shares = np.empty(len(columns))
    for i in range(len(columns)):
        shares[i] = columns[i] @ _solve(np.delete(columns, i, axis=0))
    return np.maximum(shares, LEAST_SHARE) * latency_ms


@dataclass(frozen=True)
class Line:
    """The `Regression` of predictors that know one number of a network, such as its MACs.

    On rows (number, 1); slope and intercept are fitted on relative errors and never negative.

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


def _scaled(rows: Floats, latency_ms: Floats, rung: Floats) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Columns that should sum to one in each row, factors from their weights to ms, which rung columns."""
    columns = (rows @ rung) / latency_ms[:, None]
    norms = np.linalg.norm(columns, axis=0)
    used = norms > 0
    return columns[:, used] / norms[used], 1 / norms[used], used


def _solve(columns: Floats) -> Floats:
    """Weights of the columns, none negative, that bring their sums closest to one; a small ridge."""
    from scipy.optimize import nnls  # noqa: PLC0415 - takes long to import, and stored fits need none

    size = columns.shape[1]
    matrix = np.concatenate([columns, RIDGE * np.eye(size)])
    target = np.concatenate([np.ones(len(columns)), np.zeros(size)])
    weights: Floats = nnls(matrix, target)[0]
    return weights
