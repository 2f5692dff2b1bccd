"""Latencies out of raw timings: ratios to the calibrator beside them, milliseconds, how they repeat."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Self, TypeAlias

import numpy as np

from predictors.regression.metrics import Floats, rank_correlation
from search_spaces.errors import UsageError

RAW = (
    "round",
    "position",
    "wall_s",
    "cpu_s",
    "before_wall_s",
    "before_cpu_s",
    "after_wall_s",
    "after_cpu_s",
    "calibrator_passes",
)
CLEAN_QUANTILE = 0.05
QUIET_QUANTILE = 0.1
STRETCH = 40  # calibrator timings in a row among which a quiet time is looked for
SIGMA_PER_IQR = 1 / 1.349
MEDIAN_ERROR_PER_SIGMA = math.sqrt(math.pi / 2)

Row: TypeAlias = "list[float | None]"


@dataclass(frozen=True, slots=True)
class Measurement:
    """The latency of one subnet on one device, from the session to the store and back.

    What is None is not known: stores of earlier versions lack it.
    latency_ms: of one batch; median over the timings of run / mean of its two calibrator timings per pass,
        times `reference_ms`.
    spread_ms: interquartile range of the same.  stderr_ms: standard error of the median.
    reference_ms: the clean time of one calibrator pass.
    rounds: timings, two a visit.
    raw: one row a timing, columns `RAW`. round: from 0.  position: of the visit in its round, from 0.
        wall_s, cpu_s: of one run, the mean of several in a row where one is short.
        before, after: the calibrator's, of all its passes.
    contention: median of wall time / CPU time of the runs; above 1.05 the machine was shared, 1.0 where the
        label is made of wall times.
    peak_memory_bytes, energy_mj: of one batch; None where the device cannot tell. Energy includes what the
        hardware draws when idle.
    extras_failure: what went wrong when one of the two was to be told.
    """

    latency_ms: float
    spread_ms: float | None = None
    stderr_ms: float | None = None
    reference_ms: float | None = None
    rounds: int = 0
    raw: list[list[float | None]] = field(default_factory=list)
    contention: float | None = None
    peak_memory_bytes: int | None = None
    energy_mj: float | None = None
    extras_failure: str | None = None

    def under(self, reference_ms: float) -> Self:
        """The same label for another clean time of the calibrator, such as the one its device is known by."""
        assert self.reference_ms is not None, "a measurement that was just made has one"
        factor = reference_ms / self.reference_ms
        spread_ms, stderr_ms = (
            None if error is None else factor * error for error in (self.spread_ms, self.stderr_ms)
        )
        return replace(
            self,
            latency_ms=factor * self.latency_ms,
            spread_ms=spread_ms,
            stderr_ms=stderr_ms,
            reference_ms=reference_ms,
        )


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a subnet has no latency; raw: what was timed before it failed, as in `Measurement`."""

    reason: str
    raw: list[list[float | None]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Repeatability:
    """Odd against even rounds: the noise ceiling that no predictor can be seen to pass.

    mape: mean of |odd - even| / their mean, a fraction.  tau: Kendall's rank correlation.
    sigma: relative standard deviation of one label of all its rounds. What slows all rounds of a session
        alike, and not the calibrator, is not in it.
    """

    mape: float
    tau: float
    sigma: float


def labelled(raw: Sequence[Row], reference_ms: float) -> Measurement:
    """The measurement of one subnet from its rows, at least one."""
    over_calibrator = ratios(raw)
    low, middle, high = np.quantile(over_calibrator, [0.25, 0.5, 0.75]) * reference_ms
    column = _columns(raw)
    return Measurement(
        latency_ms=float(middle),
        spread_ms=float(high - low),
        stderr_ms=relative_error(over_calibrator) * float(middle),
        reference_ms=reference_ms,
        rounds=len(raw),
        raw=list(raw),
        contention=float(np.median(column["wall_s"] / _clock(column, ""))),
    )


def ratios(raw: Sequence[Row]) -> Floats:
    """Run over the mean of the calibrator timings before and after it per pass, one per timing `(n,)`."""
    column = _columns(raw)
    bracket = (_clock(column, "before_") + _clock(column, "after_")) / (2 * column["calibrator_passes"])
    over_calibrator: Floats = _clock(column, "") / bracket
    return over_calibrator


def relative_error(values: Floats) -> float:
    """Standard error of the median over the median, from the interquartile range of normal noise."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return float(MEDIAN_ERROR_PER_SIGMA * SIGMA_PER_IQR * (high - low) / math.sqrt(len(values)) / middle)


def clean_ms(raws: Iterable[Sequence[Row]]) -> float:
    """Milliseconds of one calibrator pass on the undisturbed device, from a session's rows; NaN for none.

    The 5 % quantile of every stretch of the session, and of these the 10 % quantile: low quantiles, as a
    slow-down only ever adds; in stretches, as a machine can be busy for most of a session; not the quietest
    stretch, as processors also have short times of unusual speed, of which a longer session finds more (four
    sessions on a busy machine were 11 % apart under minima and under this 3 %). The timings are those
    beside runs, so that they share the state of the caches with the labels.
    """
    rows = list(chain.from_iterable(raws))
    if not rows:
        return math.nan
    column = _columns(rows)
    order = np.lexsort((column["position"], column["round"]))
    before, after = (_clock(column, side) / column["calibrator_passes"] for side in ("before_", "after_"))
    timings = np.stack([before, after], axis=1)[order].reshape(-1)
    stretches = np.array_split(timings, max(1, len(timings) // STRETCH))
    lows = [np.quantile(stretch, CLEAN_QUANTILE) for stretch in stretches]
    return 1e3 * float(np.quantile(lows, QUIET_QUANTILE))


def repeatability(measurements: Iterable[Measurement]) -> Repeatability:
    """How well the labels from odd rounds agree with those from even rounds of the same session.

    A label's variance falls with the timings in it, s^2 / n. So d = ln(odd / even) has the variance
    s^2 (1/n_odd + 1/n_even), and the label of all timings n_odd n_even / (n_odd + n_even)^2 of that: a
    quarter for equal halves. `sigma` is the root of the mean over the subnets.
    Raises UsageError for fewer than two measurements with timings in both halves.
    """
    both = [half for half in map(halves, measurements) if half is not None]
    if len(both) < 2:
        raise UsageError("Repeatability needs at least two subnets measured in at least two rounds.")
    odd, even, n_odd, n_even = np.array(both).T
    variance = np.log(odd / even) ** 2 * n_odd * n_even / (n_odd + n_even) ** 2
    return Repeatability(
        mape=float((2 * np.abs(odd - even) / (odd + even)).mean()),
        tau=rank_correlation(odd, even),
        sigma=math.sqrt(float(variance.mean())),
    )


def halves(measurement: Measurement) -> tuple[float, float, int, int] | None:
    """Labels of the odd and of the even rounds in ms, and the timings in each; None if one has none."""
    is_odd = _columns(measurement.raw)["round"] % 2 == 1
    labels = ratios(measurement.raw) * (measurement.reference_ms or 1.0)
    odd, even = labels[is_odd], labels[~is_odd]
    if not (len(odd) and len(even)):
        return None
    return float(np.median(odd)), float(np.median(even)), len(odd), len(even)


def _columns(raw: Sequence[Row]) -> dict[str, Floats]:
    """By name, `(rows,)` each; None is NaN."""
    return dict(zip(RAW, np.array(raw, dtype=np.float64).T, strict=True))


def _clock(column: dict[str, Floats], side: str) -> Floats:
    """Seconds in the clock of `Timing.seconds`."""
    cpu: Floats = column[f"{side}cpu_s"]
    return np.where(np.isnan(cpu), column[f"{side}wall_s"], cpu)
