"""A Gaussian process on what the layers do, relative to a line in MACs, for comparison and for odd devices.

The kernel is linear plus a radial basis function with a length for each feature; the process tells the ratio
of the latency to the line's. Its linear part has no signs to keep, unlike the roofline's, and it needs more
networks. It is saved as data and the kernel's parameters, from which scikit-learn makes the same process.
Source: Rasmussen and Williams, "Gaussian Processes for Machine Learning" (2006), equation 5.12.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Self

import numpy as np
from scipy.optimize import minimize

from predictors.devices import JSON
from predictors.regression.calibrated import Calibrated, Fitted, left_out_by_folds, left_out_error
from predictors.regression.features import FEATURES, MACS, WORK, Workload, space_features
from predictors.regression.linear import fit_linear
from predictors.regression.metrics import Floats
from search_spaces import SearchSpace

VERSION = 1
FEWEST = 8
MOST = 300  # networks that it is fitted on; a fit takes their number to the third power
FOLDS = 5
STEPS = 50  # of the search for the kernel's parameters
INPUTS = len(WORK) + 1  # what is done per millisecond of the line, and the line's logarithm
LINE = np.stack([np.isin(FEATURES, MACS), np.isin(FEATURES, "constant")], axis=1).astype(np.float64)
IGNORED = 1e300  # scale of an input that is the same in all measured networks
ARRAYS = ("line", "centre", "scale", "theta", "inputs", "targets")


def build(space: SearchSpace, *, batch: int = 1, element_bytes: int = 4) -> Calibrated:
    """A Gaussian process for networks of `space`, not fitted yet.

    batch, element_bytes: how the device runs the networks.
    """
    return Calibrated(
        kind="gp",
        version=VERSION,
        space=space,
        encode=partial(space_features, workload=Workload(batch, element_bytes)),
        regression=GaussianProcess(),
        identity={"features": list(FEATURES), "batch": batch, "element_bytes": element_bytes},
    )


@dataclass(frozen=True, eq=False)
class Process:
    """latency_ms = (row @ line) * (1 + a process on the standardised inputs).

    line: `(features,)`.  centre, scale: of the inputs, `(INPUTS,)`.  theta: logarithms of the kernel's
    parameters.  inputs, targets: the fitted networks', `(n, INPUTS)` and `(n,)`.
    """

    line: Floats
    centre: Floats
    scale: Floats
    theta: Floats
    inputs: Floats
    targets: Floats

    def predict(self, rows: Floats) -> tuple[Floats, Floats]:
        """See `Model.predict`."""
        if not len(rows):
            return np.empty(0), np.empty(0)
        base, inputs = _relative(rows, self.line)
        ratio, std = self._process.predict((inputs - self.centre) / self.scale, return_std=True)
        factor = np.clip(1 + ratio, 0.1, 10.0)
        return base * factor, std / factor

    @cached_property
    def _process(self) -> Any:
        return _process(self.theta, None).fit(self.inputs, self.targets)

    def left_out_std(self) -> Floats:
        """Standard deviations `(n,)` of the fitted networks' targets, each without its network."""
        factor = self._process.L_
        inverse = np.linalg.inv(factor @ factor.T)
        std: Floats = np.sqrt(1 / np.diag(inverse)) / np.clip(1 + self.targets, 0.1, 10.0)
        return std

    def to_json(self) -> dict[str, JSON]:
        """See `Model.to_json`."""
        return {name: getattr(self, name).tolist() for name in ARRAYS}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """What `to_json` wrote; raises ValueError, KeyError or TypeError for damage."""
        arrays = {name: np.array(data[name], dtype=np.float64) for name in ARRAYS}
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise ValueError("a number is not finite")
        count, size = arrays["targets"].size, len(_kernel().theta)
        shapes = ((len(FEATURES),), (INPUTS,), (INPUTS,), (size,), (count, INPUTS), (count,))
        return cls(**{name: arrays[name].reshape(shape) for name, shape in zip(ARRAYS, shapes, strict=True)})


@dataclass(frozen=True)
class GaussianProcess:
    """The `Regression`; see the module."""

    minimum: int = FEWEST

    def fit(self, rows: Floats, latency_ms: Floats) -> Fitted:
        """See `Regression.fit`."""
        some, rest = slice(MOST), slice(MOST, None)
        model = _fit(rows[some], latency_ms[some])
        left_out = left_out_by_folds(_fit, rows[some], latency_ms[some], folds=FOLDS)
        predicted, spread = model.predict(rows[rest])
        left_out = np.concatenate([left_out, predicted])
        spread = np.concatenate([model.left_out_std(), spread])
        return Fitted(model, left_out, spread, left_out_error(left_out, latency_ms))

    def from_json(self, data: Mapping[str, Any]) -> Process:
        """See `Regression.from_json`."""
        return Process.from_json(data)


def _fit(rows: Floats, latency_ms: Floats) -> Process:
    line = fit_linear(rows, latency_ms, LINE)[0].coefficients
    base, inputs = _relative(rows, line)
    centre, spread = inputs.mean(axis=0), inputs.std(axis=0)
    scale = np.where(spread > 1e-9 * np.abs(centre), spread, IGNORED)
    standard, targets = (inputs - centre) / scale, latency_ms / base - 1
    with warnings.catch_warnings():  # a length at its bound is a feature that does not matter
        warnings.simplefilter("ignore")
        fitted = _process(_kernel().theta, _climb).fit(standard, targets)
    return Process(line, centre, scale, fitted.kernel_.theta, standard, targets)


def _relative(rows: Floats, line: Floats) -> tuple[Floats, Floats]:
    """The line's latencies in ms `(n,)`, and the inputs `(n, INPUTS)`."""
    base = np.maximum(rows @ line, np.finfo(np.float64).tiny)
    return base, np.concatenate([rows[:, : len(WORK)] / base[:, None], np.log(base)[:, None]], axis=1)


def _kernel() -> Any:
    """Linear, radial with a length for each input, and noise; all in units of the targets."""
    from sklearn.gaussian_process.kernels import (  # noqa: PLC0415 - takes a second to import
        RBF,
        ConstantKernel,
        DotProduct,
        WhiteKernel,
    )

    linear = ConstantKernel(1e-3, (1e-6, 1e1)) * DotProduct(1.0, "fixed")
    radial = ConstantKernel(1e-3, (1e-6, 1e1)) * RBF(np.full(INPUTS, 3.0), (0.3, 1e3))
    return linear + radial + WhiteKernel(1e-3, (1e-5, 1e-1))


def _process(theta: Floats, optimizer: Any) -> Any:
    from sklearn.gaussian_process import GaussianProcessRegressor  # noqa: PLC0415 - takes a second to import

    kernel = _kernel().clone_with_theta(theta)
    return GaussianProcessRegressor(kernel, alpha=1e-10, optimizer=optimizer)


def _climb(objective: Any, theta: Floats, bounds: Floats) -> tuple[Floats, float]:
    """As scikit-learn does it by default, with fewer steps."""
    optimum = minimize(
        objective, theta, method="L-BFGS-B", jac=True, bounds=bounds, options={"maxiter": STEPS}
    )
    return optimum.x, float(optimum.fun)
