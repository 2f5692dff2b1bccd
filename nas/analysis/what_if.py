"""What another question would find: the front that stored evaluations and predictors foretell.

Nothing is evaluated or measured. A question is a job's, with other limits, other objectives or for another
device; `follow_up` makes a job of it, whose search begins with what the job has evaluated.
"""

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from pydantic import ValidationError

from nas.analysis.candidates import (
    Believed,
    Candidates,
    Evaluated,
    behind_front,
    believed,
    candidates,
    evaluated_subnets,
    learned,
)
from nas.analysis.expected_gain import Gain, Pool, expected_gains
from nas.analysis.explanation import predicted_device
from nas.config import STORED, JobConfig, merged
from nas.config.components import stored_config
from nas.config.problems import problems_error
from nas.config.strict import STORED_JOB
from nas.job_run import check_finished
from nas.limits import QUALITIES, Limit, kind_of, split
from nas.measuring.latency import stored_latencies
from nas.proposals.inner_search import batch
from nas.proposals.one_thread import one_thread
from nas.proposals.problem import SearchProblem, with_directions
from nas.search.objectives import Objectives, hypervolume
from nas.spaces.job_space import space_of
from nas.store import Job, Store
from predictors.accuracy import AccuracyPredictor
from search_spaces.errors import NotFoundError, UsageError
from search_spaces.space import Codes

MOST_ROWS = 10**9  # more than any job has evaluated
POOL = 500  # candidates among which the next evaluations are chosen when their gain is foretold
KNOWN = 200  # evaluated subnets that count then, those closest to their front


@dataclass(frozen=True)
class Foretold:
    """A subnet of the front that is foretold.

    quality, quality_std: as the accuracy predictor believes, of which it was chosen.
    evaluated, evaluated_stderr: as stored, on the search split; None where it is only predicted.
    costs: by name, exact or predicted.  cost_stds: of those that are predicted.
    """

    subnet: str
    architecture: Mapping[str, Any]
    quality: float
    quality_std: float
    evaluated: float | None
    evaluated_stderr: float | None
    costs: Mapping[str, float]
    cost_stds: Mapping[str, float]


@dataclass(frozen=True)
class WhatIf:
    """The front that is foretold for a question, and what more evaluations are expected to gain.

    devices: whose latencies are predicted.
    evaluations: of how many subnets of the same supernet there are some.  within: those of them that were
    looked at and are within the limits.  learned: those that the accuracy predictor was fitted to.
    candidates: architectures within the limits that were looked at.  sampled: whether the space has more.
    hypervolume: what the evaluated subnets dominate by what is believed of them, as a share of the box that
    `nas show` goes by.  foretold: the same of all candidates, if all that is predicted were true.
    members: the fastest first.
    """

    job: str
    metric: str
    objectives: tuple[str, ...]
    limits: tuple[Limit, ...]
    devices: tuple[str, ...]
    evaluations: int
    within: int
    learned: int
    candidates: int
    sampled: bool
    hypervolume: float
    foretold: float
    gains: tuple[Gain, ...]
    members: tuple[Foretold, ...]

    def to_dict(self) -> dict[str, Any]:
        """The JSON of `nas what-if --json`."""
        fields = asdict(self) | {"limits": list(map(str, self.limits))}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


def what_if(
    store: Store,
    job: Job,
    *,
    limits: Sequence[str] | None = None,
    objectives: Sequence[str] | None = None,
    device: str | None = None,
) -> WhatIf:
    """The front that a job with this question would find, as far as it can be foretold.

    limits, objectives: as `constraints` and `objectives` of a job file; by default the job's own.
    device: one that the job has a latency predictor for; by default those that it searched for.
    Raises UsageError for limits and objectives that make no search, and for limits that no subnet keeps;
    NotFoundError for a job without a latency predictor or with too few evaluations, and an unknown device.
    """
    with one_thread(), _garbage_kept():
        return _foretold(store, job, question(store, job, limits, objectives, device))


def _foretold(store: Store, job: Job, config: JobConfig) -> WhatIf:
    asked = _Asked.of(store, job, config)
    evaluated = evaluated_subnets(store, job, asked.objectives.space, asked.config.quality)
    within = candidates(asked.searched, evaluated.codes)
    model = learned(asked.objectives.space, evaluated)
    beliefs = believed(asked.objectives, model, within)
    front = batch(beliefs.points, np.empty((0, beliefs.points.shape[1])), asked.config.search.finalists)
    of_evaluated = within.rows[beliefs.places] >= 0
    return WhatIf(
        job=job.name,
        metric=asked.config.quality,
        objectives=asked.config.objectives,
        limits=asked.config.limits,
        devices=tuple(asked.config.devices),
        evaluations=evaluated.count,
        within=int((within.rows >= 0).sum()),
        learned=len(evaluated.teachers),
        candidates=len(within.codes),
        sampled=within.sampled,
        hypervolume=hypervolume(beliefs.points[of_evaluated]),
        foretold=hypervolume(beliefs.points),
        gains=tuple(expected_gains(model, _pool(asked, evaluated, within, beliefs))),
        members=_members(asked, evaluated, within, beliefs, model, front),
    )


@contextmanager
def _garbage_kept() -> Iterator[None]:
    """While 100,000s of rows are read, Python would look through all of them for garbage, again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def question(
    store: Store,
    job: Job,
    limits: Sequence[str] | None = None,
    objectives: Sequence[str] | None = None,
    device: str | None = None,
) -> JobConfig:
    """The job's config with another question. Raises as `what_if`."""
    config = stored_config(job)
    tree = merged(config)
    if device is not None:
        predicted_device(store, job, device)
        settings = config.devices.get(device)
        tree["devices"] = {device: STORED if settings is None else settings.model_dump(mode="json")}
        tree |= _as_alone(config, device)
    tree |= {} if objectives is None else {"objectives": list(objectives)}
    tree |= {} if limits is None else {"constraints": list(limits)}
    try:
        asked = JobConfig.model_validate(tree, strict=False, context=STORED_JOB)
    except ValidationError as error:
        raise problems_error(error, JobConfig, where=f"What is asked of job '{job.name}'") from None
    if asked.quality not in asked.objectives:
        raise UsageError(
            f"The objectives {' and '.join(asked.objectives)} are known of every subnet: nothing has to be "
            "foretold.",
            f"Name {asked.quality} among them.",
        )
    return asked


def _as_alone(config: JobConfig, device: str) -> dict[str, list[str]]:
    """The job's objectives and limits when it is asked for one device; those on others are left out."""
    objectives = dict.fromkeys(split(name)[0] for name in config.objectives)
    limits = [
        str(replace(limit, name=split(limit.name)[0]))
        for limit in config.limits
        if split(limit.name)[1] in (None, device)
    ]
    return {"objectives": list(objectives), "constraints": limits}


def follow_up(store: Store, job: Job, asked: JobConfig, count: int) -> JobConfig:
    """The config of a job that evaluates `count` more for a question and measures what it then finds.

    It uses the job's supernet, and its search begins with the job's evaluations within the limits.
    Raises UsageError for a count below 1, ConflictError for a job that has not finished, NotFoundError where
    its supernet is not in the store.
    """
    if count < 1:
        raise UsageError(f"{count} more evaluations are none.", "Ask for 1 at least.")
    check_finished(store, job)
    uses = store.supernets_of(job)
    if not uses:
        raise NotFoundError(
            f"The supernet of job '{job.name}' is not in the store.", "`nas run FILE` trains one."
        )
    searched = _Asked.of(store, job, asked).searched
    evaluated = evaluated_subnets(store, job, searched.space, asked.quality, alone=True, most=MOST_ROWS)
    begin = int(searched.within_limits(evaluated.codes).sum())
    tree = merged(asked) | {"name": None, "reuse": True}
    if asked.supernets is None:
        tree["supernet"] = {"use": uses[0].supernet.name}
    else:
        tree["supernets"] = [{"use": use.supernet.name, "name": use.name} for use in uses]
    tree["search"] |= {"source": job.name, "evaluations": begin + count, "stop": None}
    return JobConfig.model_validate(tree, strict=False, context=STORED_JOB)


@dataclass(frozen=True)
class _Asked:
    """A question with what is known beforehand of every architecture."""

    config: JobConfig
    objectives: Objectives
    searched: SearchProblem

    @classmethod
    def of(cls, store: Store, job: Job, config: JobConfig) -> "_Asked":
        space, names = space_of(store, job), list(config.devices)
        # The only device of a job may be known to the store by another name.
        is_own = len(names) == 1 and names == list(stored_config(job).devices)
        rows = {name: predicted_device(store, job, None if is_own else name)[0] for name in names}
        first, *others = stored_latencies(store, job, config, space, rows)
        objectives = Objectives(config.objectives, space, first, tuple(others), config.quality)
        costs = objectives.costs(space.encode([space.largest]))
        named = (*config.objectives, *(limit.name for limit in config.limits))
        for name in (name for name in named if name not in (*QUALITIES, *costs)):
            raise UsageError(
                f"Job '{job.name}' cannot predict {name}.", f"It can: {', '.join(sorted(costs))}."
            )
        searched = SearchProblem(
            space,
            with_directions(objectives.names, objectives.quality),
            objectives.costs,
            objectives.bounds,
            limits=config.limits,
        )
        return cls(config, objectives, searched)


def _members(
    asked: _Asked,
    evaluated: Evaluated,
    within: Candidates,
    beliefs: Believed,
    model: AccuracyPredictor,
    front: Sequence[int],
) -> tuple[Foretold, ...]:
    """What is told of some of the candidates."""
    places = beliefs.places[list(front)]
    codes = within.codes[places]
    with one_thread():
        _, std = model.predict(codes)
    costs, stds = asked.objectives.costs(codes), _stds(asked.objectives, codes)
    members = []
    for i, arch in enumerate(asked.objectives.space.decode(codes)):
        row = int(within.rows[places[i]])
        is_evaluated = row >= 0
        members.append(
            Foretold(
                arch.key,
                arch.to_dict(),
                float(beliefs.quality[front[i]]),
                float(std[i]),
                float(evaluated.subnets.quality[row]) if is_evaluated else None,
                evaluated.subnets.stderr[row] if is_evaluated else None,
                {name: float(column[i]) for name, column in costs.items()},
                {name: float(column[i]) for name, column in stds.items()},
            )
        )
    order = next((name for name in asked.objectives.names if name != asked.objectives.quality), None)
    sign = kind_of(asked.config.quality).sign
    return tuple(sorted(members, key=lambda m: (m.costs[order] if order else 0.0, -sign * m.quality)))


def _stds(objectives: Objectives, codes: Codes) -> dict[str, Any]:
    """Standard deviations of predicted latencies in ms, by name, (n,) each."""
    return {one.named("latency_ms"): one.predictor.predict(codes)[1] for one in objectives.latencies}


def _pool(asked: _Asked, evaluated: Evaluated, within: Candidates, beliefs: Believed) -> Pool:
    """Those evaluated that are closest to their front, and those of the others that are closest to that of
    all.
    """
    place = asked.objectives.names.index(asked.objectives.quality)
    is_evaluated = within.rows[beliefs.places] >= 0
    ours, others = np.flatnonzero(is_evaluated), np.flatnonzero(~is_evaluated)
    ours = ours[np.argsort(behind_front(beliefs.points[ours], place), kind="stable")[:KNOWN]]
    behind = behind_front(beliefs.points, place)[others]
    others = others[np.argsort(behind, kind="stable")[:POOL]]
    chosen = np.concatenate([np.sort(ours), np.sort(others)])
    errors = [stderr for stderr in evaluated.subnets.stderr if stderr is not None]
    noise = float(np.median(errors)) if errors else 0.0
    return Pool(
        within.codes[beliefs.places[chosen]],
        beliefs.points[chosen],
        place,
        len(ours),
        noise,
        asked.objectives.kind,
    )
