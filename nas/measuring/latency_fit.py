"""A sample of subnets is measured, as large as it has to be, and predictors are fitted to it.

The sample grows in batches. The first ones come from experimental design; later ones are by turns designed
and random, so that the errors on left-out subnets speak for the whole space.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from nas.config import JobConfig
from nas.errors import JobFailedError
from nas.job_run import Run
from nas.measuring.remote import RemoteDevice
from nas.measuring.subnets import measure, progress, stored
from nas.measuring.targets import Target
from nas.store import Device as DeviceRow
from nas.store import Store
from nas.watchdog import within
from predictors.measurement.rounds import Repeatability, repeatability
from predictors.predictor import Predictor, held_out
from predictors.regression import memory
from predictors.regression.card import by_kind, card, is_roofline
from predictors.regression.design import next_to_measure
from predictors.regression.features import Workload
from predictors.regression.intervals import interval
from predictors.regression.ladder import FEWEST_ANY, source_coefficients
from predictors.regression.metrics import Floats, score
from search_spaces import Architecture, SearchSpace
from search_spaces.errors import NotFoundError, UsageError
from search_spaces.registry import load
from search_spaces.space import Codes
from search_spaces.workloads import as_run

FIRST = 10  # subnets before the first fit
GROWTH = 5  # subnets from one fit to the next
POOL = 1_000  # random architectures from which designed ones are taken
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
    workload, networks = workload_of(device), space
    space = as_run_on(space, row)
    build = _builder(run, space, device, workload)
    config, seed = run.config.predictor, run.config.seed
    archs = first_sample(space, workload, count=min(FIRST, config.samples), seed=seed)
    while True:
        shown = run.config.predictor.samples  # at most: the stage may know enough before
        before = len(stored(run, row, "sample"))
        measured = measure(run, networks, device, row, archs, purpose="sample", shown=(before, shown))
        more = min(GROWTH, config.samples - len(archs))
        if len(measured) >= smallest_sample(run.config):
            codes, milliseconds = space.encode(measured), np.array(list(measured.values()))
            predictor = build(space).fit(codes, milliseconds)
            keys = {arch.key for arch in measured}  # a resumed job has more than it has come to
            sample = stored(run, row, "sample")
            ceiling = repeatability(m.result for m in sample if m.subnet.key in keys)
            if more <= 0 or errs_within_noise(space, predictor, noise=ceiling.sigma, seed=seed):
                break
        further = further_sample(space, workload, space.encode(archs), count=max(more, 0), seed=seed)
        if not further:
            break
        archs = [*archs, *further]
    _check_measured(run, device, len(measured), len(archs))
    scores = _scores(build, space, codes, milliseconds, predictor, ceiling, seed=seed)
    run.store.put_predictor(
        run.lease, device_id=row.id, kind=config.name, state=predictor.to_json(), score=scores
    )
    _fit_memory(run, space, device, row, needed=memory_needed)
    return {"device": row.name, "measured": len(measured), "asked": len(archs), "score": scores}


def workload_of(device: Target | DeviceRow) -> Workload:
    """How the device, or the one of a row of the store, runs networks."""
    if isinstance(device, DeviceRow):
        fingerprint, batch = device.fingerprint, int(device.fingerprint["batch"])
    else:
        fingerprint, batch = device.fingerprint(), device.batch
    return Workload(batch, ELEMENT_BYTES.get(str(fingerprint.get("precision", "fp32")), 4))


def as_run_on(space: SearchSpace, device: DeviceRow) -> SearchSpace:
    """The space with the layers that the device runs: those of its workload, if it has one.

    Raises UsageError for a space whose networks know no workloads.
    """
    return as_run(space, device.fingerprint.get("workload"))


def smallest_sample(config: JobConfig) -> int:
    """The fewest measured subnets that a predictor is fitted to."""
    return FEWEST_ANY if config.predictor.source is not None else SMALLEST_SAMPLE


def source_state(store: Store, config: JobConfig) -> Mapping[str, Any] | None:
    """The predictor that `predictor.source` names, if it names one.

    Raises NotFoundError for a job without a predictor, UsageError for one that cannot be transferred.
    """
    if config.predictor.source is None:
        return None
    source = store.predictor(store.job(config.predictor.source))
    if source is None:
        raise NotFoundError(
            f"Job '{config.predictor.source}' has no latency predictor to begin with.",
            "predictor.source names a job that has measured.",
        )
    source_coefficients(source.state)
    return source.state


def _builder(run: Run, space: SearchSpace, device: Target, workload: Workload) -> Build:
    options: dict[str, Any] = asdict(workload)
    if (source := source_state(run.store, run.config)) is not None:
        options["source"] = source
    name = run.config.predictor.name
    if isinstance(device, RemoteDevice):
        check_needs_no_layers(name, device.name)
    elif times_layers(name):
        module = load("predictors.latency", name)
        layers, shown = module.distinct_layers(space), partial(progress, run)
        options["table"] = module.tabulate(
            device, layers, seed=run.config.seed, progress=shown, within=within
        )
    return partial(_build, name, options)


def times_layers(predictor: str) -> bool:
    """Whether the predictor of this name needs single layers timed on the device."""
    return hasattr(load("predictors.latency", predictor), "tabulate")


def check_needs_no_layers(predictor: str, device: str) -> None:
    """Raises UsageError for a predictor that cannot be had of an agent's device of this name."""
    if times_layers(predictor):
        raise UsageError(
            f"predictor.name: {predictor} times single layers, which only a device of this host can, and "
            f"'{device}' is an agent's.",
            "Take another predictor, such as roofline.",
        )


def first_sample(space: SearchSpace, workload: Workload, *, count: int, seed: int) -> list[Architecture]:
    """The smallest, the largest, and those that tell most beside them: `count`, or all there are."""
    ends = dict.fromkeys([*space.smallest_of_each, *space.largest_of_each])
    chosen = list(islice(ends, count))
    codes = next_to_measure(
        space, candidate_pool(space, seed=seed), space.encode(chosen), workload, count=count - len(chosen)
    )
    return [*chosen, *space.decode(codes)]


def further_sample(
    space: SearchSpace, workload: Workload, measured: Codes, *, count: int, seed: int
) -> list[Architecture]:
    """`count` more, every second one designed and the others random; fewer when the space is exhausted."""
    candidates = candidate_pool(space, seed=seed)
    designed = next_to_measure(space, candidates, measured, workload, count=(count + 1) // 2)
    taken = {tuple(code) for code in np.concatenate([measured, designed]).tolist()}
    fresh = [code for code in candidates.tolist() if tuple(code) not in taken]
    rng = np.random.default_rng([seed, len(measured)])
    picked = rng.permutation(len(fresh))[: count - len(designed)]
    random = np.array([fresh[i] for i in picked], dtype=np.int64).reshape(-1, measured.shape[1])
    return space.decode(np.concatenate([designed, random]))


def candidate_pool(space: SearchSpace, *, seed: int) -> Codes:
    """Different architectures of all sizes, the same for a seed; all of a small space."""
    if space.listable and space.size <= POOL:
        return space.all_codes()
    uniform = space.encode(space.uniform(16))
    drawn = space.sample_choices(np.random.default_rng(seed), POOL)
    return np.unique(np.concatenate([uniform, drawn]), axis=0)


def errs_within_noise(space: SearchSpace, predictor: Predictor, *, noise: float, seed: int) -> bool:
    """Whether the predictor's own error on the space is within the noise of one measurement.

    noise: relative standard deviation of a label. A prediction's uncertainty holds the noise of labels and
    the predictor's error; at sqrt(2) times the noise both are the same.
    """
    mean, std = predictor.predict(candidate_pool(space, seed=seed))
    return bool(np.median(std / mean) <= np.sqrt(2) * noise)


def _build(name: str, options: Mapping[str, Any], space: SearchSpace) -> Predictor:
    predictor: Predictor = load("predictors.latency", name).build(space, **options)
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
    scores: dict[str, Any] = {
        "count": len(codes),
        "repeatability": asdict(ceiling),
        "perfect_mape": PERFECT_MAPE * ceiling.sigma,
        "why": predictor.why,
    } | _explained(space, predictor)
    if len(codes) < FEWEST_SCORED:
        return scores
    predicted = held_out(build, space, codes, milliseconds, seed=seed)
    low, high = interval(*predictor.predict(codes))
    rows = zip(space.decode(codes), milliseconds, predicted, low, high, strict=True)
    scores["held_out"] = [_point(arch, *map(float, values)) for arch, *values in rows]
    return scores | asdict(score(predicted, milliseconds))


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
    peak_by_arch: dict[Architecture, float] = {
        space.architecture(m.subnet.architecture): float(m.result.peak_memory_bytes)
        for m in stored(run, row, "sample")
        if m.result.peak_memory_bytes
    }
    name = run.config.named(MEMORY, device.name)
    wanted = name in run.config.objectives or any(limit.name == name for limit in run.config.limits)
    if len(peak_by_arch) < memory.FEWEST:
        if wanted and needed:
            raise JobFailedError(
                f"Device '{device.name}' told the peak memory of {len(peak_by_arch)} subnets, "
                "which is too few.",
                f"Leave {name} out of objectives and constraints, or measure on another backend.",
            )
        return
    peaks = np.array(list(peak_by_arch.values()))
    codes, workload = space.encode(peak_by_arch), workload_of(device)
    build = partial(memory.build, batch=workload.batch, element_bytes=workload.element_bytes)
    fitted = build(space).fit(codes, peaks)
    scores: dict[str, Any] = {"count": len(peaks)}
    if len(peaks) > memory.FEWEST:
        scores |= asdict(score(held_out(build, space, codes, peaks, seed=run.config.seed), peaks))
    run.store.put_predictor(
        run.lease, device_id=row.id, kind="memory", state=fitted.to_json(), score=scores, metric=MEMORY
    )
