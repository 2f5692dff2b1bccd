"""Gradient-boosted trees on what the layers do and on the options, for comparison.

Fitted by scikit-learn on log latency; saved as plain arrays of the trees, of which predictions are made here
and equal scikit-learn's. Trees do not extrapolate: outside the measured networks they are constant.
Source: Friedman, "Greedy Function Approximation: A Gradient Boosting Machine" (2001).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from predictors.devices import JSON
from predictors.regression.calibrated import Calibrated, Fitted, left_out_by_folds, left_out_error
from predictors.regression.features import FEATURES, Workload, space_features
from predictors.regression.metrics import Floats
from search_spaces import SearchSpace
from search_spaces.space import Codes

VERSION = 1
FEWEST = 8
FOLDS = 5
LEAF = -1
DEPTH = 3


def build(
    space: SearchSpace, *, batch: int = 1, element_bytes: int = 4, trees: int = 150, seed: int = 0
) -> Calibrated:
    """Gradient-boosted trees for networks of `space`, not fitted yet.

    batch, element_bytes: how the device runs the networks.  trees: boosting steps, each of depth 3.
    """
    return Calibrated(
        kind="gbm",
        version=VERSION,
        space=space,
        encode=partial(_encode, Workload(batch, element_bytes)),
        regression=Boosting(trees, seed, len(FEATURES) + len(space.choices)),
        identity={"features": list(FEATURES), "batch": batch, "element_bytes": element_bytes},
    )


@dataclass(frozen=True, eq=False)
class Trees:
    """log(latency_ms) = start + rate * the sum of the trees' values; all arrays `(trees, nodes)`.

    A row goes left where its feature (in single precision, as scikit-learn has it) is at most the threshold;
    `left` and `right` are LEAF at leaves and at the padding of smaller trees.
    """

    start: float
    rate: float
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    feature: NDArray[np.int64]
    threshold: Floats
    value: Floats

    def predict(self, rows: Floats) -> tuple[Floats, Floats]:
        """See `Model.predict`; nothing tells how little is known, so that all spreads are 1."""
        single, begins = rows.astype(np.float32).reshape(-1), np.arange(len(rows)) * rows.shape[1]
        logs = np.full(len(rows), self.start)
        for left, right, feature, threshold, value in zip(
            self.left, self.right, self.feature, self.threshold, self.value, strict=True
        ):
            node = np.zeros(len(rows), dtype=np.int64)
            while (inner := left[node] != LEAF).any():
                goes_left = single[begins + feature[node]] <= threshold[node]
                node = np.where(inner, np.where(goes_left, left[node], right[node]), node)
            logs += self.rate * value[node]
        return np.exp(logs), np.ones(len(rows))

    def to_json(self) -> dict[str, JSON]:
        """See `Model.to_json`."""
        names = ("left", "right", "feature", "threshold", "value")
        arrays: dict[str, JSON] = {name: getattr(self, name).tolist() for name in names}
        return arrays | {"start": self.start, "rate": self.rate}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], columns: int) -> Self:
        """What `to_json` wrote, for `columns` features; raises ValueError, KeyError or TypeError."""
        left, right, feature = (np.array(data[name], dtype=np.int64) for name in ("left", "right", "feature"))
        threshold, value = (np.array(data[name], dtype=np.float64) for name in ("threshold", "value"))
        if not left.ndim == 2 or not all(a.shape == left.shape for a in (right, feature, threshold, value)):
            raise ValueError("the trees' arrays differ in shape")
        inner, index = left != LEAF, np.arange(left.shape[1])
        forwards = (left > index) & (right > index) & (left < left.shape[1]) & (right < left.shape[1])
        if not forwards[inner].all() or (feature < 0).any() or (feature >= columns).any():
            raise ValueError("a tree leads nowhere")
        start, rate = float(data["start"]), float(data["rate"])
        if not all(np.isfinite(array).all() for array in (threshold, value, start, rate)):
            raise ValueError("a number is not finite")
        return cls(start, rate, left, right, feature, threshold, value)


@dataclass(frozen=True)
class Boosting:
    """The `Regression`; see the module."""

    trees: int
    seed: int
    columns: int
    minimum: int = FEWEST

    def fit(self, rows: Floats, latency_ms: Floats) -> Fitted:
        """See `Regression.fit`."""
        model = self._trees(rows, latency_ms)
        left_out = left_out_by_folds(self._trees, rows, latency_ms, folds=FOLDS)
        why = f"{len(model.left)} trees, {left_out_error(left_out, latency_ms)}"
        return Fitted(model, left_out, np.ones(len(rows)), why)

    def from_json(self, data: Mapping[str, Any]) -> Trees:
        """See `Regression.from_json`."""
        return Trees.from_json(data, self.columns)

    def _trees(self, rows: Floats, latency_ms: Floats) -> Trees:
        return trees_of(self.regressor().fit(rows, np.log(latency_ms)))

    def regressor(self) -> Any:
        """What scikit-learn fits."""
        from sklearn.ensemble import GradientBoostingRegressor  # noqa: PLC0415 - takes a second to import

        return GradientBoostingRegressor(
            n_estimators=self.trees, max_depth=DEPTH, subsample=0.7, random_state=self.seed, learning_rate=0.1
        )


def trees_of(fitted: Any) -> Trees:
    """The trees of a fitted GradientBoostingRegressor."""
    trees = [tree.tree_ for tree in fitted.estimators_[:, 0]]
    size = max(tree.node_count for tree in trees)

    def padded(name: str, fill: float) -> NDArray[Any]:
        arrays = [np.asarray(getattr(tree, name)).reshape(-1) for tree in trees]
        return np.stack([np.pad(a, (0, size - len(a)), constant_values=fill) for a in arrays])

    return Trees(
        float(fitted.init_.constant_[0, 0]),
        float(fitted.learning_rate),
        padded("children_left", LEAF),
        padded("children_right", LEAF),
        padded("feature", 0).clip(0),
        padded("threshold", 0),
        padded("value", 0),
    )


def _encode(workload: Workload, space: SearchSpace, codes: Codes) -> Floats:
    return np.concatenate([space_features(space, codes, workload), codes], axis=1)
