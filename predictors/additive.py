"""Latency as a sum over layers: each layer costs a linear function of what it does (see `layer_features`).

A device's coefficients are few and physical (ms per multiply-accumulate, per number read or written, per
launch), so some 20 measured networks determine them; the sums are table look-ups, a million architectures in
about a second.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from sklearn.linear_model import BayesianRidge

from predictors._metrics import Floats
from predictors._predictor import Predictor, check_training, space_digest
from predictors.devices import JSON
from search_spaces import SearchSpace
from search_spaces._errors import UsageError
from search_spaces._layers import Layer
from search_spaces._space import Codes

VERSION = 1
MINIMUM = 8
CHUNK = 4_096
GEMMS = ("linear", "conv2d")
ELEMENTWISE = ("norm", "activation")
FEATURES = (
    "launches",
    "linear_macs",
    "conv_macs",
    "attention_macs",
    "gemm_input_elements",
    "gemm_output_elements",
    "attention_elements",
    "softmax_elements",
    "attention_slices",
    "norm_elements",
    "activation_elements",
    "other_elements",
    "params",
)
TERMS = (*FEATURES, "constant")
START_NOISE = 0.01


def build(space: SearchSpace) -> Predictor:
    """An additive predictor for `space`, not fitted yet."""
    return Additive(space)


def layer_features(layer: Layer) -> tuple[int, ...]:
    """What one layer does, in the order of FEATURES, for one sample; takes any `Layer`, whoever made it.

    Operators of unknown kinds count as elementwise ones whose MACs run like those of a linear layer.
    `attention` needs the shape (windows, heads, queries, head_dim), and behind it the keys, if they are not
    as many.
    """
    kind = layer.kind
    moved = layer.input_elements + layer.output_elements
    gemm, is_attention = kind in GEMMS, kind == "attention"
    return (
        1,
        layer.macs if kind not in ("conv2d", "attention") else 0,
        layer.macs if kind == "conv2d" else 0,
        layer.macs if is_attention else 0,
        layer.input_elements if gemm else 0,
        layer.output_elements if gemm else 0,
        moved if is_attention else 0,
        layer.slices * layer.shape[2] * _keys(layer) if is_attention else 0,
        layer.slices if is_attention else 0,
        moved if kind == "norm" else 0,
        moved if kind == "activation" else 0,
        moved if not (gemm or is_attention or kind in ELEMENTWISE) else 0,
        layer.params,
    )


def _keys(layer: Layer) -> int:
    """Keys of one window of an attention."""
    return layer.shape[4] if len(layer.shape) > 4 else layer.shape[2]


@dataclass(frozen=True, eq=False)
class _Fit:
    """latency_ms = terms @ coefficients; `coefficients` `(terms,)` are not negative.

    covariance: of the coefficients, `(terms, terms)`.  noise: standard deviation of a label over the latency.
    seen: which terms were not zero in every measured subnet, `(terms,)`.  count: subnets fitted on.
    """

    coefficients: Floats
    covariance: Floats
    noise: float
    seen: NDArray[np.bool_]
    count: int

    def predict(self, terms: Floats) -> tuple[Floats, Floats]:
        """Mean and std; work of a kind that no measured subnet did is uncertain by the whole latency."""
        mean = terms @ self.coefficients
        spread = np.einsum("ij,ij->i", terms @ self.covariance, terms).clip(0)
        std = np.sqrt(spread + (self.noise * mean) ** 2)
        unseen = terms[:, ~self.seen].any(axis=1)
        return mean, np.where(unseen, np.maximum(std, mean), std)


@dataclass(frozen=True, eq=False)
class Additive:
    """A `Predictor`; see the module."""

    space: SearchSpace
    fitted: _Fit | None = None

    def fit(self, codes: Codes, latency_ms: Floats) -> Self:
        """See `Predictor.fit`; needs 8 different subnets."""
        latency_ms = np.asarray(latency_ms, dtype=np.float64)
        check_training(codes, latency_ms, minimum=MINIMUM)
        return replace(self, fitted=_fit(self._terms(codes), latency_ms))

    def predict(self, codes: Codes) -> tuple[Floats, Floats]:
        """See `Predictor.predict`."""
        fitted = self._fitted()
        mean, std = np.empty(len(codes)), np.empty(len(codes))
        for start in range(0, len(codes), CHUNK):
            rows = slice(start, start + CHUNK)
            mean[rows], std[rows] = fitted.predict(self._terms(codes[rows]))
        return mean, std

    def predict_layers(self, layers: Iterable[Layer]) -> tuple[float, float]:
        """Mean and standard deviation in ms of a network given as its layers, from this space or not."""
        rows = np.array([layer_features(layer) for layer in layers], dtype=np.float64)
        sums = rows.reshape(-1, len(FEATURES)).sum(axis=0)
        mean, std = self._fitted().predict(np.array([[*sums, 1.0]]))
        return float(mean[0]), float(std[0])

    def to_json(self) -> dict[str, JSON]:
        """See `Predictor.to_json`; the coefficients are in ms per unit of the term, for one batch."""
        fitted = self._fitted()
        return self._identity() | {
            "coefficients": fitted.coefficients.tolist(),
            "covariance": fitted.covariance.tolist(),
            "noise": fitted.noise,
            "seen": fitted.seen.tolist(),
            "count": fitted.count,
        }

    def from_json(self, data: dict[str, Any]) -> Self:
        """See `Predictor.from_json`."""
        for key, value in self._identity().items():
            if data.get(key) != value:
                raise UsageError(
                    f"The saved latency predictor does not fit: {key} is {data.get(key)!r}, not {value!r}.",
                    "Fit it again on measurements of this space.",
                )
        return replace(self, fitted=_read(data))

    def _identity(self) -> dict[str, JSON]:
        return {
            "predictor": "additive",
            "version": VERSION,
            "space": self.space.name,
            "space_digest": space_digest(self.space),
            "terms": list(TERMS),
        }

    def _terms(self, codes: Codes) -> Floats:
        sums = self.space.totals(codes, layer_features)
        return np.concatenate([sums, np.ones((len(sums), 1))], axis=1)

    def _fitted(self) -> _Fit:
        if self.fitted is None:
            raise UsageError("The latency predictor is not fitted.", "Use what `fit` or `from_json` returns.")
        return self.fitted


def _fit(terms: Floats, latency_ms: Floats) -> _Fit:
    """Bayesian ridge on relative errors, tuned by evidence; the mode over non-negative coefficients.

    Rows are divided by their latency, in units of the geometric mean, and columns scaled to unit norm, so
    that one prior fits all terms and devices of any speed.
    Source: MacKay, "Bayesian Interpolation", Neural Computation 4(3), 1992.
    """
    unit = float(np.exp(np.log(latency_ms).mean()))
    rows = terms / (latency_ms / unit)[:, None]
    norms = np.linalg.norm(rows, axis=0)
    seen = norms > 0
    rows = rows[:, seen] / norms[seen]
    ridge = BayesianRidge(fit_intercept=False, alpha_init=START_NOISE**-2, lambda_init=1.0)
    ridge.fit(rows, np.ones(len(rows)))
    penalty = np.sqrt(ridge.lambda_ / ridge.alpha_) * np.eye(rows.shape[1])
    target = np.concatenate([np.ones(len(rows)), np.zeros(len(penalty))])
    coefficients, covariance = np.zeros(len(norms)), np.zeros((len(norms), len(norms)))
    scale = unit / norms[seen]
    coefficients[seen] = nnls(np.concatenate([rows, penalty]), target)[0] * scale
    covariance[np.ix_(seen, seen)] = ridge.sigma_ * np.outer(scale, scale)
    return _Fit(coefficients, covariance, float(ridge.alpha_**-0.5), seen, len(rows))


def _read(data: dict[str, Any]) -> _Fit:
    size = len(TERMS)
    try:
        fitted = _Fit(
            np.array(data["coefficients"], dtype=np.float64).reshape(size),
            np.array(data["covariance"], dtype=np.float64).reshape(size, size),
            float(data["noise"]),
            np.array(data["seen"], dtype=np.bool_).reshape(size),
            int(data["count"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"The saved latency predictor is damaged: {error}.", "Fit it again.") from error
    if not all(np.isfinite(n).all() for n in (fitted.coefficients, fitted.covariance, fitted.noise)):
        raise UsageError("The saved latency predictor is damaged: a number is not finite.", "Fit it again.")
    return fitted
