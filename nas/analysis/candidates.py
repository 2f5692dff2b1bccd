"""Architectures that could be on a front: all of a space or a sample, and those that were evaluated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import moocore
import numpy as np
from numpy.typing import NDArray

from nas.limits import kind_of
from nas.proposals.one_thread import one_thread
from nas.proposals.problem import SearchProblem
from nas.search.belief import FEWEST, fitted
from nas.search.objectives import Objectives
from nas.spaces.job_space import check_limits
from nas.store import Job, SearchedSubnets, Store
from predictors.accuracy import AccuracyPredictor
from predictors.accuracy_kernels import one_hot
from search_spaces import SearchSpace
from search_spaces.architecture import group_of
from search_spaces.errors import NotFoundError
from search_spaces.space import INACTIVE, Codes

MOST = 200_000  # architectures; of a larger space so many are sampled
MOST_LEARNED = 500  # evaluations that the accuracy predictor is fitted to; of more a sample
MOST_READ = 5_000  # evaluated subnets that are looked at; of more, those best for their MACs
BINS = 100  # groups of like MACs
MOVED = 256  # of a sample, which are moved towards limits that chance hardly ever keeps
SEED = 0
CHUNK = 4096  # rows at once: what a processor's cache holds
FEW = 5_000  # candidates that are predicted exactly; of more those that may be on the front
TRIED = 2_000  # candidates from which a rough model of the predictor is made
DEVIATIONS = 6.0  # of the rough model's error, within which a candidate may still be on the front
MOST_TOLD_APART = 2**62  # rows, by one integer

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Evaluated:
    """What was evaluated: codes (n, choices) without repeats, with what the store has of each.

    teachers: places of those that the accuracy predictor is fitted to.
    count: of all evaluated subnets; of very many not all are here.
    """

    codes: Codes
    subnets: SearchedSubnets
    teachers: NDArray[np.int64]
    count: int


def evaluated_subnets(
    store: Store, job: Job, space: SearchSpace, metric: str, *, alone: bool = False, most: int = MOST_READ
) -> Evaluated:
    """What the job, and all others with the same supernet, have evaluated; the most precise of several.

    alone: the job only.  most: of more subnets a sample, and those of highest quality for their MACs.
    Raises NotFoundError for fewer than a predictor needs.
    """
    use = None if alone else store.supernet_of(job)
    uses = [] if use is None else [one for one in store.supernet_uses() if one.supernet.id == use.supernet.id]
    # What the backend of a device has computed is about another network than the supernet's.
    by_devices = {one.id for one in store.jobs() if one.config.get("quality_on") is not None}
    others = set() if job.id in by_devices else {one.job_id for one in uses} - by_devices
    everything = store.searched({job.id, *others}, metric)
    if len(everything) < FEWEST:
        begun = [stage.name for stage in store.stages(job) if stage.state == "running"]
        has = f"has evaluated {len(everything)} subnets"
        has += f" and is at stage '{begun[-1]}'" if begun else ""
        raise NotFoundError(
            f"Job '{job.name}' {has}; an accuracy predictor needs {FEWEST}.",
            f"`nas show {job.id}` tells how far it is.",
        )
    # Who teaches does not depend on quality: the luckiest would make a predictor too hopeful.
    teachers = np.sort(np.random.default_rng(SEED).permutation(len(everything))[:MOST_LEARNED])
    places = np.arange(len(everything))
    if len(everything) > most:
        places = np.union1d(teachers, _best_for_their_macs(everything, most, kind_of(metric).sign))
    chosen = everything.at(places.tolist())
    codes = _encoded(space, store.architectures(chosen.ids))
    return Evaluated(codes, chosen, np.searchsorted(places, teachers), len(everything))


def _best_for_their_macs(subnets: SearchedSubnets, count: int, sign: float) -> NDArray[np.int64]:
    """Places of about `count` of them: in each of BINS groups of like MACs those of best quality."""
    groups = np.array_split(np.argsort(subnets.macs, kind="stable"), BINS)
    each = -(-count // BINS)
    best = [group[np.argsort(-sign * subnets.quality[group], kind="stable")[:each]] for group in groups]
    return np.concatenate(best)


def _encoded(space: SearchSpace, architectures: Sequence[Mapping[str, Any]]) -> Codes:
    """The codes (n, choices) of canonical architectures as plain data, choice by choice: there are many."""
    codes = np.full((len(architectures), len(space.choices)), INACTIVE, dtype=np.int64)
    parts = [group_of(choice.name) for choice in space.choices]
    columns: dict[str, Sequence[Any]] = {}
    for group in dict.fromkeys(group for group, _ in parts):
        values = [values.get(group) for values in architectures]
        count = max((index + 1 for name, index in parts if name == group and index is not None), default=0)
        # A per-layer choice is a list, as long as there are layers.
        listed = [[*(value or ()), *[None] * count][:count] for value in values] if count else values
        columns[group] = list(zip(*listed, strict=True)) if count else listed
    for i, (choice, (group, index)) in enumerate(zip(space.choices, parts, strict=True)):
        places: dict[Any, int] = {option: place for place, option in enumerate(choice.options)}
        places[None] = INACTIVE
        column = columns[group] if index is None else columns[group][index]
        codes[:, i] = [places[value] for value in column]
    return codes


def learned(space: SearchSpace, evaluated: Evaluated) -> AccuracyPredictor:
    """The accuracy predictor of what was evaluated."""
    taught = evaluated.subnets.at(evaluated.teachers.tolist())
    return fitted(space, evaluated.codes[evaluated.teachers], taught.quality.tolist(), taught.stderr)


@dataclass(frozen=True, eq=False)
class Candidates:
    """Architectures within the limits, those first that were evaluated.

    rows: the evaluation of each (n,), as its place among all that were evaluated; -1: there is none.
    sampled: whether the space is larger.
    """

    codes: Codes
    rows: NDArray[np.int64]
    sampled: bool


def candidates(searched: SearchProblem, evaluated: Codes) -> Candidates:
    """All architectures of a space within the limits, or the evaluated ones and MOST that are sampled.

    Raises UsageError where none is found within the limits.
    """
    space = searched.space
    rng = np.random.default_rng(SEED)
    sampled = not space.listable or space.size > MOST
    drawn = space.sample_choices(rng, MOST) if sampled else space.all_codes()
    codes, rows = _within(searched, evaluated, drawn)
    if sampled and len(codes) < FEW:
        check_limits(space, searched.limits, lambda some: dict(searched.limited(some)))
        moved = searched.moved(drawn[:MOVED], rng)
        codes, rows = _within(searched, evaluated, np.concatenate([drawn, moved]))
    if not len(codes):
        check_limits(space, searched.limits, lambda some: dict(searched.limited(some)))
    return Candidates(codes, rows, sampled)


def _within(searched: SearchProblem, evaluated: Codes, drawn: Codes) -> tuple[Codes, NDArray[np.int64]]:
    """Of the architectures without repeats those within the limits, and which was evaluated as which."""
    firsts = _first_of_each([_as_integers(searched.space, codes) for codes in (evaluated, drawn)])
    places = []
    for codes, first in zip((evaluated, drawn), firsts, strict=True):
        chunks = [first[start : start + CHUNK] for start in range(0, len(first), CHUNK)]
        within = [some[searched.within_limits(codes[some])] for some in chunks]
        places.append(np.concatenate([np.empty(0, dtype=np.int64), *within]))
    # There may be 200,000: memory that is asked for once more costs more than what is computed in it.
    kept = np.empty((sum(map(len, places)), drawn.shape[1]), dtype=np.int64)
    kept[: len(places[0])] = evaluated[places[0]]
    np.take(drawn, places[1], axis=0, out=kept[len(places[0]) :], mode="clip")
    return kept, np.concatenate([places[0], np.full(len(places[1]), -1)])


def _as_integers(space: SearchSpace, codes: Codes) -> NDArray[np.int64]:
    """Architectures (n, choices) as the few integers each that tell them apart, (n, integers).

    These are quicker to sort than rows are.
    """
    factors: list[NDArray[np.int64]] = []
    room = 1  # what the last integer can still be multiplied with
    for i, choice in enumerate(space.choices):
        options = len(choice.options) + 1  # with INACTIVE
        if room < options:
            factors.append(np.zeros(len(space.choices), dtype=np.int64))
            room = MOST_TOLD_APART
        factors[-1] *= options
        factors[-1][i] = 1
        room //= options
    columns = [codes @ factor - INACTIVE * factor.sum() for factor in factors]
    return np.column_stack([np.empty((len(codes), 0), dtype=np.int64), *columns])


def _first_of_each(parts: Sequence[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    """In which rows (n, integers) of each part something stands for the first time."""
    rows = np.concatenate(parts)
    order = np.lexsort(rows.T)
    differs = np.ones(len(rows), dtype=np.bool_)
    differs[1:] = np.any(np.diff(rows[order], axis=0) != 0, axis=1)
    first = np.sort(order[differs])
    ends = np.cumsum([len(part) for part in parts])
    starts = ends - [len(part) for part in parts]
    return [first[(first >= start) & (first < end)] - start for start, end in zip(starts, ends, strict=True)]


@dataclass(frozen=True, eq=False)
class Believed:
    """Candidates that may be on the front, as they are believed to be.

    places: which of the candidates they are (n,).  quality: (n,), as the accuracy predictor believes.
    points: objectives (n, objectives) between 0, the best, and 1.
    """

    places: NDArray[np.int64]
    quality: Floats
    points: Floats


def believed(objectives: Objectives, model: AccuracyPredictor, everything: Candidates) -> Believed:
    """The candidates that may be on the front: of all, and of those that were evaluated.

    Of many the predictor is first replaced by a rough, additive model of itself, and asked itself about those
    that are within DEVIATIONS of that model's error of a front.
    """
    codes, place = everything.codes, objectives.names.index(objectives.quality)
    costs = objectives.costs(codes)
    quality, kept = np.zeros(len(codes)), np.arange(len(codes))
    columns = [quality if name == objectives.quality else costs[name] for name in objectives.names]
    points = objectives.minimised(np.column_stack(columns).astype(np.float64))
    with one_thread():
        if len(codes) > FEW:
            rough, error = _rough(objectives.space, model, codes)
            points[:, place] = objectives.kind.lost(rough)
            behind = behind_front(points, place)
            of_evaluated = everything.rows >= 0
            behind[of_evaluated] = np.minimum(behind[of_evaluated], behind_front(points[of_evaluated], place))
            nearest = np.argsort(behind, kind="stable")[:FEW]
            kept = np.sort(nearest[behind[nearest] <= DEVIATIONS * error / objectives.kind.span])
        quality = means(model, codes[kept])
    points = points[kept]
    points[:, place] = objectives.kind.lost(quality)
    return Believed(kept, quality, points)


def means(model: AccuracyPredictor, codes: Codes) -> Floats:
    """What the predictor believes (n,), some rows at a time."""
    parts = [model.mean(codes[start : start + CHUNK]) for start in range(0, len(codes), CHUNK)]
    return np.concatenate([np.empty(0), *parts])


def _rough(space: SearchSpace, model: AccuracyPredictor, codes: Codes) -> tuple[Floats, float]:
    """An additive model of the predictor (n,), and the root of its mean squared error."""
    some = codes[np.random.default_rng(SEED).permutation(len(codes))[:TRIED]]
    exact, columns = means(model, some), one_hot(space, some)
    centre = float(exact.mean())
    weights = np.linalg.lstsq(columns, exact - centre, rcond=None)[0]
    error = float(np.sqrt(np.mean(np.square(columns @ weights + centre - exact))))
    # A look-up for each choice is what the product would be; -1, INACTIVE, finds the 0 that is put behind.
    last = np.cumsum([len(choice.options) for choice in space.choices])
    starts = last - [len(choice.options) for choice in space.choices]
    tables = [np.append(weights[a:b], 0.0) for a, b in zip(starts, last, strict=True)]
    rough = np.full(len(codes), centre)
    for start in range(0, len(codes), CHUNK):
        columns_of_some = codes[start : start + CHUNK].T
        for of_options, column in zip(tables, columns_of_some, strict=True):
            rough[start : start + CHUNK] += of_options[column]
    return rough, error


def behind_front(points: Floats, place: int) -> Floats:
    """How much better in column `place` each row (n,) had to be to be on the front of all; 0: it is there."""
    if not len(points):
        return np.empty(0)
    front = points[moocore.is_nondominated(points)]
    others = [column for column in range(points.shape[1]) if column != place]
    behind = []
    for start in range(0, len(points), CHUNK):
        some = points[start : start + CHUNK]
        cheaper = np.all(front[None, :, others] <= some[:, None, others], axis=2)
        behind.append(some[:, place] - np.where(cheaper, front[:, place], np.inf).min(axis=1))
    distances: Floats = np.maximum(np.concatenate(behind), 0.0)
    return distances
