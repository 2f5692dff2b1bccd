"""Stage `latency`: a sample of subnets is measured on the device, and a predictor is fitted to it.

A job with several devices has a stage for each: `latency` for the first, `latency:NAME` for the others.
Latency does not depend on weights. The stage therefore stands before the training: a limit that no subnet
can keep is found in seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from nas.config import JobConfig
from nas.job_run import Run
from nas.limits import on_device
from nas.measuring.latency_fit import MEMORY, as_run_on, measure_and_fit, workload_of
from nas.measuring.subnets import build_device, check_same_devices
from nas.measuring.targets import Target, check_different, check_takes
from nas.results import job_devices
from nas.spaces.job_space import check_limits, exact_metrics
from nas.store import Device as DeviceRow
from nas.store import Job, Store
from predictors.predictor import OtherVersionError, Predictor, rebuilt
from predictors.regression import memory
from predictors.regression.intervals import interval
from search_spaces import SearchSpace
from search_spaces.registry import builder, trusted
from search_spaces.space import Codes


@dataclass(frozen=True)
class Latency:
    """A device of a job and what was fitted to its measurements.

    margin: standard deviations that limits on predictions are kept by.
    memory: predicts peak memory in bytes, on devices that can tell it.
    called: the job's name for the device, which is then a part of its quantities' names; None: it is the only
    one.
    """

    device: DeviceRow
    predictor: Predictor
    margin: float = 0.0
    memory: Predictor | None = None
    called: str | None = None

    def named(self, metric: str) -> str:
        """The name of a quantity on this device."""
        return metric if self.called is None else on_device(metric, self.called)

    def predict(self, codes: Codes) -> Any:
        """Milliseconds (n,)."""
        return self.predictor.predict(codes)[0]

    def limited_ms(self, codes: Codes) -> Any:
        """Milliseconds (n,) to which limits are applied: the prediction with its one-sided margin."""
        return self._with_margin(self.predictor, codes)

    def metrics(self, codes: Codes) -> dict[str, Any]:
        """Everything that is predicted, by name, `(n,)` each."""
        metrics = {self.named("latency_ms"): self.predict(codes)}
        if self.memory is not None:
            metrics[self.named(MEMORY)] = self.memory.predict(codes)[0]
        return metrics

    def limited(self, codes: Codes) -> dict[str, Any]:
        """What limits on predictions are applied to, by name, `(n,)` each."""
        metrics = {self.named("latency_ms"): self.limited_ms(codes)}
        if self.memory is not None:
            metrics[self.named(MEMORY)] = self._with_margin(self.memory, codes)
        return metrics

    def intervals(self, codes: Codes) -> dict[str, Any]:
        """The predicted latency and the ends of its 90 % interval in ms, by name, `(n,)` each."""
        mean, std = self.predictor.predict(codes)
        return dict(zip(map(self.named, job_devices.PREDICTED), (mean, *interval(mean, std)), strict=True))

    def _with_margin(self, predictor: Predictor, codes: Codes) -> Any:
        mean, std = predictor.predict(codes)
        return mean + self.margin * std


def latencies(run: Run, space: SearchSpace) -> tuple[Latency, ...]:
    """Measures and fits on each of the job's devices, or finds it done; in the order of the job file.

    Raises UsageError when no subnet keeps the limits on latency, and when two of the devices are the same.
    """
    devices = {name: build_device(run, name) for name in run.config.devices}
    check_different({name: device.fingerprint() for name, device in devices.items()})
    rows = {
        name: run.store.register_device(device.name, device.fingerprint()) for name, device in devices.items()
    }
    check_same_devices(run, rows)
    inputs = {"predictor": run.config.predictor.inputs(exclude={"max_age"})}
    for name, row in rows.items():
        run.once(_stage(run, name), inputs, partial(_measure_and_fit, run, space, devices[name], row))
    fitted = stored_latencies(run.store, run.lease.job, run.config, space, rows)

    def limited(codes: Codes) -> dict[str, Any]:
        metrics: dict[str, Any] = exact_metrics(space, codes)
        for latency in fitted:
            metrics |= latency.limited(codes)
        return metrics

    check_limits(space, run.config.limits, limited)
    return fitted


def _stage(run: Run, name: str) -> str:
    first = next(iter(run.config.devices))
    return job_devices.LATENCY if name == first else job_devices.latency_stage(name)


def _measure_and_fit(run: Run, space: SearchSpace, device: Target, row: DeviceRow) -> dict[str, Any]:
    check_takes(space, device)
    return measure_and_fit(run, space, device, row) | {"device_id": row.id}


def stored_latencies(
    store: Store, job: Job, config: JobConfig, space: SearchSpace, rows: Mapping[str, DeviceRow]
) -> tuple[Latency, ...]:
    """The predictors of a job whose latency stages are done. rows: its devices by its names for them."""
    several = len(config.devices) > 1
    fitted = [
        stored_latency(store, job, config, space, row, called=name if several else None)
        for name, row in rows.items()
    ]
    assert None not in fitted, "the stages are done"
    return tuple(latency for latency in fitted if latency is not None)


def stored_latency(
    store: Store,
    job: Job,
    config: JobConfig,
    space: SearchSpace,
    device: DeviceRow,
    *,
    called: str | None = None,
) -> Latency | None:
    """The job's predictors for the device, or None when there is none yet. called: as in `Latency`."""
    predictor = stored_predictor(store, job, space, device)
    if predictor is None:
        return None
    peak = stored_predictor(store, job, space, device, metric=MEMORY)
    return Latency(device, predictor, config.search.latency_margin, peak, called)


def stored_predictor(
    store: Store, job: Job, space: SearchSpace, device: DeviceRow, *, metric: str = "latency_ms"
) -> Predictor | None:
    """The job's predictor of a metric for the device; None when there is none yet.

    What another version of this program has saved is fitted again to the same measurements. Raises UsageError
    for a module of somebody's own that was not allowed here.
    """
    saved = store.predictor(job, device.id, metric=metric)
    if saved is None:
        return None
    space = as_run_on(space, device)
    kind = trusted(saved.kind, where="A stored predictor")
    build = memory.build if metric == MEMORY else builder("predictors.latency", kind)
    try:
        return rebuilt(build, space, saved.state)
    except OtherVersionError:
        sample = [m for m in store.measurements(job, "sample") if m.device_id == device.id]
        name = MEMORY if metric == MEMORY else "latency_ms"
        targets = [(m.subnet, value) for m in sample if (value := getattr(m.result, name))]
        codes = space.encode([space.architecture(subnet.architecture) for subnet, _ in targets])
        workload = workload_of(device)
        options = {"batch": workload.batch, "element_bytes": workload.element_bytes}
        options |= {"table": saved.state["table"]} if "table" in saved.state else {}
        values = np.array([float(value) for _, value in targets])
        fitted: Predictor = build(space, **options).fit(codes, values)
        return fitted
