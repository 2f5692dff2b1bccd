"""Latencies that repeat on a busy machine: interleaved rounds, each timing between two of a calibrator.

A machine's slow-downs last some 100 ms and hit all networks alike. The ratio of a timing to the calibrator
timings right before and after it is free of them; the median of the ratios over all rounds is the label.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import numpy as np

from predictors.devices import Device, Example, own_calibrator
from predictors.measurement.deadlines import Deadlines
from predictors.measurement.labels import (
    RAW,
    Failure,
    Measurement,
    Repeatability,
    Row,
    clean_ms,
    labelled,
    repeatability,
)
from predictors.measurement.plausibility import plausible, plausible_bytes, plausible_mj
from predictors.measurement.session import (
    EXTRAS,
    TIMINGS,
    Factory,
    ReferenceFailedError,
    Session,
    Within,
    calibrator_failed,
    unlimited,
)
from search_spaces.errors import UsageError

__all__ = [
    "RAW",
    "Failure",
    "Measurement",
    "ReferenceFailedError",
    "Repeatability",
    "measure",
    "repeatability",
]

ENERGY_S = 0.4  # counters step some tens of times a second
MOST_RUNS = 10_000
CALIBRATOR_WARM_UP = 10


def measure(
    device: Device,
    subnets: Mapping[str, Factory],
    example: Example,
    *,
    seed: int,
    rounds: int = 3,
    max_rounds: int = 10,
    target_error: float = 0.015,
    reference_ms: float | None = None,
    cache_bytes: int = 2**30,
    extras: bool = True,
    progress: Callable[[int, int], None] | None = None,
    within: Within = unlimited,
    deadlines: Deadlines | None = None,
) -> dict[str, Measurement | Failure]:
    """The latencies of all `subnets` (name -> factory of its module), in their order.

    rounds, max_rounds: the fewest and the most visits to each subnet, of two timings each; in between, the
        first round that brings the median of the subnets' relative standard errors below `target_error` is
        the last.
    reference_ms: the clean time of a calibrator pass on this device, if it is known, else this session's.
        Labels of sessions compare best under the same one.
    cache_bytes: weights of modules that are kept between rounds; the others are built anew for every visit.
    extras: whether memory and energy are told, where the device can; the modules are then built once more.
    progress: called after every visit with the visits done and the most there can be, and after every
        subnet's extras with the same numbers again; may raise to stop.
    within: a context that raises TimeoutError inside when what it is told of lasts longer than these seconds;
        a subnet that far exceeds the others (`deadlines`) is a Failure.
    Raises ReferenceFailedError when the calibrator cannot be timed, and UsageError for impossible rounds, an
    impossible `reference_ms` or an example of another batch size than the device's. A subnet that cannot be
    built, prepared or timed in the fewest rounds is a Failure.
    """
    _check(device, example, rounds, max_rounds, reference_ms)
    rng = np.random.default_rng(seed)
    done, most = 0, max_rounds * len(subnets)
    with device.session():
        with _session(device, example, cache_bytes, subnets, within, deadlines or Deadlines()) as session:
            for turn in range(max_rounds):
                for position, name in enumerate(session.order(rng)):
                    session.visit(name, subnets[name], (turn, position))
                    done = turn * len(subnets) + position + 1
                    if progress:
                        progress(done, most)
                if turn + 1 >= rounds and session.relative_error() < target_error:
                    break
        results = _labels(session, reference_ms, rounds)
        if extras:
            for name, result in results.items():
                if isinstance(result, Measurement):
                    results[name] = _with_extras(result, session, name, subnets[name])
                    if progress:
                        progress(done, most)
    return results


@contextmanager
def _session(
    device: Device,
    example: Example,
    cache_bytes: int,
    subnets: Mapping[str, Factory],
    within: Within,
    deadlines: Deadlines,
) -> Iterator[Session]:
    """A session with its calibrator warm; everything prepared in it ends with it."""
    from predictors.measurement.calibrator import calibrator, calibrator_example  # noqa: PLC0415 - imports torch

    with ExitStack() as stack:
        with within(f"The calibrator on device '{device.name}'", deadlines.seconds("calibrator")):
            try:
                block = own_calibrator(device) or (calibrator(), calibrator_example())
                run = stack.enter_context(device.prepare(*block))
            except Exception as error:
                raise calibrator_failed(device, error) from error
            raw: dict[str, list[Row]] = {name: [] for name in subnets}
            session = Session(device, example, run, stack, cache_bytes, raw, within, deadlines)
            for _ in range(CALIBRATOR_WARM_UP):
                session.calibrate(1)
        yield session


def _labels(session: Session, reference_ms: float | None, rounds: int) -> dict[str, Measurement | Failure]:
    if reference_ms is None:
        reference_ms = clean_ms(session.raw.values())
    return {
        name: plausible(labelled(rows, reference_ms))
        if name not in session.failures or len(rows) >= TIMINGS * rounds
        else Failure(session.failures[name].reason, rows)
        for name, rows in session.raw.items()
    }


def _with_extras(timed: Measurement, session: Session, name: str, factory: Factory) -> Measurement:
    """What goes wrong here costs no latency, but is told."""
    device, example = session.device, session.example
    try:
        with session.limited(name, EXTRAS):
            timed = replace(timed, peak_memory_bytes=plausible_bytes(device.peak_memory(factory(), example)))
            return replace(timed, energy_mj=plausible_mj(_energy_mj(device, factory, example)))
    except Exception as error:
        return replace(timed, extras_failure=f"{type(error).__name__}: {error}")


def _energy_mj(device: Device, factory: Factory, example: Example) -> float | None:
    """Millijoules of one batch, the mean over some tenths of a second; None where there is no counter.

    What the hardware would have drawn anyway, idle or for its other users, is not subtracted.
    """
    if device.joules() is None:
        return None
    with device.prepare(factory(), example) as run:
        device.time(run)
        start, spent, runs = device.joules(), 0.0, 0
        while spent < ENERGY_S and runs < MOST_RUNS:
            spent += device.time(run).wall_s
            runs += 1
        end = device.joules()
    return 1e3 * (end - start) / runs if start is not None and end is not None and end > start else None


def _check(
    device: Device, example: Example, rounds: int, max_rounds: int, reference_ms: float | None
) -> None:
    if not 2 <= rounds <= max_rounds:
        raise UsageError(f"Cannot measure {rounds} to {max_rounds} rounds.", "The fewest are 2.")
    if reference_ms is not None and not (math.isfinite(reference_ms) and reference_ms > 0):
        raise UsageError(f"A calibrator pass cannot take {reference_ms} ms.", "Leave it out to measure it.")
    samples = (example[0] if isinstance(example, tuple) else example).shape[0]
    if samples != device.batch:
        raise UsageError(
            f"The example has {samples} samples, but device '{device.name}' a batch of {device.batch}."
        )
