"""Subnets of a job on its devices, here or with an agent: what is stored is not measured again."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from nas.errors import JobFailedError
from nas.job_run import Run, subnet_row
from nas.measuring import remote
from nas.measuring.networks import measured_before, network_keys
from nas.measuring.remote import RemoteDevice
from nas.measuring.requests import WORN_OUT, Plan, Results, measured, request_for, worn_out
from nas.measuring.targets import Target, target
from nas.results import job_devices
from nas.store import HUNG, MeasurementRow, changes
from nas.store import Device as DeviceRow
from nas.watchdog import within
from predictors.measurement.plausibility import is_whole, plausible
from predictors.measurement.rounds import Failure, Measurement
from predictors.measurement.session import Within
from search_spaces import Architecture, SearchSpace

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
    latency_by_key = {m.subnet.key: m.result.latency_ms for m in stored(run, row, purpose)}
    missing = {arch.key: arch for arch in archs if arch.key not in latency_by_key}
    _give_up(run, space, row, missing, purpose)
    failed = {key for device_id, key in run.failed if device_id == row.id}
    missing = {key: arch for key, arch in missing.items() if key not in failed}
    if missing:
        latency_by_key |= _measure_new(run, space, device, row, missing, purpose, shown)
    return {arch: latency_by_key[arch.key] for arch in archs if arch.key in latency_by_key}


def stored(run: Run, row: DeviceRow, purpose: str) -> list[MeasurementRow[Measurement]]:
    """The job's measurements on a device for a purpose, of which something can be made."""
    rows = run.store.measurements(run.lease.job, purpose)
    return [m for m in rows if m.device_id == row.id and is_whole(m.result)]


def _give_up(
    run: Run, space: SearchSpace, row: DeviceRow, missing: Mapping[str, Architecture], purpose: str
) -> None:
    """What processes hung over for good is a failure, and is not tried again: it would end this one, too."""
    noted = [event.data for event in run.store.events(run.lease.job, HUNG)]
    over = worn_out(about.get("subnet") for about in noted if about.get("device_id") == row.id)
    for key in over & missing.keys() - {key for device_id, key in run.failed if device_id == row.id}:
        run.warn(f"Subnet {key} is not measured on '{row.name}': {WORN_OUT}.")
        run.failed.add((row.id, key))
        failed = (subnet_row(space, missing[key]), Failure(WORN_OUT))
        run.store.add_measurements(run.lease, [failed], device_id=row.id, purpose=purpose)


def _measure_new(
    run: Run,
    space: SearchSpace,
    device: Target,
    row: DeviceRow,
    by_key: Mapping[str, Architecture],
    purpose: str,
    shown: tuple[int, int] | None,
) -> dict[str, float]:
    """Measures what no job has measured, stores all and tells what could not be measured."""
    networks = network_keys(space, by_key)
    before = measured_before(run, device, row, networks, purpose)
    results: Results = {key: one.result for key, one in before.items()}
    left = {key: arch for key, arch in by_key.items() if key not in before}
    if left:
        results |= _timed_anew(run, space, device, row, left, shown)
    run.store.add_measurements(
        run.lease,
        [(subnet_row(space, by_key[key]), result) for key, result in results.items()],
        device_id=row.id,
        purpose=purpose,
        networks=networks,
        reused={key: one.created_at for key, one in before.items()},
    )
    if before:
        run.warn(f"{len(before)} of {len(by_key)} networks were measured on '{device.name}' before.")
    good = {key: result for key, result in results.items() if isinstance(result, Measurement)}
    _warn_of_extras(run, device, (m for key, m in good.items() if key in left))
    return {key: measurement.latency_ms for key, measurement in good.items()}


def _timed_anew(
    run: Run,
    space: SearchSpace,
    device: Target,
    row: DeviceRow,
    by_key: Mapping[str, Architecture],
    shown: tuple[int, int] | None,
) -> Results:
    """Measures, and tells what could not be measured; subnets of several supernets one after the other."""
    results: Results = {}
    parts = space.by_member(by_key)
    for name in (name for name in space.members if name in parts):
        counted = shown and (shown[0] + len(results), shown[1])
        results |= _timed_together(run, space.members[name], device, row, parts[name], counted)
    for key, failure in results.items():
        if isinstance(failure, Failure):
            run.warn(f"Subnet {key} could not be measured on '{device.name}': {failure.reason}")
            run.failed.add((row.id, key))
    return results


def _timed_together(
    run: Run,
    space: SearchSpace,
    device: Target,
    row: DeviceRow,
    by_key: Mapping[str, Architecture],
    shown: tuple[int, int] | None,
) -> Results:
    """What one session of measurements tells of subnets of one space."""
    plan = Plan(
        space,
        by_key,
        seed=run.config.seed,
        rounds=run.config.predictor.rounds,
        max_rounds=run.config.predictor.max_rounds,
        reference_ms=run.store.reference(row.id),
    )
    visited = partial(_visited, run, shown, len(by_key))
    results = _timed(run, device, plan, visited, partial(within, device_id=row.id))
    return _under_one_reference(run, row, results)


def _under_one_reference(run: Run, row: DeviceRow, results: Results) -> Results:
    """Whoever measures on a device first says for all what its clean time is."""
    first = next((m for m in results.values() if isinstance(m, Measurement)), None)
    if first is None:
        return results
    assert first.reference_ms is not None, "it has just been measured"
    reference_ms = run.store.set_reference(row.id, first.reference_ms)
    return {
        key: plausible(m.under(reference_ms)) if isinstance(m, Measurement) else m
        for key, m in results.items()
    }


def _warn_of_extras(run: Run, device: Target, done: Iterable[Measurement]) -> None:
    reasons = {m.extras_failure: None for m in done if m.extras_failure}
    for reason in reasons:
        run.warn(f"Memory or energy could not be told on '{device.name}': {reason}")


def _timed(
    run: Run,
    device: Target,
    plan: Plan,
    visited: Callable[[int, int], None],
    limit: Within,
) -> Results:
    if not isinstance(device, RemoteDevice):
        return measured(device, plan, visited, limit)
    request = request_for(plan)
    return remote.measure(run.store, run.lease, device, request, warn=run.warn, check_stop=run.check_stop)


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
