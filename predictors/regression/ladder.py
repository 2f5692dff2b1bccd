"""The roofline ladder: non-negative fits with ever more features, of which left-out networks choose one."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from predictors.devices import JSON
from predictors.regression.calibrated import Fitted
from predictors.regression.features import FEATURES, MACS, WORK
from predictors.regression.linear import Linear, fit_linear
from predictors.regression.metrics import Floats, relative_errors
from predictors.regression.residual import FEWEST, Residual, fit_residual
from search_spaces.errors import UsageError

FEWEST_ANY, FEWEST_WORK, FEWEST_STEPS = 3, 8, 16
BETTER = 0.9  # a later rung must bring the leave-one-out error down to this share of an earlier one's


def source_coefficients(state: Mapping[str, Any]) -> Floats:
    """The coefficients `(features,)` of a saved roofline predictor, or of `auto` that took one.

    Raises UsageError for another predictor and for damage.
    """
    taken = state.get("taken")
    if state.get("predictor") == "auto" and isinstance(taken, Mapping):
        state = taken
    if state.get("predictor") != "roofline" or state.get("features") != list(FEATURES):
        raise UsageError(
            f"Only a roofline predictor of this version has costs to read, not '{state.get('predictor')}'."
        )
    return saved_features(state, "coefficients")


def saved_features(state: Mapping[str, Any], name: str) -> Floats:
    """One of the model's arrays `(features,)` in a saved roofline predictor; raises UsageError for damage."""
    try:
        values = np.array(state["model"][name], dtype=np.float64).reshape(len(FEATURES))
        if not np.isfinite(values).all():
            raise ValueError(f"{name} is not finite")
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"The saved latency predictor is damaged: {error}.", "Fit it again.") from error
    return values


class Rung(NamedTuple):
    """A step of the ladder: name, the numbers of networks it is for, columns `(features, columns)`."""

    name: str
    networks: range
    columns: Floats


def rungs(prior: Floats | None = None) -> list[Rung]:
    """The ladder from its foot, with a rung for another device's coefficients where there are some."""
    each = np.eye(len(FEATURES))
    constant = each[:, [FEATURES.index("constant")]]
    macs = each[:, [FEATURES.index(name) for name in MACS]].sum(axis=1, keepdims=True)
    work = np.concatenate([each[:, : len(WORK)], constant], axis=1)
    ladder = [
        Rung("MACs", range(FEWEST_ANY, FEWEST_WORK), np.concatenate([macs, constant], axis=1)),
        Rung("work", range(FEWEST_WORK, sys.maxsize), work),
        Rung("work and memory steps", range(FEWEST_STEPS, sys.maxsize), each),
    ]
    if prior is not None:
        both = np.concatenate([prior[:, None], work], axis=1)
        # First where errors on left-out networks are of too few to be told apart, last where they can be.
        scaled = "the source device, scaled"
        ladder.insert(0, Rung(scaled, range(FEWEST_ANY, FEWEST_WORK), prior[:, None]))
        ladder.append(Rung(scaled, range(FEWEST_WORK, sys.maxsize), prior[:, None]))
        ladder.append(Rung("the source device and work", range(FEWEST_WORK, sys.maxsize), both))
    return ladder


@dataclass(frozen=True, eq=False)
class Roofline:
    """The linear model of one rung and, where it helps, a Gaussian process on its relative residuals.

    errors: mean relative leave-one-out error by the name of each rung that was tried.
    work_per_ms: what the fitted networks do in a millisecond, on average; `(features,)`.
    """

    rung: str
    errors: Mapping[str, float]
    linear: Linear
    work_per_ms: Floats
    residual: Residual | None = None

    def predict(self, rows: Floats) -> tuple[Floats, Floats]:
        """See `Model.predict`."""
        mean, spread = self.linear.predict(rows)
        return (mean if self.residual is None else mean * self.residual.factor(rows)), spread

    @property
    def why(self) -> str:
        """Which rung was taken, and by what errors."""
        tried = ", ".join(f"{name} {100 * error:.1f} %" for name, error in self.errors.items())
        return f"{self.rung}: leave-one-out errors are {tried}"

    def to_json(self) -> dict[str, JSON]:
        """See `Model.to_json`."""
        residual = None if self.residual is None else self.residual.to_json()
        state: dict[str, JSON] = {"rung": self.rung, "errors": dict(self.errors), "residual": residual}
        return state | self.linear.to_json() | {"work_per_ms": self.work_per_ms.tolist()}


@dataclass(frozen=True, eq=False)
class Ladder:
    """The `Regression` that chooses a rung; `prior` are another device's coefficients `(features,)`."""

    prior: Floats | None = None
    minimum: int = FEWEST_ANY

    def fit(self, rows: Floats, latency_ms: Floats) -> Fitted:
        """See `Regression.fit`."""
        tried = [
            (rung.name, fit_linear(rows, latency_ms, rung.columns))
            for rung in rungs(self.prior)
            if len(rows) in rung.networks
        ]
        errors = {name: _error(left_out, latency_ms) for name, (_, left_out, _) in tried}
        name, (linear, left_out, spread) = tried[0]
        for other, fitted in tried[1:]:
            if errors[other] < BETTER * errors[name]:
                name, (linear, left_out, spread) = other, fitted
        work_per_ms = (rows / linear.predict(rows)[0][:, None]).mean(axis=0)
        if len(rows) >= FEWEST:
            residual, corrected = fit_residual(rows, latency_ms, left_out)
            errors["a Gaussian process on the rest"] = _error(corrected, latency_ms)
            if errors["a Gaussian process on the rest"] < BETTER * errors[name]:
                model = Roofline(name, errors, linear, work_per_ms, residual)
                return Fitted(model, corrected, spread, model.why)
        model = Roofline(name, errors, linear, work_per_ms)
        return Fitted(model, left_out, spread, model.why)

    def from_json(self, data: Mapping[str, Any]) -> Roofline:
        """See `Regression.from_json`."""
        residual = data["residual"]
        return Roofline(
            str(data["rung"]),
            {str(name): float(error) for name, error in data["errors"].items()},
            Linear.from_json(data, len(FEATURES)),
            np.array(data["work_per_ms"], dtype=np.float64).reshape(len(FEATURES)),
            None if residual is None else Residual.from_json(residual),
        )


def _error(predicted: Floats, latency_ms: Floats) -> float:
    return float(relative_errors(predicted, latency_ms).mean())
