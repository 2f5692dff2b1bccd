"""A sample of subnets is measured, as large as it has to be, and predictors are fitted to it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from nas.config import JobConfig
from nas.remote import RemoteDevice
from nas.stages._measuring import as_measurements, measure, progress, stored
from nas.stages._run import Run
from nas.stages._sampling import FIRST, GROWTH, enough, first_sample, further_sample
from nas.stages._watchdog import within
from nas.store import Device as DeviceRow
from nas.store import Store
from nas.targets import Target
from predictors import _memory as memory
from predictors._card import by_kind, card, is_roofline
from predictors._features import Workload
from predictors._intervals import interval
from predictors._measurement import Repeatability, repeatability
from predictors._metrics import Floats, score
from predictors._predictor import Predictor, held_out
from predictors.roofline import FEWEST_ANY, source_coefficients
from search_spaces import Architecture, SearchSpace
from search_spaces._errors import JobFailedError, NotFoundError, UsageError
from search_spaces._registry import load

SMALLEST_SAMPLE = 10
FEWEST_SCORED = 4
ELEMENT_BYTES = {"bf16": 2, "fp16": 2}  # of what is computed with; everything else computes with 4
MEMORY = "peak_memory_bytes"
PERFECT_MAPE = math.sqrt(2 / math.pi)  # mean |error| of a normal distribution over its standard deviation

Build = Callable[[SearchSpace], Predictor]


def measure_and_fit(
    run: Run, space: SearchSpace, device: Target, row: DeviceRow, *, memory_needed: bool = True
) -> dict[str, Any]:
    """Measures a sample on a device and stores the predictors fitted to it; what the stage tells of it.

    The sample grows until the predictor's error is within the noise of the measurements, or to
    `predictor.samples`. Raises JobFailedError when too few subnets could be measured.
    memory_needed: False where objectives and limits on memory do without this device.
    """
    workload = workload_of(device)
    build = _builder(run, space, device, workload)
    config, seed = run.config.predictor, run.config.seed
    archs = first_sample(space, workload, count=min(FIRST, config.samples), seed=seed)
    while True:
        shown = run.config.predictor.samples  # at most: the stage may know enough before
        before = len(stored(run, row, "sample"))
        measured = measure(run, space, device, row, archs, purpose="sample", shown=(before, shown))
        more = min(GROWTH, config.samples - len(archs))
        if len(measured) >= smallest_sample(run.config):
            codes, milliseconds = space.encode(measured), np.array(list(measured.values()))
            predictor = build(space).fit(codes, milliseconds)
            keys = {arch.key for arch in measured}  # a resumed job has more than it has come to
            ceiling = repeatability(
                as_measurements(m for m in stored(run, row, "sample") if m.subnet.key in keys)
            )
            if more <= 0 or enough(space, predictor, noise=ceiling.sigma, seed=seed):
                break
        found = further_sample(space, workload, space.encode(archs), count=max(more, 0), seed=seed)
        if not found:
            break
        archs = [*archs, *found]
    _check_measured(run, device, len(measured), len(archs))
    told = _scores(build, space, codes, milliseconds, predictor, ceiling, seed=seed)
    run.store.put_predictor(
        run.lease, device_id=row.id, kind=config.name, state=predictor.to_json(), score=told
    )
    _fit_memory(run, space, device, row, needed=memory_needed)
    return {"device": row.name, "measured": len(measured), "asked": len(archs), "score": told}


def workload_of(device: Target | DeviceRow) -> Workload:
    """How the device, or the one of a row of the store, runs networks."""
    told: Any = device.fingerprint if isinstance(device, DeviceRow) else device.fingerprint()
    batch = int(told["batch"]) if isinstance(device, DeviceRow) else device.batch
    return Workload(batch, ELEMENT_BYTES.get(str(told.get("precision", "fp32")), 4))


def smallest_sample(config: JobConfig) -> int:
    """The fewest measured subnets that a predictor is fitted to."""
    return FEWEST_ANY if config.predictor.source is not None else SMALLEST_SAMPLE


def source_state(store: Store, config: JobConfig) -> Mapping[str, Any] | None:
    """The predictor that `predictor.source` names, if it names one.

    Raises NotFoundError for a job without a predictor, UsageError for one that cannot be transferred.
    """
    if config.predictor.source is None:
        return None
    found = store.predictor(store.job(config.predictor.source))
    if found is None:
        raise NotFoundError(
            f"Job '{config.predictor.source}' has no latency predictor to begin with.",
            "predictor.source names a job that has measured.",
        )
    source_coefficients(found.state)
    return found.state


def _builder(run: Run, space: SearchSpace, device: Target, workload: Workload) -> Build:
    options: dict[str, Any] = asdict(workload)
    if (source := source_state(run.store, run.config)) is not None:
        options["source"] = source
    name = run.config.predictor.name
    if isinstance(device, RemoteDevice):
        check_needs_no_layers(name, device.name)
    elif times_layers(name):
        module = load("predictors", name)
        layers, shown = module.distinct_layers(space), partial(progress, run)
        options["table"] = module.tabulate(
            device, layers, seed=run.config.seed, progress=shown, within=within
        )
    return partial(_build, name, options)


def times_layers(predictor: str) -> bool:
    """Whether the predictor of this name needs single layers timed on the device."""
    return hasattr(load("predictors", predictor), "tabulate")


def check_needs_no_layers(predictor: str, device: str) -> None:
    """Raises UsageError for a predictor that cannot be had of an agent's device of this name."""
    if times_layers(predictor):
        raise UsageError(
            f"predictor.name: {predictor} times single layers, which only a device of this host can, and "
            f"'{device}' is an agent's.",
            "Take another predictor, such as roofline.",
        )


def _build(name: str, options: Mapping[str, Any], space: SearchSpace) -> Predictor:
    predictor: Predictor = load("predictors", name).build(space, **options)
    return predictor


def _check_measured(run: Run, device: Target, measured: int, asked: int) -> None:
    needed = smallest_sample(run.config)
    if measured < needed:
        raise JobFailedError(
            f"Only {measured} of {asked} subnets could be measured on '{device.name}'; "
            f"a predictor needs at least {needed}.",
            "Raise predictor.samples, or give the space more options.",
        )


def _scores(
    build: Build,
    space: SearchSpace,
    codes: Any,
    milliseconds: Floats,
    predictor: Predictor,
    ceiling: Repeatability,
    *,
    seed: int,
) -> dict[str, Any]:
    """How good the predictor is on subnets that it has not seen, beside what can be seen at all."""
    told: dict[str, Any] = {
        "count": len(codes),
        "repeatability": asdict(ceiling),
        "perfect_mape": PERFECT_MAPE * ceiling.sigma,
        "why": predictor.why,
    } | _explained(space, predictor)
    if len(codes) < FEWEST_SCORED:
        return told
    predicted = held_out(build, space, codes, milliseconds, seed=seed)
    low, high = interval(*predictor.predict(codes))
    rows = zip(space.decode(codes), milliseconds, predicted, low, high, strict=True)
    told["held_out"] = [_point(arch, *map(float, values)) for arch, *values in rows]
    return told | asdict(score(predicted, milliseconds))


def _explained(space: SearchSpace, predictor: Predictor) -> dict[str, Any]:
    """The device's roofline card, and where the time goes in the smallest and the largest subnet."""
    state = predictor.to_json()
    if not is_roofline(state):
        return {}
    rows = [{"term": r.term, "value": r.cost, "unit": r.unit, "share": r.share} for r in card(state)]
    ends = {"smallest": space.smallest, "largest": space.largest}
    return {
        "card": rows,
        "by_kind": {name: by_kind(state, space.layers(arch)) for name, arch in ends.items()},
    }


def _point(arch: Architecture, measured: float, predicted: float, low: float, high: float) -> dict[str, Any]:
    return {
        "subnet": arch.key,
        "measured_ms": measured,
        "predicted_ms": predicted,
        "low_ms": low,
        "high_ms": high,
    }


def _fit_memory(run: Run, space: SearchSpace, device: Target, row: DeviceRow, *, needed: bool) -> None:
    """Stores a predictor of peak memory if the device can tell it; JobFailedError if it must and cannot."""
    found = [m for m in stored(run, row, "sample") if m.memory_bytes]
    name = run.config.named(MEMORY, device.name)
    wanted = name in run.config.objectives or any(limit.name == name for limit in run.config.limits)
    if len(found) < memory.FEWEST:
        if wanted and needed:
            raise JobFailedError(
                f"Device '{device.name}' told the peak memory of {len(found)} subnets, which is too few.",
                f"Leave {name} out of objectives and constraints, or measure on another backend.",
            )
        return
    archs: Sequence[Architecture] = [space.architecture(m.subnet.architecture) for m in found]
    peaks = np.array([float(m.memory_bytes or 0) for m in found])
    codes, workload = space.encode(archs), workload_of(device)
    build = partial(memory.build, batch=workload.batch, element_bytes=workload.element_bytes)
    fitted = build(space).fit(codes, peaks)
    told: dict[str, Any] = {"count": len(found)}
    if len(found) > memory.FEWEST:
        told |= asdict(score(held_out(build, space, codes, peaks, seed=run.config.seed), peaks))
    run.store.put_predictor(
        run.lease, device_id=row.id, kind="memory", state=fitted.to_json(), score=told, metric=MEMORY
    )
