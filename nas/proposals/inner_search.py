"""The search inside of a searcher: NSGA-II on what is predicted, refined, and a batch of what was seen.

Sources: Deb et al., "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II" (2002); greedy choice by
gain of hypervolume, its gains evaluated lazily (they never rise as more is chosen): Minoux, "Accelerated
Greedy Algorithms for Maximizing Submodular Set Functions" (1978).
"""

import heapq
from collections.abc import Callable, Collection

import moocore
import numpy as np
from numpy.typing import NDArray

from nas.proposals.problem import SearchProblem
from nas.proposals.selection import best
from search_spaces.moves import changed
from search_spaces.space import Codes

Floats = NDArray[np.float64]

POPULATION, GENERATIONS = 100, 25
REFINEMENTS, NEAR = 6, 4  # rounds after it, and neighbours of each of the best, one choice away
CONSIDERED = 400  # of all that were seen, when a batch is chosen
REFERENCE = 1.1  # the corner of the hypervolume, in units of the box around the front
LEAST_GAIN = 1e-9


def explored(
    problem: SearchProblem,
    predicted: Callable[[Codes], Floats],
    start: Codes,
    rng: np.random.Generator,
) -> tuple[Codes, Floats]:
    """All architectures within the limits that were looked at, without repeats, and what is predicted.

    NSGA-II gets near to the front that is predicted; with many choices it takes neighbours to reach it.
    predicted: codes -> objectives (n, objectives), minimised.  start: where it begins, beside random ones.
    """
    space = problem.space
    drawn = problem.moved(space.sample_choices(rng, POPULATION), rng)
    pool = _within(problem, np.concatenate([start, drawn]))
    seen: dict[bytes, None] = {}
    population, values = space.encode([]), np.empty((0, predicted(start[:1]).shape[1]))
    everything = [(population, values)]
    for _ in range(GENERATIONS + 1):
        fresh = _new(pool, seen)
        if len(fresh):
            everything.append((fresh, predicted(fresh)))
            population = np.concatenate([population, fresh])
            values = np.concatenate([values, everything[-1][1]])
        if not len(population):
            break
        survivors = best(values, POPULATION)
        population, values = population[survivors], values[survivors]
        pool = _within(problem, _children(problem, population, rng))
    codes, values = (np.concatenate(columns) for columns in zip(*everything, strict=True))
    for _ in range(REFINEMENTS):
        near = changed(space, np.repeat(codes[best(values, POPULATION)], NEAR, axis=0), rng)
        fresh = _new(_within(problem, near), seen)
        if len(fresh):
            codes, values = np.concatenate([codes, fresh]), np.concatenate([values, predicted(fresh)])
    return codes, values


def _within(problem: SearchProblem, codes: Codes) -> Codes:
    return codes[problem.within_limits(codes)] if len(codes) else codes


def _new(codes: Codes, seen: dict[bytes, None]) -> Codes:
    """Those that are not in `seen`, which they enter."""
    rows = []
    for row, code in enumerate(codes):
        key = code.tobytes()
        if key not in seen:
            seen[key] = None
            rows.append(row)
    return codes[rows]


def _children(problem: SearchProblem, population: Codes, rng: np.random.Generator) -> Codes:
    """POPULATION children, ordered parents (the best first) being likelier; a choice or so is redrawn."""
    places = np.minimum(*rng.integers(len(population), size=(2, 2 * POPULATION)))
    a, b = population[places[:POPULATION]], population[places[POPULATION:]]
    apart = rng.random(POPULATION) < 0.1  # children of one parent
    children = problem.space.crossed(rng, a, np.where(apart[:, None], a, b))
    redrawn = rng.random(children.shape) < 1 / children.shape[1]
    return problem.space.redrawn(rng, children, redrawn)


def batch(values: Floats, archive: Floats, count: int) -> list[int]:
    """The places of at most `count` rows of `values`, each the one that adds most hypervolume to the others.

    values, archive: objectives (n, objectives), minimised; what is chosen, and what is there already. Rows
    that add nothing are not chosen; of one objective the best rows are, though only the first adds anything.
    """
    if values.shape[1] == 1:
        return best(values, count)
    considered = best(values, CONSIDERED) if len(values) else []
    front = archive[moocore.is_nondominated(archive)] if len(archive) else archive
    both = np.concatenate([values[considered], front])
    if not len(both):
        return []
    low, high = (end(both[moocore.is_nondominated(both)], axis=0) for end in (np.min, np.max))
    span = np.where(high > low, high - low, 1.0)
    rows, taken = (values - low) / span, (front - low) / span
    beaten = np.all(front[None, :, :] <= values[considered][:, None, :], axis=2).any(axis=1)
    reference = np.full(values.shape[1], REFERENCE)
    volume = float(moocore.hypervolume(taken, ref=reference)) if len(taken) else 0.0
    bounds = [(-np.inf, place) for place, lost in zip(considered, beaten, strict=True) if not lost]
    chosen: list[int] = []
    while bounds and len(chosen) < count:
        _, place = heapq.heappop(bounds)
        together = np.concatenate([taken, rows[place : place + 1]])
        gain = float(moocore.hypervolume(together, ref=reference)) - volume
        if gain <= LEAST_GAIN:
            continue
        if not bounds or gain >= -bounds[0][0]:
            chosen.append(place)
            taken, volume = together, volume + gain
        else:
            heapq.heappush(bounds, (-gain, place))
    return chosen


def unknown(codes: Codes, proposed: Collection[bytes]) -> NDArray[np.bool_]:
    """Which rows (n,) were not proposed before."""
    return np.array([code.tobytes() not in proposed for code in codes], dtype=np.bool_)
