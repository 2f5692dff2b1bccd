"""Subnets of a job on its devices, here or with an agent: what is stored is not measured again."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from nas import measuring, remote
from nas.measuring import WORN_OUT, worn_out
from nas.remote import RemoteDevice
from nas.stages._run import Run, subnet_row
from nas.stages._watchdog import within
from nas.store import HUNG, changes, job_devices
from nas.store import Device as DeviceRow
from nas.store import Measurement as MeasurementRow
from nas.targets import Target, target
from predictors._measurement import RAW, Failure, Measurement
from predictors._plausible import is_time, plausible
from predictors._session import Within
from search_spaces import Architecture, SearchSpace
from search_spaces._errors import JobFailedError

ASK_EVERY = 20  # visits after which the store is asked whether the job has to stop


def build_device(run: Run, name: str | None) -> Target:
    """The device that the job file calls so; None: its first one."""
    name = next(iter(run.config.devices)) if name is None else name
    return target(run.store, name, run.config.devices[name])


def check_same_devices(run: Run, rows: Mapping[str, DeviceRow]) -> None:
    """Raises JobFailedError, saying what changed, when the job's measurements were made on other devices.

    rows: the job's devices as they are now, by the names that the job file gives them.
    """
    ours = {row.id for row in rows.values()}
    others = {stage.name for stage in run.store.stages(run.lease.job)}
    used = {m.device_id for m in run.store.measurements(run.lease.job)}
    used = {device_id for device_id in used if job_devices.measured_elsewhere(device_id) not in others}
    for before in run.store.devices():
        if before.id in used and before.id not in ours:
            # They are measured in this order, so that the first that is not used is the one that has changed.
            name = next((name for name, row in rows.items() if row.id not in used), next(iter(rows)))
            now = rows[name]
            raise JobFailedError(
                f"The device '{name}' is not the one that this job measured on: "
                f"{changes(before.fingerprint, now.fingerprint)}.",
                "Go on where it began, or start a new job here.",
            )


def measure(
    run: Run,
    space: SearchSpace,
    device: Target,
    row: DeviceRow,
    archs: Sequence[Architecture],
    *,
    purpose: str,
    shown: tuple[int, int] | None = None,
) -> dict[Architecture, float]:
    """Latencies in ms of the architectures that could be measured; what the store has is not measured.

    shown: how many subnets the stage has measured before, of how many; None: it counts something else.
    What failed is tried once in every attempt at the job: whatever was wrong may be mended.
    """
    known = {m.subnet.key: m.latency_ms for m in stored(run, row, purpose) if m.latency_ms is not None}
    missing = {arch.key: arch for arch in archs if arch.key not in known}
    _give_up(run, space, row, missing, purpose)
    failed = {key for device_id, key in run.failed if device_id == row.id}
    missing = {key: arch for key, arch in missing.items() if key not in failed}
    if missing:
        known |= _measure_new(run, space, device, row, missing, purpose, shown)
    return {arch: known[arch.key] for arch in archs if arch.key in known}


def stored(run: Run, row: DeviceRow, purpose: str, state: str = "ok") -> list[MeasurementRow]:
    """The job's measurements on a device for a purpose, that succeeded or that failed."""
    found = run.store.measurements(run.lease.job, purpose, state=state)
    return [m for m in found if m.device_id == row.id and (state != "ok" or _is_whole(m))]


def _is_whole(row: MeasurementRow) -> bool:
    """Whether something can be made of its timings; stores of earlier versions may hold others."""
    if not isinstance(row.raw, list):
        return False
    try:
        found = np.array(row.raw, dtype=np.float64).reshape(-1, len(RAW))
    except (TypeError, ValueError):
        return False
    known = row.reference_ms is None or is_time(row.reference_ms)
    return known and bool((found[:, RAW.index("before_wall_s")] > 0).all())


def as_measurements(rows: Iterable[MeasurementRow]) -> list[Measurement]:
    """Rows of the store as the measuring code knows them."""
    return [
        Measurement(
            latency_ms=r.latency_ms or 0.0,
            spread_ms=r.spread_ms or 0.0,
            stderr_ms=r.stderr_ms or 0.0,
            reference_ms=r.reference_ms or 0.0,
            rounds=r.rounds,
            raw=r.raw,
            contention=r.contention or 1.0,
            peak_memory_bytes=r.memory_bytes,
            energy_mj=r.energy_mj,
        )
        for r in rows
    ]


def _give_up(
    run: Run, space: SearchSpace, row: DeviceRow, missing: Mapping[str, Architecture], purpose: str
) -> None:
    """What processes hung over for good is a failure, and is not tried again: it would end this one, too."""
    noted = [event.data for event in run.store.events(run.lease.job, HUNG)]
    over = worn_out(about.get("subnet") for about in noted if about.get("device_id") == row.id)
    for key in over & missing.keys() - {key for device_id, key in run.failed if device_id == row.id}:
        run.warn(f"Subnet {key} is not measured on '{row.name}': {WORN_OUT}.")
        run.failed.add((row.id, key))
        failed = measuring.row(subnet_row(space, missing[key]), row.id, purpose, Failure(WORN_OUT))
        run.store.add_measurements(run.lease, [failed])


def _measure_new(
    run: Run,
    space: SearchSpace,
    device: Target,
    row: DeviceRow,
    by_key: Mapping[str, Architecture],
    purpose: str,
    shown: tuple[int, int] | None,
) -> dict[str, float]:
    """Measures, stores and tells what could not be measured."""
    request = measuring.request(
        space,
        by_key.values(),
        seed=run.config.seed,
        rounds=run.config.predictor.rounds,
        max_rounds=run.config.predictor.max_rounds,
        reference_ms=run.store.reference(row.id),
    )
    visited = partial(_visited, run, shown, len(by_key))
    result = _here_or_there(run, device, request, visited, partial(within, device_id=row.id))
    result = _under_one_reference(run, row, result)
    done = {key: m for key, m in result.items() if isinstance(m, Measurement)}
    for key, failure in result.items():
        if isinstance(failure, Failure):
            run.warn(f"Subnet {key} could not be measured on '{device.name}': {failure.reason}")
            run.failed.add((row.id, key))
    rows = [measuring.row(subnet_row(space, by_key[key]), row.id, purpose, m) for key, m in result.items()]
    run.store.add_measurements(run.lease, rows)
    _warn_of_extras(run, device, done.values())
    return {key: m.latency_ms for key, m in done.items()}


def _under_one_reference(run: Run, row: DeviceRow, found: measuring.Results) -> measuring.Results:
    """Whoever measures on a device first says for all what its clean time is."""
    first = next((m for m in found.values() if isinstance(m, Measurement)), None)
    if first is None:
        return found
    reference_ms = run.store.set_reference(row.id, first.reference_ms)
    return {
        key: plausible(m.under(reference_ms)) if isinstance(m, Measurement) else m for key, m in found.items()
    }


def _warn_of_extras(run: Run, device: Target, done: Iterable[Measurement]) -> None:
    reasons = {m.extras_failure: None for m in done if m.extras_failure}
    for reason in reasons:
        run.warn(f"Memory or energy could not be told on '{device.name}': {reason}")


def _here_or_there(
    run: Run,
    device: Target,
    request: Mapping[str, Any],
    visited: Callable[[int, int], None],
    limit: Within,
) -> measuring.Results:
    if isinstance(device, RemoteDevice):
        return remote.measure(run.store, run.lease, device, request, warn=run.warn, check_stop=run.check_stop)
    return measuring.results(measuring.execute(device, request, visited, limit))


def _visited(run: Run, shown: tuple[int, int] | None, count: int, done: int, most: int) -> None:
    """Tells the visits of a measurement of `count` subnets as a share of these, in what the stage counts."""
    if shown is not None:
        before, total = shown
        run.progress.update(min(before + count * done // max(most, 1), total), total)
    _ask_now_and_then(run, done)


def progress(run: Run, done: int, total: int) -> None:
    """Shows how far a measurement is, and asks now and then whether the job has to stop."""
    run.progress.update(done, total)
    _ask_now_and_then(run, done)


def _ask_now_and_then(run: Run, done: int) -> None:
    if run.stop.is_set() or done % ASK_EVERY == 0:
        run.check_stop()
