"""What goes wrong while measuring costs a timing or a subnet, never the session; except the calibrator."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fake_device import FakeDevice, Named
from test_measurement import EXAMPLE, SECONDS, SUBNETS, factory, measured, run
from torch import nn

from predictors.measurement.rounds import Failure, ReferenceFailedError, measure
from search_spaces.errors import UsageError

BAD = (math.nan, math.inf, 0.0, -0.001)
OTHERS = {name: pytest.approx(1e3 * SECONDS[name]) for name in ("a", "c", "d")}


class Refusing(FakeDevice):
    """Refuses one network."""

    refused = "b"

    @contextmanager
    def prepare(self, module: nn.Module, example: Any) -> Iterator[Callable[[], None]]:
        if (module.name if isinstance(module, Named) else "calibrator") == self.refused:
            raise UsageError("Device 'fake' cannot take the operator 'einsum'.")
        with super().prepare(module, example) as prepared:
            yield prepared


@pytest.mark.parametrize("seconds", BAD)
def test_impossible_timings_fail_their_subnet_only(seconds: float) -> None:
    device = FakeDevice(SECONDS | {"b": seconds})
    results = run(device)
    assert results["b"] == Failure(f"ClockError: 5 timings are no positive seconds, the last is {seconds}")
    assert list(results) == list(SUBNETS)
    assert {name: m.latency_ms for name, m in measured(results).items()} == OTHERS
    assert device.events.count("b") == 5


@pytest.mark.parametrize("factor", BAD)
@pytest.mark.parametrize("every", [3, 7])
def test_a_clock_that_jumps_now_and_then_costs_only_more_timings(factor: float, every: int) -> None:
    device = FakeDevice(SECONDS, slowdown=lambda count: factor if count % every == 0 else 1.0)
    found = measured(run(device))
    assert {name: m.latency_ms for name, m in found.items()} == {
        name: pytest.approx(1e3 * SECONDS[name]) for name in SUBNETS
    }
    assert {m.rounds for m in found.values()} == {6}
    assert all(math.isfinite(x) and x > 0 for m in found.values() for row in m.raw for x in row[2:] if x)


def test_a_bad_wall_clock_is_no_timing_though_the_cpu_clock_goes() -> None:
    device = FakeDevice(SECONDS, wall_per_cpu=lambda count: -1.0 if count % 4 == 0 else 1.0)
    found = measured(run(device))
    assert all(row[2] > 0 and row[4] > 0 for m in found.values() for row in m.raw)
    assert {m.rounds for m in found.values()} == {6}


def test_a_run_that_is_only_bad_beside_the_calibrator_ends_too() -> None:
    device = FakeDevice(SECONDS | {"a": 0.060})
    device.slowdown = lambda count: math.nan if count > 14 and device.events[-1] == "a" else 1.0
    results = run(device, subnets={"a": factory("a")})
    assert results["a"] == Failure("ClockError: 5 timings are no positive seconds, the last is nan")


def test_a_subnet_that_cannot_be_built_or_run_fails_alone_and_is_not_tried_again() -> None:
    attempts = []

    def broken() -> nn.Module:
        attempts.append(1)
        raise RuntimeError("no such layer")

    device = FakeDevice({name: s for name, s in SECONDS.items() if name != "c"})
    results = run(device, subnets={"a": factory("a"), "b": broken, "c": factory("c")})
    assert results["b"] == Failure("RuntimeError: no such layer")
    assert results["c"] == Failure("KeyError: 'c'")
    assert measured(results)["a"].rounds == 6
    assert len(attempts) == 1


def test_a_network_that_the_backend_refuses_is_a_failure_that_says_why() -> None:
    results = run(Refusing(SECONDS))
    assert results["b"] == Failure("UsageError: Device 'fake' cannot take the operator 'einsum'.")
    assert {name: m.latency_ms for name, m in measured(results).items()} == OTHERS


def test_a_network_that_failed_is_let_go_of_at_once() -> None:
    device = FakeDevice({name: s for name, s in SECONDS.items() if name != "b"})
    held: list[bool] = []
    run(device, progress=lambda done, most: held.append("b" in device.prepared))
    assert not any(held)


def test_a_failure_in_a_later_round_takes_the_timings_before_with_it() -> None:
    device = FakeDevice(SECONDS)
    device.slowdown = lambda count: 1 / 0 if device.events.count("b") > 9 and device.events[-1] == "b" else 1
    results = run(device, rounds=5)
    assert isinstance(results["b"], Failure)
    assert {m.rounds for m in measured(results).values()} == {10}


def test_all_subnets_may_fail() -> None:
    results = run(FakeDevice({"calibrator": 0.001}))
    assert len(results) == 4
    assert all(isinstance(result, Failure) for result in results.values())


def test_there_may_be_no_subnets() -> None:
    assert measure(FakeDevice(SECONDS), {}, EXAMPLE, seed=0) == {}


@pytest.mark.parametrize("seconds", BAD)
def test_a_calibrator_that_cannot_be_timed_stops_the_measurement(seconds: float) -> None:
    device = FakeDevice(SECONDS | {"calibrator": seconds})
    with pytest.raises(
        ReferenceFailedError, match=r"calibrator cannot be timed on device 'fake': ClockError"
    ):
        run(device)
    assert (device.threads, device.prepared) == (8, [])


def test_a_calibrator_that_is_refused_stops_the_measurement() -> None:
    device = Refusing(SECONDS)
    device.refused = "calibrator"
    with pytest.raises(ReferenceFailedError, match="cannot take the operator 'einsum'"):
        run(device)
    assert (device.threads, device.prepared) == (8, [])


def test_a_calibrator_that_fails_later_is_not_blamed_on_a_subnet() -> None:
    device = FakeDevice(SECONDS)
    device.slowdown = lambda count: math.nan if count > 30 and device.events[-1] == "calibrator" else 1.0
    with pytest.raises(ReferenceFailedError):
        run(device)
    assert (device.threads, device.prepared) == (8, [])


def test_an_interruption_while_a_network_runs_passes_through() -> None:
    device = FakeDevice(SECONDS)

    def interrupted() -> nn.Module:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(device, subnets={"a": factory("a"), "b": interrupted})
    assert (device.threads, device.prepared) == (8, [])


def test_extras_are_told_once_per_subnet() -> None:
    asked: list[str] = []

    def memory(name: str) -> int:
        asked.append(name)
        return 1_000 * len(name)

    found = measured(run(FakeDevice(SECONDS, memory=memory, watts=20.0)))
    assert asked == list(SUBNETS)
    assert {m.peak_memory_bytes for m in found.values()} == {1_000}
    assert {n: m.energy_mj for n, m in found.items()} == {
        n: pytest.approx(20e3 * SECONDS[n]) for n in SUBNETS
    }


def test_nothing_else_is_prepared_while_memory_is_measured() -> None:
    device = FakeDevice(SECONDS)
    held: list[list[str]] = []
    device.memory = lambda name: held.append(list(device.prepared))
    run(device)
    assert held == [[]] * 4


def test_extras_that_fail_or_are_not_wanted_cost_no_latency() -> None:
    def memory(name: str) -> int:
        raise RuntimeError("out of memory")

    failing = measured(run(FakeDevice(SECONDS, memory=memory, watts=math.nan)))
    unwanted = measured(run(FakeDevice(SECONDS, memory=len, watts=20.0), extras=False))
    for found in (failing, unwanted):
        assert {(m.peak_memory_bytes, m.energy_mj) for m in found.values()} == {(None, None)}
        assert found["a"].latency_ms == pytest.approx(3.0)


def test_a_counter_that_does_not_move_is_no_energy() -> None:
    assert measured(run(FakeDevice(SECONDS, watts=0.0)))["a"].energy_mj is None
