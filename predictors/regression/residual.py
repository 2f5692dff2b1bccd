"""A Gaussian process on the relative errors of a linear latency model, for what no sum of layers expresses.

Hyper-parameters come from a small grid by closed-form leave-one-out error, so that a fit takes milliseconds.
Source: Rasmussen and Williams, "Gaussian Processes for Machine Learning" (2006), equation 5.12.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from predictors.devices import JSON
from predictors.regression.features import WORK
from predictors.regression.metrics import Floats

FEWEST = 50
MOST = 300  # networks that the process is fitted on; a fit takes their number to the third power
LENGTHS = (0.5, 1.0, 2.0, 4.0)  # of the kernel, in median distances
NOISES = (0.1, 0.3, 1.0, 3.0, 10.0)  # variance of a label's noise over that of the process


@dataclass(frozen=True, eq=False)
class Residual:
    """True latency over that of the linear model, as a smooth function of the logarithms of the work.

    centre, scale: of the logarithms, `(work,)`.  inputs: of the fitted networks, `(n, work)`, standardised.
    """

    centre: Floats
    scale: Floats
    inputs: Floats
    weights: Floats
    length: float

    def factor(self, rows: Floats) -> Floats:
        """What the linear model's latencies are multiplied by, `(n,)`; close to 1."""
        from scipy.spatial.distance import cdist  # noqa: PLC0415 - takes long to import

        inputs = (_logarithms(rows) - self.centre) / self.scale
        factor: Floats = 1 + _matern(cdist(inputs, self.inputs), self.length) @ self.weights
        return np.clip(factor, 0.5, 2.0)

    def to_json(self) -> dict[str, JSON]:
        """All of it as plain data."""
        arrays = {name: getattr(self, name).tolist() for name in ("centre", "scale", "inputs", "weights")}
        return arrays | {"length": self.length}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """What `to_json` wrote; raises ValueError, KeyError or TypeError for damage."""
        size = len(WORK)
        centre, scale, inputs, weights = (
            np.array(data[name], dtype=np.float64) for name in ("centre", "scale", "inputs", "weights")
        )
        if not all(np.isfinite(array).all() for array in (centre, scale, inputs, weights)):
            raise ValueError("a number is not finite")
        return cls(
            centre.reshape(size),
            scale.reshape(size),
            inputs.reshape(-1, size),
            weights,
            float(data["length"]),
        )


def fit_residual(rows: Floats, latency_ms: Floats, left_out: Floats) -> tuple[Residual, Floats]:
    """The process on the errors of a linear model, and the corrected leave-one-out predictions in ms `(n,)`.

    left_out: the linear model's own leave-one-out predictions. The process learns from their errors, since
    those of the fit are too small.
    """
    from scipy.spatial.distance import cdist, pdist  # noqa: PLC0415 - takes long to import

    some = slice(MOST)
    logs = _logarithms(rows)
    centre, spread = logs.mean(axis=0), logs.std(axis=0)
    scale = np.where(spread > 0, spread, 1.0)
    inputs = (logs[some] - centre) / scale
    wrong = latency_ms / left_out - 1
    distance = cdist(inputs, inputs)
    unit = float(np.median(pdist(inputs))) or 1.0
    best = None
    for length in LENGTHS:
        values, vectors = np.linalg.eigh(_matern(distance, length * unit))
        for noise in NOISES:
            inverse = 1 / (values.clip(0) + noise)
            weights = vectors @ (inverse * (vectors.T @ wrong[some]))
            left_out_wrong = wrong[some] - weights / (vectors**2 @ inverse)
            error = float(np.abs(left_out_wrong - wrong[some]).mean())
            if best is None or error < best[0]:
                best = error, Residual(centre, scale, inputs, weights, length * unit), left_out_wrong
    assert best is not None, "the grid is not empty"
    corrected = left_out.copy()
    corrected[some] *= 1 + best[2]
    if len(rows) > MOST:
        corrected[MOST:] *= best[1].factor(rows[MOST:])
    return best[1], corrected


def _logarithms(rows: Floats) -> Floats:
    logs: Floats = np.log1p(rows[:, : len(WORK)])
    return logs


def _matern(distance: Floats, length: float) -> Floats:
    """The Matern kernel with nu = 5/2."""
    scaled = np.sqrt(5) * distance / length
    kernel: Floats = (1 + scaled + scaled**2 / 3) * np.exp(-scaled)
    return kernel
