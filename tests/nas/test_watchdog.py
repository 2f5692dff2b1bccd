"""What ends a job: signals, somebody's request, what is late; and who is asked when nothing helps."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from torch import nn

from nas import watchdog
from nas.watchdog import OverdueError, graceful_stop, patient, within
from predictors.measurement.deadlines import Deadlines
from predictors.measurement.rounds import Failure, Measurement, measure
from predictors.measurement.session import ReferenceFailedError
from search_spaces.errors import NASError
from tests.made_device import MadeDevice

FAR = 1000.0
CALIBRATOR_SECONDS = MadeDevice("pi", 1, 2, "fp32", 1.0).calibrator_seconds()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "GRACE_SECONDS", 0.1)
    monkeypatch.setattr(watchdog, "LAST_SECONDS", 0.5)
    monkeypatch.setattr(watchdog, "RETURN_SECONDS", 0.2)
    monkeypatch.setattr(watchdog, "ASK_SECONDS", 0.02)
    monkeypatch.setattr(watchdog, "TICK_SECONDS", 0.02)


def test_the_first_signal_asks_and_the_second_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "GRACE_SECONDS", FAR)
    monkeypatch.setattr(watchdog, "LAST_SECONDS", FAR)
    before = signal.getsignal(signal.SIGTERM)
    with graceful_stop() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt) as caught:
            signal.raise_signal(signal.SIGINT)
        assert not isinstance(caught.value, OverdueError)
    assert signal.getsignal(signal.SIGTERM) == before


def test_what_does_not_end_after_a_stop_is_interrupted_once() -> None:
    with graceful_stop() as stop:
        began = time.monotonic()
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(OverdueError):
            time.sleep(FAR)
        assert 0.1 <= time.monotonic() - began < FAR
        assert stop.is_set()
        time.sleep(0.3)  # what cleans up is left alone


def test_somebody_elses_request_is_a_stop_and_then_one_signal_interrupts() -> None:
    asked = threading.Event()
    with graceful_stop(asked=asked.is_set) as stop:
        assert not stop.wait(0.1)
        asked.set()
        assert stop.wait(5.0)
        with pytest.raises(OverdueError):
            time.sleep(FAR)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_what_is_being_saved_is_not_interrupted_for_being_late() -> None:
    with graceful_stop():
        signal.raise_signal(signal.SIGTERM)
        with patient():
            time.sleep(0.3)
        with pytest.raises(OverdueError):
            time.sleep(FAR)


def deaf(seconds: float) -> None:
    """Lasts that long whatever is raised in it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            time.sleep(max(end - time.monotonic(), 0.0))
        except BaseException:
            continue


@pytest.mark.parametrize("late", [False, True])
def test_what_cannot_be_interrupted_ends_the_process(late: bool) -> None:
    left: list[NASError | None] = []
    ended: list[NASError | None] = []

    def end(error: NASError | None) -> None:
        ended.append(error)

    with graceful_stop(leave=left.append, end=end):
        if late:
            with within("The thing", 0.05):
                deaf(1.0)
        else:
            os.kill(os.getpid(), signal.SIGTERM)
            deaf(1.0)
    assert left
    assert left[0] is ended[0]
    if late:
        assert ended[0] is not None
        assert ended[0].message.startswith("The thing did not come back within 0.05 s")
    else:
        assert ended[0] is None


def test_what_is_late_gets_an_error_and_what_is_not_gets_none() -> None:
    with graceful_stop():
        with pytest.raises(TimeoutError, match=r"within 0\.05 s"), within("It", 0.05):
            time.sleep(FAR)
        with within("It", FAR):
            time.sleep(0.1)
        time.sleep(0.1)


def test_without_a_graceful_stop_and_in_other_threads_nothing_is_watched() -> None:
    ran: list[str] = []

    def run() -> None:
        with graceful_stop() as stop, within("It", 0.01):
            time.sleep(0.1)
            ran.append(f"stop: {stop.is_set()}")

    with within("It", 0.01), patient():
        time.sleep(0.1)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert ran == ["stop: False"]


class Hanging(MadeDevice):
    """Hangs over networks of a width, in one of the things that it does with them."""

    hangs: str = ""
    width: int = 0

    def _maybe(self, where: str, module: nn.Module) -> None:
        if where == self.hangs and getattr(module, "in_features", 192) == self.width:
            time.sleep(FAR)

    @contextmanager
    def prepare(self, module: nn.Module, example: Any) -> Iterator[Callable[[], None]]:
        self._maybe("prepare", module)
        with super().prepare(module, example) as run:

            def ran() -> None:
                self._maybe("time", module)
                run()

            yield ran

    def peak_memory(self, module: nn.Module, example: Any) -> int | None:
        self._maybe("memory", module)
        return super().peak_memory(module, example)


def measured(device: MadeDevice, shortest: float = 0.3) -> dict[str, Measurement | Failure]:
    import torch  # noqa: PLC0415

    widths = {"a": 3, "b": 4, "c": 5}
    subnets = {name: (lambda width=width: nn.Linear(width, 1)) for name, width in widths.items()}
    deadlines = Deadlines(shortest=shortest, first=shortest, factor=1.0)
    with graceful_stop():
        return measure(
            device,
            subnets,
            torch.zeros(2, 3),
            seed=0,
            rounds=2,
            max_rounds=2,
            within=within,
            deadlines=deadlines,
        )


def hanging(hangs: str, width: int) -> Hanging:
    device = Hanging("pi", 1, 2, "fp32", 1.0)
    device.hangs, device.width = hangs, width
    return device


@pytest.mark.parametrize("where", ["prepare", "time"])
def test_a_backend_that_hangs_over_a_subnet_fails_it_and_measures_the_others(where: str) -> None:
    found = measured(hanging(where, 4))
    assert [name for name, one in found.items() if isinstance(one, Failure)] == ["b"]
    assert found["b"] == Failure("TimeoutError: it did not come back within 0.3 s", found["b"].raw)


def test_extras_that_hang_cost_no_latency() -> None:
    found = measured(hanging("memory", 4))
    assert isinstance(found["b"], Measurement)
    assert "TimeoutError" in (found["b"].extras_failure or "")


def test_a_backend_that_hangs_over_the_calibrator_cannot_measure() -> None:
    with pytest.raises(ReferenceFailedError, match="TimeoutError: it did not come back within"):
        measured(hanging("prepare", 192))


class Odd(MadeDevice):
    """Tells odd things."""

    seconds: Any = None
    peak: Any = None
    energy: Any = ()

    def time(self, run: Callable[[], None]) -> Any:
        found = super().time(run)
        calibrated = found.wall_s == CALIBRATOR_SECONDS
        return found if calibrated or self.seconds is None else type(found)(self.seconds)

    def peak_memory(self, module: nn.Module, example: Any) -> Any:
        return self.peak

    def joules(self) -> Any:
        return next(self.energy) if self.energy else None


@pytest.mark.parametrize("seconds", [float("nan"), -1.0, 0.0, 1e308, 1e5, "1", [1.0], 10**400])
def test_times_of_a_backend_that_cannot_be_are_failures(seconds: Any) -> None:
    device = Odd("pi", 1, 2, "fp32", 1.0)
    device.seconds = seconds
    found = measured(device, shortest=60.0)
    assert all(isinstance(one, Failure) and one.reason for one in found.values())


@pytest.mark.parametrize("peak", [-1, 2**60, 10**400, 1.5, float("nan"), True, "1", [1]])
def test_memory_of_a_backend_that_cannot_be_is_left_out_and_told(peak: Any) -> None:
    device = Odd("pi", 1, 2, "fp32", 1.0)
    device.peak = peak
    for one in measured(device, shortest=60.0).values():
        assert isinstance(one, Measurement)
        assert one.peak_memory_bytes is None
        assert "bytes of peak memory" in (one.extras_failure or "")
