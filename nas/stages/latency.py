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

from nas.conditions import on_device
from nas.config import JobConfig
from nas.spaces import check_limits, exact_metrics
from nas.stages._latency_fit import MEMORY, measure_and_fit, workload_of
from nas.stages._measuring import build_device, check_same_devices
from nas.stages._run import Run
from nas.store import Device as DeviceRow
from nas.store import Job, Store, frames, job_devices
from nas.targets import Target, check_different
from predictors import _memory as memory
from predictors._intervals import interval
from predictors._predictor import OtherVersionError, Predictor, rebuilt
from search_spaces import SearchSpace
from search_spaces._registry import load
from search_spaces._space import Codes


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

    def bound(self, codes: Codes) -> Any:
        """Milliseconds (n,) to which limits are applied: the prediction with its one-sided margin."""
        return self._bound(self.predictor, codes)

    def metrics(self, codes: Codes) -> dict[str, Any]:
        """Everything that is predicted, by name, `(n,)` each."""
        told = {self.named("latency_ms"): self.predict(codes)}
        return told if self.memory is None else told | {self.named(MEMORY): self.memory.predict(codes)[0]}

    def bounds(self, codes: Codes) -> dict[str, Any]:
        """What limits on predictions are applied to, by name, `(n,)` each."""
        told = {self.named("latency_ms"): self.bound(codes)}
        return told if self.memory is None else told | {self.named(MEMORY): self._bound(self.memory, codes)}

    def intervals(self, codes: Codes) -> dict[str, Any]:
        """The predicted latency and the ends of its 90 % interval in ms, by name, `(n,)` each."""
        mean, std = self.predictor.predict(codes)
        return dict(zip(map(self.named, frames.PREDICTED), (mean, *interval(mean, std)), strict=True))

    def _bound(self, predictor: Predictor, codes: Codes) -> Any:
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
    inputs = {"predictor": run.config.predictor.inputs()}
    for name, row in rows.items():
        run.once(_stage(run, name), inputs, partial(_measure_and_fit, run, space, devices[name], row))
    found = stored_latencies(run.store, run.lease.job, run.config, space, rows)

    def bounds(codes: Codes) -> dict[str, Any]:
        told: dict[str, Any] = exact_metrics(space, codes)
        for latency in found:
            told |= latency.bounds(codes)
        return told

    check_limits(space, run.config.limits, bounds)
    return found


def _stage(run: Run, name: str) -> str:
    first = next(iter(run.config.devices))
    return job_devices.LATENCY if name == first else job_devices.latency_stage(name)


def _measure_and_fit(run: Run, space: SearchSpace, device: Target, row: DeviceRow) -> dict[str, Any]:
    return measure_and_fit(run, space, device, row) | {"device_id": row.id}


def stored_latencies(
    store: Store, job: Job, config: JobConfig, space: SearchSpace, rows: Mapping[str, DeviceRow]
) -> tuple[Latency, ...]:
    """The predictors of a job whose latency stages are done. rows: its devices by its names for them."""
    several = len(config.devices) > 1
    found = [
        stored_latency(store, job, config, space, row, called=name if several else None)
        for name, row in rows.items()
    ]
    assert None not in found, "the stages are done"
    return tuple(latency for latency in found if latency is not None)


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

    What another version of this program has saved is fitted again to the same measurements.
    """
    found = store.predictor(job, device.id, metric=metric)
    if found is None:
        return None
    build = memory.build if metric == MEMORY else load("predictors", found.kind).build
    try:
        return rebuilt(build, space, found.state)
    except OtherVersionError:
        sample = [m for m in store.measurements(job, "sample") if m.device_id == device.id]
        told = [(m, m.memory_bytes if metric == MEMORY else m.latency_ms) for m in sample]
        codes = space.encode([space.architecture(m.subnet.architecture) for m, value in told if value])
        workload = workload_of(device)
        options = {"batch": workload.batch, "element_bytes": workload.element_bytes}
        options |= {"table": found.state["table"]} if "table" in found.state else {}
        fitted: Predictor = build(space, **options).fit(
            codes, np.array([float(value) for _, value in told if value])
        )
        return fitted
