"""Prices of kernels that are fitted to few networks: each is pulled towards its group's, none is negative.

A group has a scale, and a kernel's price is its relative price times that scale, but for a difference that
costs `tightness` times what an error of the same size costs. Errors are relative; the whole is one
non-negative least-squares problem in prices and scales.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from predictors.devices import JSON
from predictors.regression.calibrated import Fitted
from predictors.regression.kernels import GROUPS, KERNELS
from predictors.regression.linear import LEAST_SHARE
from predictors.regression.metrics import Floats, relative_errors

# From groups alone to prices that are nearly free, and from how many networks on. Of few, the left-out ones
# are of families that the others have, and would choose prices that no other family keeps.
TIGHTNESS = {8.0: 0, 2.0: 8, 0.5: 50, 0.12: 150}
BETTER = 0.9  # a looser fit must bring the leave-one-out error down to this share
SCALE_RIDGE = 0.003
LEAST_KNOWN = 0.05  # of a group's work: of a kernel that the networks have less of, as much is assumed
LOWEST_PRICE = 0.1  # of its group's: a source device may have found a kernel to cost nothing

GROUP_OF = np.array([GROUPS.index(group) for group, _ in KERNELS.values()])
STREAMED = np.array([group == "streamed" for group, _ in KERNELS.values()])
RELATIVE = np.array([price for _, price in KERNELS.values()])


@dataclass(frozen=True, eq=False)
class Priced:
    """latency_ms = row @ prices; `prices` `(kernels,)` are not negative.

    covariance: of the prices over the noise's variance, `(kernels, kernels)`.
    tightness: with which they were fitted.  errors: mean relative leave-one-out error of what was tried.
    """

    prices: Floats
    covariance: Floats
    tightness: float
    errors: Mapping[str, float]

    def predict(self, rows: Floats) -> tuple[Floats, Floats]:
        """See `Model.predict`."""
        mean: Floats = np.maximum(rows @ self.prices, np.finfo(np.float64).tiny)
        return mean, np.sqrt(1 + np.einsum("ij,ij->i", rows @ self.covariance, rows) / mean**2)

    @property
    def why(self) -> str:
        """Which fit was taken, and by what errors."""
        tried = ", ".join(f"{name} {100 * error:.1f} %" for name, error in self.errors.items())
        return f"tightness {self.tightness:g}: leave-one-out errors are {tried}"

    def to_json(self) -> dict[str, JSON]:
        """See `Model.to_json`."""
        return {
            "prices": self.prices.tolist(),
            "covariance": self.covariance.tolist(),
            "tightness": self.tightness,
            "errors": dict(self.errors),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """What `to_json` wrote; raises ValueError, KeyError or TypeError for damage."""
        size = len(KERNELS)
        prices = np.array(data["prices"], dtype=np.float64).reshape(size)
        covariance = np.array(data["covariance"], dtype=np.float64).reshape(size, size)
        if not (np.isfinite(prices).all() and np.isfinite(covariance).all() and prices.min() >= 0):
            raise ValueError("a price is no finite number, or negative")
        errors = {str(name): float(error) for name, error in data["errors"].items()}
        return cls(prices, covariance, float(data["tightness"]), errors)


def fit_priced(rows: Floats, latency_ms: Floats, source: Floats | None = None) -> Fitted:
    """The prices of networks `(n, kernels)` with latencies `(n,)`, as tight as the left-out ones want.

    Whether weights that no cache holds have a price of their own is theirs to say, too.
    source: prices of another device, in place of the general relative ones if that is better.
    """
    begun = {"": RELATIVE} | ({} if source is None else {"source, ": _relative(source)})
    uses = {"": np.where(STREAMED, 0.0, 1.0)}
    if rows[:, STREAMED].any():
        uses["caches, "] = np.ones(len(KERNELS))
    tightness = [tight for tight, fewest in TIGHTNESS.items() if len(rows) >= fewest]
    errors: dict[str, float] = {}
    best: tuple[float, Floats, Floats, float, Floats] | None = None
    for (name, relative), (cache, used), tight in product(begun.items(), uses.items(), tightness):
        left_out = _left_out(rows * used, latency_ms, relative, tight)
        error = float(relative_errors(left_out, latency_ms).mean())
        errors[f"{name}{cache}tightness {tight:g}"] = error
        if best is None or error < BETTER * best[0]:
            best = error, relative, used, tight, left_out
    assert best is not None
    _, relative, used, tight, left_out = best
    prices, covariance = _solved(rows * used, latency_ms, relative, tight)
    model = Priced(prices * used, covariance * np.outer(used, used), tight, errors)
    return Fitted(model, left_out, model.predict(rows)[1], model.why)


def _relative(source: Floats) -> Floats:
    """Another device's prices relative to the mean of their group, none far below it."""
    relative = source.copy()
    for group in range(len(GROUPS)):
        members = group == GROUP_OF
        scale = (source[members] / RELATIVE[members]).mean()
        if scale <= 0:
            relative[members] = RELATIVE[members]
            continue
        relative[members] = np.maximum(source[members] / scale, LOWEST_PRICE * RELATIVE[members])
    return relative


def _left_out(rows: Floats, latency_ms: Floats, relative: Floats, tight: float) -> Floats:
    """Latencies in ms `(n,)`, each predicted by a fit without its network."""
    predicted = np.empty(len(rows))
    for i in range(len(rows)):
        others = np.arange(len(rows)) != i
        weights, unit = _weights(rows[others], latency_ms[others], relative, tight)[:2]
        predicted[i] = rows[i] @ (weights[: len(unit)] * unit)
    return np.maximum(predicted, LEAST_SHARE * latency_ms)


def _solved(rows: Floats, latency_ms: Floats, relative: Floats, tight: float) -> tuple[Floats, Floats]:
    """Prices, and their covariance over that of the relative noise."""
    weights, unit, matrix = _weights(rows, latency_ms, relative, tight)
    active = np.diag(weights > 0).astype(np.float64)
    inner = active @ (matrix.T @ matrix) @ active + np.eye(len(active)) * 1e-9
    inverse = (active @ np.linalg.pinv(inner) @ active)[: len(unit), : len(unit)]
    return weights[: len(unit)] * unit, inverse * np.outer(unit, unit)


def _weights(
    rows: Floats, latency_ms: Floats, relative: Floats, tight: float
) -> tuple[Floats, Floats, NDArray[np.float64]]:
    """Weights of kernels and scales of groups, what a kernel's weight of one is in ms, and the problem."""
    from scipy.optimize import nnls  # noqa: PLC0415 - takes long to import, and stored fits need none

    kernels, groups = len(RELATIVE), len(GROUPS)
    member = np.eye(groups)[GROUP_OF]
    shares = rows / latency_ms[:, None]
    norms = np.linalg.norm(shares @ (member * relative[:, None]), axis=0)
    # A group that no network has: its scale is that of the numbers moved, which is of the same order.
    norms = np.where(norms > 0, norms, np.inf)
    unit = relative / norms[GROUP_OF]
    columns = shares * unit
    pull = tight * np.maximum(np.linalg.norm(columns, axis=0), LEAST_KNOWN)
    matrix = np.block(
        [
            [columns, np.zeros((len(columns), groups))],
            [np.diag(pull), -pull[:, None] * member],
            [np.zeros((groups, kernels)), SCALE_RIDGE * np.eye(groups)],
        ]
    )
    target = np.append(np.ones(len(columns)), np.zeros(kernels + groups))
    weights: Floats = nnls(matrix, target, maxiter=30 * matrix.shape[1])[0]
    return weights, unit, matrix
