"""Labels out of raw timings: what slow-downs do to them, how they repeat, the calibrator's clean time."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from fake_device import FakeDevice, Named

from predictors.measurement.labels import STRETCH, Row, clean_ms, ratios
from predictors.measurement.rounds import RAW, Measurement, measure, repeatability
from predictors.regression.metrics import Floats, score
from search_spaces.errors import UsageError

WALL, CPU = RAW.index("wall_s"), RAW.index("cpu_s")
STATISTICS = {"median": np.median, "minimum": np.min, "mean": np.mean}


def bursts(seed: int, level: float) -> Callable[[float], float]:
    """A machine whose slow-down changes every 100 to 300 ms, between none and twofold, around its level."""
    rng = np.random.default_rng(seed)
    ends = np.cumsum(rng.uniform(0.1, 0.3, 2_000))
    factors = np.clip(rng.normal(level, 0.35, 2_000), 1.0, None)
    return lambda now: float(factors[np.searchsorted(ends, now, side="right")])


SECONDS = {str(i): float(s) for i, s in enumerate(np.geomspace(0.015, 0.060, 24))}
TRUTH = 1e3 * np.array(list(SECONDS.values()))


def session(seed: int, *, level: float | None = None, noise: float = 0.01) -> list[Measurement]:
    """One session on such a machine, or on a quiet one, whose other work also takes the processor away."""
    rng = np.random.default_rng(seed)
    device = FakeDevice(
        SECONDS | {"calibrator": 0.003},
        slowdown=lambda count: rng.normal(1.0, noise),
        slow_at=bursts(seed, level) if level else None,
        wall_per_cpu=lambda count: 1 + rng.exponential(0.4),
    )
    subnets = {name: (lambda name=name: Named(name)) for name in SECONDS}
    found = measure(device, subnets, torch.zeros(1, 3), seed=seed, max_rounds=6, reference_ms=3.0)
    return [m for m in found.values() if isinstance(m, Measurement)]


def test_labels_on_a_busy_machine_are_right_where_other_statistics_are_not() -> None:
    found = session(1, level=1.5)
    labels = score(np.array([m.latency_ms for m in found]), TRUTH)
    assert labels.mape < 0.02
    assert labels.tau > 0.97
    for column in (WALL, CPU):
        for statistic in STATISTICS.values():
            plain = 1e3 * np.array([statistic([row[column] for row in m.raw]) for m in found])
            assert score(plain, TRUTH).mape > 10 * labels.mape
            at_best = plain * np.median(TRUTH / plain)  # a factor for all is no error of an order
            assert score(at_best, TRUTH).mape > 5 * labels.mape


def test_sigma_tells_the_error_of_labels() -> None:
    sessions = [session(seed, noise=0.04) for seed in range(6)]
    errors = [np.log([m.latency_ms for m in found]) - np.log(TRUTH) for found in sessions]
    told = np.mean([repeatability(found).sigma for found in sessions])
    assert told == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=0.25)


def test_two_sessions_agree_on_the_clean_time_though_one_is_busier() -> None:
    first, second = (
        clean_ms([m.raw for m in session(seed, level=level)]) for seed, level in ((0, 1.1), (1, 1.5))
    )
    assert first == pytest.approx(3.0, rel=0.04)
    assert second == pytest.approx(first, rel=0.05)


def rows(timings: Floats, passes: int = 1) -> list[Row]:
    """Rows of one visit a round with the given calibrator seconds, `(rows, 2)`."""
    return [
        [turn, 0, 1.0, None, before, None, after, None, passes]
        for turn, (before, after) in enumerate(timings)
    ]


def test_the_clean_time_is_that_of_quiet_stretches_whatever_the_order_of_the_rows() -> None:
    busy, quiet = np.full((5 * STRETCH, 2), 0.008), np.full((2 * STRETCH, 2), 0.004)
    raw = rows(np.concatenate([busy, quiet, busy]), passes=2)
    assert clean_ms([raw]) == pytest.approx(2.0)
    assert clean_ms([raw[1::2], raw[::2]]) == pytest.approx(2.0)


def test_the_clean_time_ignores_timings_that_are_too_short() -> None:
    timings = np.full((20 * STRETCH, 2), 0.003)
    timings[7, 0] = 0.0001
    timings[STRETCH : 2 * STRETCH] = 0.0025
    assert clean_ms([rows(timings)]) == pytest.approx(3.0)


def test_there_is_no_clean_time_without_timings() -> None:
    assert math.isnan(clean_ms([[], []]))


def test_ratios_are_to_one_pass_in_cpu_time_where_there_is_one() -> None:
    raw: list[Row] = [
        [0, 0, 9.0, 6.0, 9.0, 2.0, 9.0, 4.0, 2],
        [0, 0, 9.0, None, 2.0, None, 4.0, None, 1],
    ]
    np.testing.assert_allclose(ratios(raw), [6.0 / 1.5, 9.0 / 3.0])


def labelled(odd: float, even: float, rounds: int = 4, unit: float = 1.0) -> Measurement:
    raw: list[Row] = [
        [turn, 0, odd if turn % 2 else even, None, 1.0, None, 1.0, None, 1]
        for turn in range(rounds)
        for _ in (0, 1)
    ]
    return Measurement(1.0, 0.0, 0.0, unit, len(raw), raw, 1.0)


def test_repeatability_compares_odd_with_even_rounds() -> None:
    noise = repeatability([labelled(1.0, 1.0), labelled(2.0, 2.2), labelled(3.0, 3.0)])
    assert noise.mape == pytest.approx(0.2 / 2.1 / 3)
    assert noise.tau == 1.0
    assert noise.sigma == pytest.approx(math.log(1.1) / 2 / math.sqrt(3))
    assert repeatability([labelled(1.0, 2.0), labelled(2.0, 1.0)]).tau == -1.0


def test_sigma_weighs_halves_of_unequal_length() -> None:
    noise = repeatability([labelled(1.0, 1.1, rounds=3)] * 2)
    assert noise.sigma == pytest.approx(math.log(1.1) * math.sqrt(2 / 9))


def test_repeatability_needs_two_subnets_with_two_halves() -> None:
    with pytest.raises(UsageError):
        repeatability([labelled(1.0, 1.0)])
    with pytest.raises(UsageError):
        repeatability([labelled(1.0, 1.0), labelled(1.0, 1.0, rounds=1)])
