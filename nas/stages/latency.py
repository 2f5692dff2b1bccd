"""Stage `latency`: a sample of subnets is measured on the device, and a predictor is fitted to it.

Latency does not depend on weights. The stage therefore stands before the training: a limit that no subnet
can keep is found in seconds.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

import supernet
from nas.config import JobConfig
from nas.spaces import check_limits, exact_metrics
from nas.stages._run import Run, subnet_row
from nas.store import Device as DeviceRow
from nas.store import Job, NewMeasurement, Store
from nas.store import Measurement as MeasurementRow
from predictors import _measurement as measurement
from predictors._metrics import score
from predictors._predictor import Predictor, held_out
from predictors.devices import Device
from search_spaces import Architecture, SearchSpace
from search_spaces._errors import JobFailedError
from search_spaces._registry import load
from search_spaces._space import Codes

UNIFORM = 6
SMALLEST_SAMPLE = 10
ASK_EVERY = 20  # timings after which the store is asked whether the job has to stop


@dataclass(frozen=True)
class Latency:
    """The device of a job and its fitted predictor.

    margin: standard deviations that limits on latency are kept by.
    """

    device: DeviceRow
    predictor: Predictor
    margin: float = 0.0

    def predict(self, codes: Codes) -> Any:
        """Milliseconds (n,)."""
        return self.predictor.predict(codes)[0]

    def bound(self, codes: Codes) -> Any:
        """Milliseconds (n,) to which limits are applied: the prediction with its one-sided margin."""
        mean, std = self.predictor.predict(codes)
        return mean + self.margin * std


def latency(run: Run, space: SearchSpace) -> Latency:
    """Measures and fits, or finds both done; raises UsageError when no subnet keeps the limits on latency."""
    device = build_device(run)
    row = run.store.register_device(device.name, device.fingerprint())
    _check_same_device(run, row)
    section = run.config.predictor.model_dump(mode="json")
    run.once("latency", {"predictor": section}, lambda: _measure_and_fit(run, space, device, row))
    fitted = stored_latency(run.store, run.lease.job, run.config, space, row)
    assert fitted is not None, "the stage is done"
    check_limits(
        space,
        run.config.limits,
        lambda codes: exact_metrics(space, codes) | {"latency_ms": fitted.bound(codes)},
    )
    return fitted


def stored_latency(
    store: Store, job: Job, config: JobConfig, space: SearchSpace, device: DeviceRow
) -> Latency | None:
    """The job's predictor for the device, or None when there is none yet."""
    stored = store.predictor(job, device.id)
    if stored is None:
        return None
    predictor = load("predictors", stored.kind).build(space).from_json(stored.state)
    return Latency(device, predictor, config.search.latency_margin)


def _check_same_device(run: Run, now: DeviceRow) -> None:
    """Raises JobFailedError, saying what changed, when the job's measurements were made on another device."""
    used = {m.device_id for m in run.store.measurements(run.lease.job)}
    for before in run.store.devices():
        if before.id not in used or before.id == now.id:
            continue
        changed = [
            f"{name} was {before.fingerprint.get(name)!r} and is {value!r}"
            for name, value in now.fingerprint.items()
            if before.fingerprint.get(name) != value
        ]
        raise JobFailedError(
            f"The device '{now.name}' is not the one that this job measured on: {'; '.join(changed)}.",
            "Go on where it began, or start a new job here.",
        )


def build_device(run: Run) -> Device:
    """The device of the job file."""
    name, config = next(iter(run.config.devices.items()))
    options = config.model_dump(exclude={"backend"})
    device: Device = load("predictors.devices", config.backend).build(name=name, **options)
    return device


def measure(
    run: Run,
    space: SearchSpace,
    device: Device,
    row: DeviceRow,
    archs: Sequence[Architecture],
    *,
    purpose: str,
) -> dict[Architecture, float]:
    """Latencies in ms of the architectures that could be measured; what the store has is not measured."""
    stored = _stored(run, row, purpose)
    known = {m.subnet.key: m.latency_ms for m in stored}
    missing = {arch.key: arch for arch in archs if arch.key not in known}
    if missing:
        known |= _measure_new(run, space, device, row, missing, purpose)
    return {arch: known[arch.key] for arch in archs if arch.key in known}


def _stored(run: Run, row: DeviceRow, purpose: str) -> list[MeasurementRow]:
    return [m for m in run.store.measurements(run.lease.job, purpose) if m.device_id == row.id]


def _measure_new(
    run: Run,
    space: SearchSpace,
    device: Device,
    row: DeviceRow,
    by_key: Mapping[str, Architecture],
    purpose: str,
) -> dict[str, float]:
    """Measures, stores and tells what could not be measured."""
    net = supernet.build(space, seed=run.config.seed)
    result = measurement.measure(
        device,
        {key: partial(net.extract, arch) for key, arch in by_key.items()},
        net.example_input(device.batch),
        reference=partial(net.extract, _reference(space)),
        seed=run.config.seed,
        rounds=run.config.predictor.rounds,
        max_rounds=run.config.predictor.max_rounds,
        progress=partial(_progress, run),
    )
    done = {key: m for key, m in result.items() if isinstance(m, measurement.Measurement)}
    for key, failure in result.items():
        if isinstance(failure, measurement.Failure):
            run.warn(f"Subnet {key} could not be measured on '{device.name}': {failure.reason}")
    rows = [
        NewMeasurement(
            subnet_row(space, by_key[key]),
            row.id,
            purpose,
            m.latency_ms,
            m.spread_ms,
            m.reference_ms,
            m.rounds,
            m.raw,
        )
        for key, m in done.items()
    ]
    run.store.add_measurements(run.lease, rows)
    return {key: m.latency_ms for key, m in done.items()}


def sample(space: SearchSpace, count: int, *, seed: int) -> list[Architecture]:
    """Different architectures to measure: uniform ones from smallest to largest, then random ones."""
    rng = np.random.default_rng(seed)
    chosen = dict.fromkeys(space.uniform(min(UNIFORM, count)))
    for arch in space.decode(space.sample_choices(rng, 50 * count)):
        if len(chosen) >= count:
            break
        chosen[arch] = None
    return list(chosen)


def _measure_and_fit(run: Run, space: SearchSpace, device: Device, row: DeviceRow) -> dict[str, Any]:
    archs = sample(space, run.config.predictor.samples, seed=run.config.seed)
    measured = measure(run, space, device, row, archs, purpose="sample")
    if len(measured) < SMALLEST_SAMPLE:
        raise JobFailedError(
            f"Only {len(measured)} of {len(archs)} subnets could be measured on '{device.name}'; "
            f"a predictor needs at least {SMALLEST_SAMPLE}.",
            "Raise predictor.samples, or give the space more options.",
        )
    codes, milliseconds = space.encode(measured), np.array(list(measured.values()))
    name = run.config.predictor.name
    build = load("predictors", name).build
    told = held_out(build, space, codes, milliseconds, seed=run.config.seed)
    ceiling = measurement.repeatability(_as_measurements(_stored(run, row, "sample")))
    predictor = build(space).fit(codes, milliseconds)
    scores = asdict(score(told, milliseconds)) | {"repeatability": asdict(ceiling)}
    run.store.put_predictor(run.lease, device_id=row.id, kind=name, state=predictor.to_json(), score=scores)
    return {"device": row.name, "measured": len(measured), "score": scores}


def _as_measurements(rows: Iterable[MeasurementRow]) -> list[measurement.Measurement]:
    return [
        measurement.Measurement(r.latency_ms, r.spread_ms or 0.0, r.reference_ms or 0.0, r.rounds, r.raw)
        for r in rows
    ]


def _reference(space: SearchSpace) -> Architecture:
    """The network in the middle, by which every timing of the space is divided."""
    return space.uniform(3)[1 if len(space.uniform(3)) > 2 else 0]


def _progress(run: Run, done: int, total: int) -> None:
    run.progress.update(done, total)
    if run.stop.is_set() or done % ASK_EVERY == 0:
        run.check_stop()
