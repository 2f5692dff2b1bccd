"""Latency of any network that is given as its layers: fitted on some that were measured on the device.

Layers that a space or a person states are fitted as a space's are (`predictors/latency/roofline.py`); layers
that were traced (`predictors.layers_of`) tell which kernels ran, and are fitted by these
(`predictors/regression/kernels.py`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from predictors.devices import JSON
from predictors.predictor import OtherVersionError, check_training
from predictors.regression.calibrated import Fitted, Model
from predictors.regression.features import FEATURES, ONE_SAMPLE, Workload, network_features
from predictors.regression.intervals import Intervals
from predictors.regression.kernels import KERNELS, Run, kernel_features
from predictors.regression.ladder import FEWEST_ANY, Ladder, source_coefficients
from predictors.regression.metrics import Floats, relative_errors
from predictors.regression.priced import Priced, fit_priced
from search_spaces.errors import UsageError
from search_spaces.layers import Layer

VERSION = 1
WORK, BY_KERNEL = "work", "kernels"
COLUMNS: Mapping[str, tuple[str, ...]] = {WORK: FEATURES, BY_KERNEL: tuple(KERNELS)}

Network: TypeAlias = Iterable[Layer]
Workloads: TypeAlias = Workload | Sequence[Workload]


@dataclass(frozen=True, eq=False)
class OfLayers:
    """A fitted predictor of networks that are lists of layers, from one of our spaces or not.

    fitted_by: `work` or `kernels`.  workload: of all networks that it was fitted on, None where they differ.
    cache_bytes: of the device, see `Run`.  why: what was chosen, and by what errors.
    error: mean relative error on left-out networks.
    """

    model: Model
    intervals: Intervals
    fitted_by: str
    workload: Workload | None
    cache_bytes: int | None
    count: int
    why: str
    error: float

    def predict(
        self, networks: Iterable[Network], workload: Workloads | None = None
    ) -> tuple[Floats, Floats]:
        """Means and standard deviations in ms, each `(n,)`.

        workload: of all or of each; that of the fit where it is left out. Raises UsageError where the fit had
        several.
        """
        asked = self.workload if workload is None else workload
        if asked is None:
            raise UsageError("The predictor was fitted on several batches.", "Say for which: workload=.")
        every = [list(layers) for layers in networks]
        rows = _rows(every, asked, self.fitted_by, self.cache_bytes)
        mean, spread = self.model.predict(rows)
        return mean, self.intervals.std(mean, spread)

    def to_json(self) -> dict[str, JSON]:
        """Everything that was fitted, as plain data."""
        return {
            "predictor": "any_model",
            "version": VERSION,
            "fitted_by": self.fitted_by,
            "columns": list(COLUMNS[self.fitted_by]),
            "workload": None if self.workload is None else asdict(self.workload),
            "cache_bytes": self.cache_bytes,
            "model": self.model.to_json(),
            "intervals": asdict(self.intervals),
            "count": self.count,
            "why": self.why,
            "error": self.error,
        }


def fit_layers(
    networks: Iterable[Network],
    latency_ms: Floats | Sequence[float],
    *,
    workload: Workloads = ONE_SAMPLE,
    source: Mapping[str, Any] | None = None,
    cache_bytes: int | None = None,
) -> OfLayers:
    """A predictor fitted on any networks that are given as lists of layers, and their latencies `(n,)` in ms.

    workload: how all of them were run, or each.
    source: what `to_json` of another device's predictor wrote; it is used where left-out networks gain by it.
    cache_bytes: of the device's last level, if that is known.
    Raises UsageError for fewer than 3 networks, for latencies that are not positive and finite, for as many
    workloads as there are no networks, and for a source that does not fit.
    """
    every = [list(layers) for layers in networks]
    latency_ms = np.asarray(latency_ms, dtype=np.float64)
    fitted_by = _fitted_by(every)
    rows = _rows(every, workload, fitted_by, cache_bytes)
    prior = None if source is None else source_prices(source, fitted_by)
    model, left_out, spread, why = _fit(rows, latency_ms, fitted_by, prior)
    return OfLayers(
        model,
        Intervals.of(left_out, latency_ms, spread),
        fitted_by,
        _one(workload),
        cache_bytes,
        len(rows),
        why,
        float(relative_errors(left_out, latency_ms).mean()),
    )


def fit_rows(
    networks: Sequence[Sequence[Layer]],
    places: NDArray[np.intp],
    latency_ms: Floats,
    workload: Workload,
) -> tuple[Floats, Fitted]:
    """The rows of all networks, and a fit on those at `places`, which were measured."""
    fitted_by = _fitted_by(networks)
    rows = _rows(networks, workload, fitted_by, None)
    return rows, _fit(rows[places], latency_ms, fitted_by, None)


def from_json(data: Mapping[str, Any]) -> OfLayers:
    """The predictor that `OfLayers.to_json` wrote.

    Raises OtherVersionError for another version, UsageError for something else and for damage.
    """
    if data.get("predictor") != "any_model":
        raise UsageError("This is no saved predictor of any model.", "Take what `to_json` wrote.")
    fitted_by = data.get("fitted_by")
    columns = COLUMNS.get(str(fitted_by))
    if data.get("version") != VERSION or columns is None or data.get("columns") != list(columns):
        raise OtherVersionError("The saved predictor is of another version.", "Fit it again.")
    try:
        model = Ladder().from_json(data["model"]) if fitted_by == WORK else Priced.from_json(data["model"])
        saved, workload, cache = data["intervals"], data["workload"], data["cache_bytes"]
        intervals = Intervals(float(saved["half_width"]), float(saved["typical"]))
        if not (0 <= intervals.half_width < np.inf and 0 < intervals.typical < np.inf):
            raise ValueError(f"the intervals are {saved}")
        return OfLayers(
            model,
            intervals,
            str(fitted_by),
            None if workload is None else Workload(int(workload["batch"]), int(workload["element_bytes"])),
            None if cache is None else int(cache),
            int(data["count"]),
            str(data["why"]),
            float(data["error"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"The saved latency predictor is damaged: {error}.", "Fit it again.") from error


def source_prices(source: Mapping[str, Any], fitted_by: str) -> Floats:
    """The coefficients of another device's predictor. Raises UsageError for one of other layers."""
    if source.get("predictor") != "any_model":
        if fitted_by == WORK:
            return source_coefficients(source)
        raise UsageError(
            f"A predictor '{source.get('predictor')}' says nothing of traced layers.",
            "Take one as a source that was fitted on what `layers_of` gave.",
        )
    predictor = from_json(source)
    if predictor.fitted_by != fitted_by:
        words = {WORK: "stated", BY_KERNEL: "traced"}
        raise UsageError(
            f"The source was fitted on {words[predictor.fitted_by]} layers, and these are {words[fitted_by]}."
        )
    saved = source["model"]["coefficients" if fitted_by == WORK else "prices"]
    return np.array(saved, dtype=np.float64)


def _fitted_by(networks: Sequence[Sequence[Layer]]) -> str:
    """By kernels where some network was traced: traces tell their operators."""
    return BY_KERNEL if any(layer.operator for layers in networks for layer in layers) else WORK


def _fit(rows: Floats, latency_ms: Floats, fitted_by: str, prior: Floats | None) -> Fitted:
    check_training(rows, latency_ms, minimum=FEWEST_ANY)
    if fitted_by == WORK:
        return Ladder(prior).fit(rows, latency_ms)
    return fit_priced(rows, latency_ms, prior)


def _rows(
    networks: Sequence[Sequence[Layer]], workload: Workloads, fitted_by: str, cache_bytes: int | None
) -> Floats:
    each = [workload] * len(networks) if isinstance(workload, Workload) else list(workload)
    if len(each) != len(networks):
        raise UsageError(f"There are {len(networks)} networks but {len(each)} workloads.")
    rows = [
        network_features(layers, one) if fitted_by == WORK else kernel_features(layers, Run(one, cache_bytes))
        for layers, one in zip(networks, each, strict=True)
    ]
    return np.array(rows).reshape(-1, len(COLUMNS[fitted_by]))


def _one(workload: Workloads) -> Workload | None:
    """The workload of all networks, if it is one."""
    if isinstance(workload, Workload):
        return workload
    return workload[0] if len(set(workload)) == 1 else None
