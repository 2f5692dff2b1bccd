"""The measuring protocol, on a device whose clock is known."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import pytest
from fake_device import FakeDevice, Named
from torch import nn

from predictors._measurement import Failure, Measurement, ReferenceFailedError, measure, repeatability
from search_spaces._errors import UsageError

SECONDS = {"reference": 0.002, "a": 0.003, "b": 0.005, "c": 0.020, "d": 0.001}
SUBNETS = ("a", "b", "c", "d")


def run(device: FakeDevice, **options) -> dict[str, Measurement | Failure]:
    subnets = options.pop("subnets", {name: factory(name) for name in SUBNETS})
    return measure(device, subnets, None, **{"reference": factory("reference"), "seed": 0} | options)


def factory(name: str) -> Callable[[], nn.Module]:
    return lambda: Named(name)


def measured(results: dict[str, Measurement | Failure]) -> dict[str, Measurement]:
    return {name: result for name, result in results.items() if isinstance(result, Measurement)}


def visits(device: FakeDevice) -> list[list[str]]:
    """The events after the reference's warm-up, four a visit."""
    return [device.events[i : i + 4] for i in range(1, len(device.events), 4)]


def test_every_timing_follows_a_warm_up_and_stands_between_two_of_the_reference() -> None:
    device = FakeDevice(SECONDS)
    run(device)
    assert all(visit == [visit[0], "reference", visit[0], "reference"] for visit in visits(device))


def test_rounds_are_interleaved_in_a_fresh_seeded_order() -> None:
    device, again, other = FakeDevice(SECONDS), FakeDevice(SECONDS), FakeDevice(SECONDS)
    run(device), run(again), run(other, seed=1)
    order = [visit[0] for visit in visits(device)]
    rounds = [tuple(order[i : i + 4]) for i in range(0, len(order), 4)]
    assert [sorted(names) for names in rounds] == [list(SUBNETS)] * 5
    assert len(set(rounds)) > 1
    assert device.events == again.events
    assert device.events != other.events


def test_the_bracket_removes_a_drifting_clock_exactly() -> None:
    device = FakeDevice(SECONDS, slowdown=lambda count: 1 + 0.05 * count)
    results = measured(run(device))
    reference_ms = results["a"].reference_ms
    for name in SUBNETS:
        assert results[name].latency_ms / reference_ms == pytest.approx(SECONDS[name] / SECONDS["reference"])
        assert results[name].spread_ms == pytest.approx(0, abs=1e-9)


def test_latencies_are_milliseconds_at_the_reference_networks_clean_speed() -> None:
    device = FakeDevice(SECONDS, slowdown=lambda count: 3.0 if count > 20 else 1.0)
    results = measured(run(device, rounds=20))
    assert results["a"].reference_ms == pytest.approx(2.0)
    assert results["c"].latency_ms == pytest.approx(20.0)


def test_the_median_ignores_a_hiccup() -> None:
    device = FakeDevice(SECONDS, slowdown=lambda count: 50.0 if count == 8 else 1.0)
    assert all(m.latency_ms == pytest.approx(1e3 * SECONDS[n]) for n, m in measured(run(device)).items())


def test_spread_is_the_interquartile_range_of_the_rounds() -> None:
    slow = iter([1.0, 1.1, 1.2, 1.3, 1.4])
    device = FakeDevice(SECONDS, slowdown=lambda count: next(slow) if count % 4 == 0 else 1.0)
    result = measured(run(device, subnets={"a": factory("a")}, max_rounds=5))["a"]
    assert result.latency_ms == pytest.approx(3.6)
    assert result.spread_ms == pytest.approx(0.6)
    assert result.rounds == len(result.raw) == 5


def test_measuring_stops_when_the_labels_are_good_or_the_budget_is_used() -> None:
    rng = np.random.default_rng(0)
    quiet, noisy = FakeDevice(SECONDS), FakeDevice(SECONDS, slowdown=lambda count: rng.uniform(1, 3))
    assert {m.rounds for m in measured(run(quiet, rounds=3)).values()} == {3}
    assert {m.rounds for m in measured(run(noisy, rounds=3, max_rounds=9)).values()} == {9}
    assert {m.rounds for m in measured(run(noisy, rounds=3, max_rounds=9, target_error=9.0)).values()} == {3}


@pytest.mark.parametrize("seconds", [math.nan, math.inf, 0.0, -0.001])
def test_an_impossible_timing_fails_its_subnet_only(seconds: float) -> None:
    results = run(FakeDevice(SECONDS | {"b": seconds}))
    assert results["b"] == Failure(f"ValueError: a timing of {seconds} s")
    assert list(results) == list(SUBNETS)
    assert {n: m.latency_ms for n, m in measured(results).items()} == {
        n: pytest.approx(1e3 * SECONDS[n]) for n in ("a", "c", "d")
    }


def test_a_subnet_that_cannot_be_built_or_run_fails_alone_and_is_not_tried_again() -> None:
    attempts = []

    def broken() -> nn.Module:
        attempts.append(1)
        raise RuntimeError("no such layer")

    device = FakeDevice({name: s for name, s in SECONDS.items() if name != "c"})
    results = run(device, subnets={"a": factory("a"), "b": broken, "c": factory("c")})
    assert results["b"] == Failure("RuntimeError: no such layer")
    assert results["c"] == Failure("KeyError: 'c'")
    assert measured(results)["a"].rounds == 5
    assert len(attempts) == 1


def test_all_subnets_may_fail() -> None:
    results = run(FakeDevice({"reference": 0.001}))
    assert all(isinstance(result, Failure) for result in results.values())


def test_a_reference_that_cannot_be_timed_stops_the_measurement() -> None:
    device = FakeDevice(SECONDS | {"reference": 0.0})
    with pytest.raises(ReferenceFailedError, match="reference network cannot be timed on device 'fake'"):
        run(device)
    assert (device.threads, device.prepared) == (8, [])


def test_a_reference_that_fails_later_is_not_blamed_on_a_subnet() -> None:
    with pytest.raises(ReferenceFailedError):
        run(FakeDevice(SECONDS, slowdown=lambda count: math.nan if count == 7 else 1.0))


def test_the_process_is_restored_also_when_progress_stops_it() -> None:
    def stop(done: int, most: int) -> None:
        if done == 6:
            raise KeyboardInterrupt

    device = FakeDevice(SECONDS)
    with pytest.raises(KeyboardInterrupt):
        run(device, progress=stop)
    assert (device.threads, device.prepared) == (8, [])


def test_progress_counts_timings() -> None:
    calls: list[tuple[int, int]] = []
    run(FakeDevice(SECONDS), progress=lambda done, most: calls.append((done, most)))
    assert calls == [(i, 80) for i in range(1, 21)]


def test_only_as_many_modules_are_kept_as_fit() -> None:
    built: list[str] = []

    def counted(name: str) -> Callable[[], nn.Module]:
        return lambda: built.append(name) or Named(name)

    device = FakeDevice(SECONDS)
    run(device, subnets={name: counted(name) for name in SUBNETS}, cache_bytes=9_000)
    assert sorted(map(built.count, SUBNETS)) == [1, 1, 5, 5]
    assert device.most_prepared == 4
    assert device.prepared == []


def test_measurements_are_plain_data() -> None:
    result = measured(run(FakeDevice(SECONDS)))["a"]
    assert Measurement(**json.loads(json.dumps(asdict(result)))) == result


@pytest.mark.parametrize("rounds", [(1, 5), (6, 5)])
def test_impossible_rounds_are_refused(rounds: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="rounds"):
        run(FakeDevice(SECONDS), rounds=rounds[0], max_rounds=rounds[1])


def label(odd: float, even: float) -> Measurement:
    return Measurement(1.0, 0.0, 1.0, 4, [[odd, 1.0, 1.0], [even, 1.0, 1.0]] * 2)


def test_repeatability_compares_odd_with_even_rounds() -> None:
    noise = repeatability([label(1.0, 1.0), label(2.0, 2.2), label(3.0, 3.0)])
    assert noise.mape == pytest.approx(0.2 / 2.1 / 3)
    assert noise.tau == 1.0
    assert repeatability([label(1.0, 2.0), label(2.0, 1.0)]).tau == -1.0
    with pytest.raises(UsageError):
        repeatability([label(1.0, 1.0)])
