"""Architectures for constraints that nobody searched for, emitted by what a generative search has learned."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas import checkpoints
from nas.config.components import stored_config
from nas.config.quantities import limits_everywhere
from nas.errors import ConflictError, JobFailedError
from nas.generative.learner import Learner, make_learner
from nas.limits import ACCURACY, KNOWN_BEFORE, QUALITIES, Limit, distance, kind_of, split
from nas.proposals.one_thread import one_thread
from nas.search.objectives import Objectives, stored_objectives, values_of
from nas.search.stage import problem
from nas.searchers import generative
from nas.spaces.job_space import exact_metrics
from nas.store import Job, Store
from predictors.accuracy import LEAST
from search_spaces import Architecture
from search_spaces.errors import NotFoundError, UsageError
from search_spaces.moves import repaired
from search_spaces.space import Codes

DRAWN, DRAWS = 256, 32  # architectures that are drawn at once, and at most how often
SCREENED = 4  # times as many as are wanted, of which the inquisitor takes the best


@dataclass(frozen=True)
class Emitted:
    """One architecture; latency in milliseconds and quality as predicted, each with its standard deviation.

    evaluated: its quality on the search split, if the search has looked at it.
    """

    subnet: str
    architecture: dict[str, Any]
    params: int
    macs: int
    memory_bytes: int
    latency_ms: float
    latency_std_ms: float
    quality: float
    quality_std: float
    evaluated: float | None


@dataclass(frozen=True)
class Generated:
    """What was emitted, the best by the search's performance function (the predicted quality) first.

    feasible_rate: the share of the generator's raw samples that keep all that was asked for.
    moved: none did, and these were moved there choice by choice.
    metric: what the quality is.
    """

    job: str
    conditions: tuple[str, ...]
    margin: float
    feasible_rate: float
    moved: bool
    subnets: tuple[Emitted, ...]
    metric: str = ACCURACY

    def to_dict(self) -> dict[str, Any]:
        """The JSON of `nas generate --json`; without `metric` where it is accuracy."""
        return {name: value for name, value in asdict(self).items() if (name, value) != ("metric", ACCURACY)}


def generate(
    store: Store,
    job: Job,
    conditions: Iterable[Limit] = (),
    count: int = 10,
    *,
    seed: int = 0,
    temperature: float = 1.0,
) -> Generated:
    """At most `count` different architectures that keep the conditions and the job's own limits.

    They are the best of more that the generator emits and of those that the search has evaluated.
    Limits on latency are kept by the predicted one plus the job's margin, those on the quality by the
    inquisitor's mean. Of a job with several devices `latency_ms` is kept on each, and that of the first told.
    temperature: above 0; higher ones give more different architectures.
    Raises NotFoundError for a job without a generator and when none is found, UsageError for conditions on
    what is not known before a measurement.
    """
    wanted = _wanted(job, tuple(conditions), count, temperature)
    with one_thread():
        return _generated(store, job, wanted, count, seed, temperature)


def _generated(
    store: Store, job: Job, wanted: tuple[Limit, ...], count: int, seed: int, temperature: float
) -> Generated:
    objectives, learner, evaluated = _learned(store, job)
    rng = np.random.default_rng(seed)
    request = learner.asks.of(np.minimum(learner.asks.home, learner.asks.requirements.budgets(wanted)))
    emitted, rate, moved = objectives.space.encode([]), 0.0, False
    drawn = emitted
    for draw in range(DRAWS):
        drawn = learner.draw(np.repeat(request, DRAWN, axis=0), rng, temperature=temperature)
        kept = drawn[_keeps(learner, drawn, wanted)]
        rate = len(kept) / DRAWN if draw == 0 else rate
        emitted = _distinct(np.concatenate([emitted, kept]))
        if len(emitted) >= SCREENED * count:
            break
    if not len(emitted):
        moved = True
        near = repaired(objectives.space, drawn, partial(_far, learner, wanted), rng)
        emitted = _distinct(near[_keeps(learner, near, wanted)])
    if not len(emitted):
        asked = " and ".join(map(str, wanted)) or "the job's limits"
        raise NotFoundError(
            f"The generator of job '{job.name}' found no architecture that keeps {asked}.",
            f"`nas spaces show` and `nas front {job.id}` tell what there is; relax a condition.",
        )
    seen = objectives.space.encode(evaluated)
    seen = seen[_keeps(learner, seen, wanted)] if len(seen) else seen
    emitted = _distinct(np.concatenate([emitted[: SCREENED * count], seen]))
    return Generated(
        job.name,
        tuple(map(str, wanted)),
        objectives.latency.margin,
        rate,
        moved,
        _described(objectives, learner, emitted, evaluated)[:count],
        objectives.quality,
    )


def _wanted(job: Job, conditions: tuple[Limit, ...], count: int, temperature: float) -> tuple[Limit, ...]:
    """The conditions, on every device that they are about."""
    config = stored_config(job)
    possible = (*KNOWN_BEFORE, config.quality)
    for condition in conditions:
        if split(condition.name)[0] not in possible:
            raise UsageError(
                f"'{condition}' cannot be told of an architecture that was never measured.",
                f"Conditions can be on {', '.join(possible)}.",
            )
    if count < 1 or not 0 < temperature < np.inf:
        raise UsageError("The number of architectures and the temperature must be above 0.")
    try:
        return limits_everywhere(conditions, config.devices)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _learned(store: Store, job: Job) -> tuple[Objectives, Learner, dict[Architecture, float]]:
    """The job's generator with an inquisitor that knows all evaluations, and the quality of these."""
    config = stored_config(job)
    stage = store.stage(job, "search")
    if config.search.searcher != "generative":
        raise NotFoundError(
            f"Job '{job.name}' has no generator: it was searched by '{config.search.searcher}'.",
            "Run a job with search.searcher: generative.",
        )
    if stage is None or stage.state != "done" or stage.result is None:
        raise ConflictError(
            f"The search of job '{job.name}' is not finished.", f"`nas resume {job.id}` goes on with it."
        )
    if "generator" not in stage.result:
        raise NotFoundError(
            f"Job '{job.name}' has no generator: its budget covered the whole space, so that nothing had to "
            "be learned.",
            f"`nas front {job.id}` shows the best of everything.",
        )
    objectives = stored_objectives(store, job, config)
    searched = problem(config, objectives)
    scheme, prototype = generative.planned(searched, **config.search.options)
    learned = generative.learned_objectives(searched)
    learner = make_learner(searched, scheme, prototype, len(learned))
    tensors = checkpoints.load(store, store.artifact(stage.told("generator")))
    try:
        learner.policy.load(tensors)
    except RuntimeError as error:
        raise JobFailedError(
            f"The generator of job '{job.name}' is of another shape than this version makes.",
            "Search again in a new job.",
        ) from error
    evaluations = [e for e in store.evaluations(job, "search") if e.state == "ok"]
    if len(evaluations) < LEAST:
        raise NotFoundError(f"The generator of job '{job.name}' has seen too few subnets to tell anything.")
    archs = [objectives.space.architecture(e.subnet.architecture) for e in evaluations]
    values = -searched.signs[list(learned)] * values_of(objectives, evaluations)[:, list(learned)]
    learner.ask_inquisitor(objectives.space.encode(archs), values)
    qualities = [float(e.objectives[config.quality] or 0) for e in evaluations]
    return objectives, learner, dict(zip(archs, qualities, strict=True))


def _keeps(learner: Learner, codes: Codes, conditions: Sequence[Limit]) -> Any:
    """Which architectures (n, C) keep the conditions and the hard limits, (n,)."""
    assert learner.inquisitor is not None
    requirements, means = learner.asks.requirements, learner.inquisitor.means(codes)
    quantities = {**requirements.metrics(codes), **_qualities(means[:, 0])}
    keeps = (requirements.distance(codes) == 0) & (learner.inquisitor.below(means) <= 0)
    for condition in conditions:
        keeps &= condition.mask(quantities)
    return keeps


def _far(learner: Learner, conditions: Sequence[Limit], codes: Codes) -> NDArray[np.float64]:
    """How far architectures (n, C) are from the conditions and the hard limits, (n,)."""
    assert learner.inquisitor is not None
    requirements, means = learner.asks.requirements, learner.inquisitor.means(codes)
    quantities = {**requirements.metrics(codes), **_qualities(means[:, 0])}
    return requirements.distance(codes) + distance(conditions, quantities, len(codes))


def _qualities(gains: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """By all names that a quality may have, those that an inquisitor believes in, (n,), who wants more."""
    return {name: kind_of(name).sign * gains for name in QUALITIES}


def _distinct(codes: Codes) -> Codes:
    """Without repeats, in the same order."""
    return codes[np.sort(np.unique(codes, axis=0, return_index=True)[1])] if len(codes) else codes


def _described(
    objectives: Objectives, learner: Learner, codes: Codes, evaluated: dict[Architecture, float]
) -> tuple[Emitted, ...]:
    assert learner.inquisitor is not None
    means, stds = learner.inquisitor.beliefs(codes)
    weights = learner.asks.split(np.repeat(learner.asks.of(learner.asks.home), len(codes), axis=0))[1]
    order = np.argsort(-learner.inquisitor.worth(codes, means, weights), kind="stable")
    costs, latency = exact_metrics(objectives.space, codes), objectives.latency.predictor.predict(codes)
    rows = [
        Emitted(
            subnet=arch.key,
            architecture=arch.to_dict(),
            params=int(costs["params"][i]),
            macs=int(costs["macs"][i]),
            memory_bytes=int(costs["memory_bytes"][i]),
            latency_ms=float(latency[0][i]),
            latency_std_ms=float(latency[1][i]),
            quality=float(objectives.kind.sign * means[i, 0]),
            quality_std=float(stds[i, 0]),
            evaluated=evaluated.get(arch),
        )
        for i, arch in enumerate(objectives.space.decode(codes))
    ]
    return tuple(rows[i] for i in order)
