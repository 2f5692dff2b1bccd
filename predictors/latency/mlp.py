"""A perceptron with three hidden layers of 400 on averages of the options: HAT's predictor, for comparison.

Its inputs are HAT's. A name of choices (`num_heads` of `num_heads.3`) of which some exist in some networks
only gives two numbers: the mean of its options in the layers that exist, and how many there are. Every other
choice is a number of its own. Options that are no numbers count by their position.
Fitted by scikit-learn on log latency, with a seed; saved as weights. HAT fits it on 2,000 networks.
Source: Wang et al., "HAT: Hardware-Aware Transformers for Efficient NLP" (2020), `latency_predictor.py`.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np

from predictors.devices import JSON
from predictors.regression.calibrated import Calibrated, Fitted, left_out_by_folds, left_out_error
from predictors.regression.metrics import Floats
from search_spaces import Choice, SearchSpace
from search_spaces.space import INACTIVE, Codes

VERSION = 1
FEWEST = 8
FOLDS = 5
WIDTHS = (400, 400, 400)
WEIGHT_DECAY = 1e-3
MOST_LOG = 50.0  # standard deviations of a logarithm that a prediction may be away from their mean


def build(
    space: SearchSpace, *, batch: int = 1, element_bytes: int = 4, steps: int = 300, seed: int = 0
) -> Calibrated:
    """A perceptron for networks of `space`, not fitted yet.

    batch, element_bytes: how the device runs the networks.  steps: of the fit, at most.
    """
    return Calibrated(
        kind="mlp",
        version=VERSION,
        space=space,
        encode=averages,
        regression=Perceptron(steps, seed, len(_groups(space))),
        identity={"batch": batch, "element_bytes": element_bytes},
    )


def averages(space: SearchSpace, codes: Codes) -> Floats:
    """The inputs `(n, inputs)`; see the module."""
    columns = []
    for group, counted in _groups(space):
        active = codes[:, group] != INACTIVE
        count = active.sum(axis=1)
        if counted:
            columns.append(count.astype(np.float64))
        else:
            numbers = [_numbers(space.choices[i])[codes[:, i]] for i in group]
            total = np.where(active, np.stack(numbers, axis=1), 0).sum(axis=1)
            columns.append(total / np.maximum(count, 1))
    return np.stack(columns, axis=1)


def _groups(space: SearchSpace) -> list[tuple[list[int], bool]]:
    """For each input the choices that it is made of, and whether it counts them instead of averaging."""
    by_name: dict[str, list[int]] = {}
    for i, choice in enumerate(space.choices):
        by_name.setdefault(choice.name.split(".")[0], []).append(i)
    groups = []
    for group in by_name.values():
        if any(space.choices[i].needs for i in group):
            groups += [(group, False), (group, True)]
        else:
            groups += [([i], False) for i in group]
    return groups


def _numbers(choice: Choice) -> Floats:
    """What each option counts as, and 0 for none behind them."""
    plain = all(isinstance(option, int | float) for option in choice.options)
    return np.array([*(choice.options if plain else range(len(choice.options))), 0], dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Network:
    """log(latency_ms) = level + unit * the network's output for standardised rows.

    weights, biases: `(n_in, n_out)` and `(n_out,)` of each layer, with ReLU between them.
    """

    centre: Floats
    scale: Floats
    level: float
    unit: float
    weights: tuple[Floats, ...]
    biases: tuple[Floats, ...]

    def predict(self, rows: Floats) -> tuple[Floats, Floats]:
        """See `Model.predict`; nothing tells how little is known, so that all spreads are 1."""
        x = (rows - self.centre) / self.scale
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = (np.maximum(x, 0) if i else x) @ weight + bias
        logs = np.clip(x[:, 0], -MOST_LOG, MOST_LOG)
        return np.exp(self.level + self.unit * logs), np.ones(len(rows))

    def to_json(self) -> dict[str, JSON]:
        """See `Model.to_json`."""
        return {
            "centre": self.centre.tolist(),
            "scale": self.scale.tolist(),
            "level": self.level,
            "unit": self.unit,
            "weights": [weight.tolist() for weight in self.weights],
            "biases": [bias.tolist() for bias in self.biases],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], inputs: int) -> Self:
        """What `to_json` wrote, for rows of `inputs` numbers; raises ValueError, KeyError or TypeError."""
        sizes = (inputs, *WIDTHS, 1)
        shapes = list(pairwise(sizes))
        weights = [
            np.array(w, dtype=np.float64).reshape(s) for w, s in zip(data["weights"], shapes, strict=True)
        ]
        biases = [
            np.array(b, dtype=np.float64).reshape(s[1]) for b, s in zip(data["biases"], shapes, strict=True)
        ]
        centre, scale = (
            np.array(data[name], dtype=np.float64).reshape(inputs) for name in ("centre", "scale")
        )
        level, unit = float(data["level"]), float(data["unit"])
        if not np.isfinite([level, unit]).all() or not all(
            np.isfinite(array).all() for array in (*weights, *biases, centre, scale)
        ):
            raise ValueError("a number is not finite")
        return cls(centre, scale, level, unit, tuple(weights), tuple(biases))


@dataclass(frozen=True)
class Perceptron:
    """The `Regression`; see the module."""

    steps: int
    seed: int
    inputs: int
    minimum: int = FEWEST

    def fit(self, rows: Floats, latency_ms: Floats) -> Fitted:
        """See `Regression.fit`."""
        model = self._network(rows, latency_ms)
        left_out = left_out_by_folds(self._network, rows, latency_ms, folds=FOLDS)
        return Fitted(model, left_out, np.ones(len(rows)), left_out_error(left_out, latency_ms))

    def from_json(self, data: Mapping[str, Any]) -> Network:
        """See `Regression.from_json`."""
        return Network.from_json(data, self.inputs)

    def _network(self, rows: Floats, latency_ms: Floats) -> Network:
        from sklearn.neural_network import MLPRegressor  # noqa: PLC0415 - takes a second to import

        logs = np.log(latency_ms)
        centre, spread = rows.mean(axis=0), rows.std(axis=0)
        scale = np.where(spread > 0, spread, 1.0)
        level, unit = float(logs.mean()), float(logs.std()) or 1.0
        fitted = MLPRegressor(
            hidden_layer_sizes=WIDTHS, alpha=WEIGHT_DECAY, max_iter=self.steps, random_state=self.seed
        )
        with warnings.catch_warnings():  # that the steps are used up
            warnings.simplefilter("ignore")
            fitted.fit((rows - centre) / scale, (logs - level) / unit)
        return Network(centre, scale, level, unit, tuple(fitted.coefs_), tuple(fitted.intercepts_))
