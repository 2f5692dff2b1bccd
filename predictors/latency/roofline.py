"""Latency as a sum of physical terms: the default predictor, good from some ten measured networks on.

What the layers do (`FEATURES`) is summed exactly; a device's cost per unit of each is fitted, never negative.
The fit climbs a ladder and stays on the rung with the least leave-one-out error: MACs alone (from 3 networks
on), another device's predictor scaled (from 3 on), all work (from 8 on), with steps for large tensors, and a
Gaussian process on what is left (from 50 on). The coefficients are readable, as the device's roofline card.
"""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from predictors.devices import JSON
from predictors.predictor import check_training
from predictors.regression.calibrated import Calibrated, Fitted, Model
from predictors.regression.features import (
    FEATURES,
    MACS,
    ONE_SAMPLE,
    WORK,
    Workload,
    network_features,
    space_features,
)
from predictors.regression.intervals import Intervals
from predictors.regression.linear import Linear, fit_linear
from predictors.regression.metrics import Floats, relative_errors
from predictors.regression.residual import FEWEST, Residual, fit_residual
from search_spaces import SearchSpace
from search_spaces.errors import UsageError
from search_spaces.layers import Layer

VERSION = 1
FEWEST_ANY, FEWEST_WORK, FEWEST_STEPS = 3, 8, 16
BETTER = 0.9  # a later rung must bring the leave-one-out error down to this share of an earlier one's


def build(
    space: SearchSpace,
    *,
    batch: int = 1,
    element_bytes: int = 4,
    source: Mapping[str, Any] | None = None,
) -> Calibrated:
    """A roofline predictor for networks of `space`, not fitted yet.

    batch, element_bytes: how the device runs the networks.
    source: what `to_json` of another device's roofline predictor wrote; its coefficients are a rung.
    """
    workload = Workload(batch, element_bytes)
    prior = None if source is None else source_coefficients(source)
    return Calibrated(
        kind="roofline",
        version=VERSION,
        space=space,
        encode=partial(space_features, workload=workload),
        regression=Ladder(prior),
        identity={"features": list(FEATURES), "batch": batch, "element_bytes": element_bytes},
    )


@dataclass(frozen=True, eq=False)
class OfLayers:
    """A fitted predictor of networks that are lists of layers, from one of our spaces or not."""

    model: Model
    intervals: Intervals
    workload: Workload

    def predict(self, networks: Iterable[Iterable[Layer]]) -> tuple[Floats, Floats]:
        """Means and standard deviations in ms, each `(n,)`."""
        rows = np.array([network_features(layers, self.workload) for layers in networks])
        mean, spread = self.model.predict(rows.reshape(-1, len(FEATURES)))
        return mean, self.intervals.std(mean, spread)


def fit_layers(
    networks: Iterable[Iterable[Layer]], latency_ms: Floats, *, workload: Workload = ONE_SAMPLE
) -> OfLayers:
    """A predictor fitted on any networks that are given as lists of layers, and their latencies `(n,)` in ms.

    Raises UsageError for fewer than 3 networks and for latencies that are not positive and finite.
    """
    rows = np.array([network_features(layers, workload) for layers in networks])
    latency_ms = np.asarray(latency_ms, dtype=np.float64)
    check_training(rows, latency_ms, minimum=FEWEST_ANY)
    model, left_out, spread, _ = Ladder().fit(rows, latency_ms)
    return OfLayers(model, Intervals.of(left_out, latency_ms, spread), workload)


def source_coefficients(state: Mapping[str, Any]) -> Floats:
    """The coefficients `(features,)` of a saved roofline predictor, or of `auto` that took one.

    Raises UsageError for another predictor and for damage.
    """
    taken = state.get("taken")
    if state.get("predictor") == "auto" and isinstance(taken, Mapping):
        state = taken
    if state.get("predictor") != "roofline" or state.get("features") != list(FEATURES):
        raise UsageError(
            f"Only a roofline predictor of this version can be transferred, not '{state.get('predictor')}'."
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
