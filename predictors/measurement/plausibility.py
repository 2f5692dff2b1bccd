"""Which numbers a measurement may have; whatever told others is broken."""

import math
from numbers import Integral, Real
from typing import TypeGuard

import numpy as np

from predictors.measurement.labels import RAW, Failure, Measurement

DAY_MS = 86_400_000.0
MOST_BYTES = 2**50
MOST_MJ = 1e12


def implausible(measurement: Measurement) -> str | None:
    """Why a measurement cannot be one: its times are finite, its latency above 0 and below a day."""
    if not is_time(measurement.latency_ms):
        return f"its latency is {measurement.latency_ms} ms"
    if not is_time(measurement.reference_ms):
        return f"its calibrator pass takes {measurement.reference_ms} ms"
    for name in ("spread_ms", "stderr_ms", "contention"):
        if not (_is_number(value := getattr(measurement, name)) and 0 <= value < DAY_MS):
            return f"its {name} is {value}"
    return None


def plausible(measurement: Measurement) -> Measurement | Failure:
    """The measurement, unless its numbers cannot be."""
    reason = implausible(measurement)
    return measurement if reason is None else Failure(reason, measurement.raw)


def is_whole(measurement: Measurement) -> bool:
    """Whether something can be made of its timings; stores of earlier versions may hold others."""
    if not isinstance(measurement.raw, list):
        return False
    try:
        rows = np.array(measurement.raw, dtype=np.float64).reshape(-1, len(RAW))
    except (TypeError, ValueError):
        return False
    has_unit = measurement.reference_ms is None or is_time(measurement.reference_ms)
    return has_unit and len(rows) > 0 and bool((rows[:, RAW.index("before_wall_s")] > 0).all())


def is_time(milliseconds: object) -> bool:
    """Whether it is a finite number of milliseconds above 0 and below a day."""
    return _is_number(milliseconds) and 0 < milliseconds < DAY_MS


def plausible_bytes(peak: object) -> int | None:
    """Peak memory as it is kept. Raises ValueError for what is none."""
    if peak is None:
        return None
    if isinstance(peak, bool) or not isinstance(peak, Integral) or not 0 <= int(peak) < MOST_BYTES:
        raise ValueError(f"the device told {str(peak)[:40]} bytes of peak memory")
    return int(peak)


def plausible_mj(energy: object) -> float | None:
    """Energy in millijoules as it is kept. Raises ValueError for what is none."""
    if energy is None:
        return None
    if not (_is_number(energy) and 0 < energy < MOST_MJ):
        raise ValueError(f"the device told an energy of {str(energy)[:40]} mJ")
    return float(energy)


def _is_number(value: object) -> TypeGuard[float]:
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
