"""The measuring protocol, on a device whose clock is known."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import pytest
import torch
from fake_device import FakeDevice, Named
from torch import nn

from predictors.devices import Timing
from predictors.measurement.rounds import RAW, Failure, Measurement, measure
from predictors.measurement.session import runs_for
from search_spaces.errors import UsageError

SECONDS = {"calibrator": 0.002, "a": 0.003, "b": 0.005, "c": 0.020, "d": 0.001}
SUBNETS = ("a", "b", "c", "d")
EXAMPLE = torch.zeros(1, 3)


def run(device: FakeDevice, **options) -> dict[str, Measurement | Failure]:
    subnets = options.pop("subnets", {name: factory(name) for name in SUBNETS})
    example = options.pop("example", EXAMPLE)
    return measure(device, subnets, example, **{"seed": 0, "rounds": 3} | options)


def factory(name: str) -> Callable[[], nn.Module]:
    return lambda: Named(name)


def measured(results: dict[str, Measurement | Failure]) -> dict[str, Measurement]:
    return {name: result for name, result in results.items() if isinstance(result, Measurement)}


def told(device: FakeDevice) -> str:
    """What it ran: c for the calibrator, r for a subnet."""
    return "".join("c" if name == "calibrator" else "r" for name in device.events)


def test_a_visit_is_calibrator_twice_warm_up_and_two_runs_between_calibrator_timings() -> None:
    device = FakeDevice(SECONDS | {"a": 0.030})
    run(device, subnets={"a": factory("a")}, rounds=2)
    assert told(device) == "c" * 10 + "ccrrcrcrc" + "ccrcrcrc"


def test_a_network_just_built_is_warmed_up_longer_the_faster_it_is() -> None:
    device = FakeDevice(SECONDS | {"a": 3e-4})
    run(device, subnets={"a": factory("a")}, rounds=2)
    runs = "r" * (1 + 7)  # in 2 ms, the first of them untimed
    visit = f"c{runs}c{runs}c"
    assert told(device) == "c" * 10 + "cc" + "r" * 10 + visit + "ccr" + visit


def test_a_short_run_is_the_mean_of_several() -> None:
    device = FakeDevice(SECONDS | {"a": 1e-4})
    found = run(device, subnets={"a": factory("a")}, rounds=2)["a"]
    assert isinstance(found, Measurement)
    walls = [row[RAW.index("wall_s")] for row in found.raw]
    assert walls == pytest.approx([1e-4] * len(walls), rel=0.5)
    assert runs_for(Timing(3e-4)) == 7
    assert runs_for(Timing(2e-3)) == runs_for(Timing(1.0)) == 1
    assert runs_for(Timing(1e-9)) == 50


def test_rounds_are_interleaved_in_a_fresh_seeded_order() -> None:
    device, again, other = FakeDevice(SECONDS), FakeDevice(SECONDS), FakeDevice(SECONDS)
    results = measured(run(device))
    run(again), run(other, seed=1)
    rounds = [
        [name for _, name in sorted((m.raw[2 * turn][1], name) for name, m in results.items())]
        for turn in range(3)
    ]
    assert [sorted(names) for names in rounds] == [list(SUBNETS)] * 3
    assert len(set(map(tuple, rounds))) > 1
    assert device.events == again.events
    assert device.events != other.events


def test_the_bracket_removes_a_drifting_clock_exactly() -> None:
    device = FakeDevice(SECONDS, slowdown=lambda count: 1 + 0.05 * count)
    for name, found in measured(run(device)).items():
        ratio = SECONDS[name] / SECONDS["calibrator"]
        assert found.latency_ms / found.reference_ms == pytest.approx(ratio)
        assert found.spread_ms == pytest.approx(0, abs=1e-9)


def test_latencies_are_milliseconds_at_the_calibrators_clean_speed() -> None:
    results = measured(run(FakeDevice(SECONDS, slowdown=lambda count: 3.0 if count > 60 else 1.0)))
    assert results["a"].reference_ms == pytest.approx(2.0)
    assert results["c"].latency_ms == pytest.approx(20.0)


def test_a_device_whose_clean_time_is_known_keeps_it() -> None:
    results = measured(run(FakeDevice(SECONDS, slowdown=lambda count: 3.0), reference_ms=2.0))
    assert {name: m.latency_ms for name, m in results.items()} == {
        name: pytest.approx(1e3 * SECONDS[name]) for name in SUBNETS
    }
    assert results["a"].reference_ms == 2.0


def test_the_median_ignores_a_hiccup() -> None:
    device = FakeDevice(SECONDS, slowdown=lambda count: 50.0 if count == 31 else 1.0)
    assert all(m.latency_ms == pytest.approx(1e3 * SECONDS[n]) for n, m in measured(run(device)).items())


def test_slow_networks_get_a_longer_calibrator() -> None:
    seconds = {"calibrator": 0.002, "a": 0.003, "b": 0.070, "c": 0.400, "d": 60.0}
    results = measured(run(FakeDevice(seconds, wall_per_cpu=lambda count: 1.0), rounds=2))
    passes = {name: {row[RAW.index("calibrator_passes")] for row in m.raw} for name, m in results.items()}
    assert passes == {"a": {1}, "b": {2}, "c": {8}, "d": {100}}
    assert all(m.latency_ms == pytest.approx(1e3 * seconds[n]) for n, m in results.items())


def test_a_fast_device_passes_the_calibrator_several_times() -> None:
    results = measured(
        run(FakeDevice({"calibrator": 1e-4, "a": 2e-4}, wall_per_cpu=None), subnets={"a": factory("a")})
    )
    assert {row[RAW.index("calibrator_passes")] for row in results["a"].raw} == {10}
    assert results["a"].latency_ms == pytest.approx(0.2)


def test_rows_hold_every_number_of_a_timing() -> None:
    device = FakeDevice(SECONDS | {"a": 0.070}, wall_per_cpu=lambda count: 1.5)
    found = measured(run(device, subnets={"a": factory("a")}, rounds=2))["a"]
    wall, cpu = pytest.approx(0.006), pytest.approx(0.004)
    row = [pytest.approx(0.105), pytest.approx(0.070), wall, cpu, wall, cpu, 2]
    assert found.raw == [[turn, 0, *row] for turn in (0, 0, 1, 1)]
    assert found.rounds == 4
    assert len(RAW) == len(found.raw[0])
    assert found.contention == pytest.approx(1.5)


def test_labels_are_of_wall_time_where_there_is_no_cpu_time() -> None:
    found = measured(run(FakeDevice(SECONDS)))["b"]
    assert {row[RAW.index(f"{side}cpu_s")] for row in found.raw for side in ("", "before_", "after_")} == {
        None
    }
    assert found.latency_ms == pytest.approx(5.0)
    assert found.contention == 1.0


def test_labels_are_of_cpu_time_where_there_is_one() -> None:
    rng = np.random.default_rng(0)
    found = measured(run(FakeDevice(SECONDS, wall_per_cpu=lambda count: rng.uniform(1, 3))))
    assert all(m.latency_ms == pytest.approx(1e3 * SECONDS[n]) for n, m in found.items())
    assert found["a"].contention > 1.05


def test_spread_and_standard_error_are_those_of_the_timings() -> None:
    slow = iter([1.0, 1.1, 1.2, 1.3])
    device = FakeDevice(
        {"calibrator": 0.002, "a": 0.060},
        slowdown=lambda count: next(slow) if count in (17, 20, 28, 31) else 1.0,
    )
    found = measured(run(device, subnets={"a": factory("a")}, rounds=2, max_rounds=2))["a"]
    assert found.latency_ms == pytest.approx(69.0)
    assert found.spread_ms == pytest.approx(9.0)
    assert found.stderr_ms == pytest.approx(math.sqrt(math.pi / 2) * 9.0 / 1.349 / 2)


def test_measuring_stops_when_the_labels_are_good_or_the_budget_is_used() -> None:
    rng = np.random.default_rng(0)
    quiet, noisy = FakeDevice(SECONDS), FakeDevice(SECONDS, slowdown=lambda count: rng.uniform(1, 3))
    assert {m.rounds for m in measured(run(quiet)).values()} == {6}
    assert {m.rounds for m in measured(run(noisy, max_rounds=7)).values()} == {14}
    assert {m.rounds for m in measured(run(noisy, max_rounds=7, target_error=9.0)).values()} == {6}


def test_progress_counts_visits_and_is_called_again_for_extras() -> None:
    calls: list[tuple[int, int]] = []
    run(FakeDevice(SECONDS), progress=lambda done, most: calls.append((done, most)))
    assert calls == [(i, 40) for i in range(1, 13)] + [(12, 40)] * 4


@pytest.mark.parametrize("at", [6, 13])
def test_the_process_is_restored_when_progress_stops_it(at: int) -> None:
    calls: list[int] = []

    def stop(done: int, most: int) -> None:
        calls.append(done)
        if len(calls) == at:
            raise KeyboardInterrupt

    device = FakeDevice(SECONDS)
    with pytest.raises(KeyboardInterrupt):
        run(device, progress=stop)
    assert (device.threads, device.prepared) == (8, [])


def test_only_as_many_modules_are_kept_as_fit() -> None:
    built: list[str] = []

    def counted(name: str) -> Callable[[], nn.Module]:
        return lambda: built.append(name) or Named(name)

    device = FakeDevice(SECONDS)
    run(device, subnets={n: counted(n) for n in SUBNETS}, cache_bytes=9_000, extras=False)
    assert sorted(map(built.count, SUBNETS)) == [1, 1, 3, 3]
    assert device.most_prepared == 4
    assert device.prepared == []


def test_measurements_are_plain_data() -> None:
    found = measured(run(FakeDevice(SECONDS)))["a"]
    assert Measurement(**json.loads(json.dumps(asdict(found)))) == found


@pytest.mark.parametrize("rounds", [(1, 5), (6, 5)])
def test_impossible_rounds_are_refused(rounds: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="rounds"):
        run(FakeDevice(SECONDS), rounds=rounds[0], max_rounds=rounds[1])


@pytest.mark.parametrize("example", [torch.zeros(9, 3), (torch.zeros(9, 3), torch.zeros(1))])
def test_an_example_of_another_batch_size_is_refused(example: object) -> None:
    with pytest.raises(UsageError, match=r"example has 9 samples, but device 'fake' a batch of 1"):
        run(FakeDevice(SECONDS), example=example)


@pytest.mark.parametrize("reference_ms", [0.0, -1.0, math.nan, math.inf])
def test_an_impossible_clean_time_is_refused(reference_ms: float) -> None:
    with pytest.raises(UsageError, match="calibrator pass cannot take"):
        run(FakeDevice(SECONDS), reference_ms=reference_ms)
