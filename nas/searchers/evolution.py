"""Evolutionary search as in ViT-ResNAS: mutants and crossovers of the best of everything seen so far.

A random population begins. Then every iteration takes the best evaluated architectures, whenever they were
found, as parents of as many mutants and crossovers. All of them keep the hard limits, such as a window of
costs.
Source: Liao, Karaman and Sze, "Searching for Efficient Multi-Stage Vision Transformers" (arXiv 2109.00642),
the released search. Ours: the random population draws every choice uniformly, where the release begins with
the largest heads and FFNs and prunes; with several objectives the best are those of the first non-dominated
fronts, sparse regions first; and no architecture comes twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import moocore
import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas.searchers import SearchProblem
from nas.searchers._distinct import DistinctSampler, InnerSampler, architecture, parameters
from search_spaces._errors import UsageError
from search_spaces._repair import repaired
from search_spaces._space import INACTIVE, Codes

PUBLISHED = {"initial": 500, "parents": 75, "mutants": 75, "crossovers": 75}
PUBLISHED_EVALUATIONS = 3350  # 500, and 19 times 75 + 75
LEAST = 4  # of each, where a small budget shrinks them
LOT = 128  # children that are drawn at once; the first that keeps the limits is proposed


@dataclass(frozen=True)
class Scheme:
    """Sizes of the first population and of an iteration; the probability that a mutation redraws a choice."""

    initial: int
    parents: int
    mutants: int
    crossovers: int
    mutation: float = 0.3

    def __post_init__(self) -> None:
        """Raises UsageError for sizes and probabilities that are none."""
        for name, least in {"initial": 1, "parents": 2, "mutants": 0, "crossovers": 0}.items():
            if type(value := getattr(self, name)) is not int or value < least:
                raise UsageError(
                    f"search.options.{name} = {value!r} is not a whole number of at least {least}."
                )
        if self.mutants + self.crossovers < 1:
            raise UsageError("search.options: an iteration without mutants and crossovers finds nothing.")
        if type(self.mutation) not in (int, float) or not 0 < self.mutation <= 1:
            raise UsageError(f"search.options.mutation = {self.mutation!r} is no probability above 0.")


def build(
    problem: SearchProblem,
    *,
    initial: int | None = None,
    parents: int | None = None,
    mutants: int | None = None,
    crossovers: int | None = None,
    mutation: float = 0.3,
) -> BaseSampler:
    """Evolution with the published sizes (500, 75, 75, 75) where the budget is the published 3,350 or more.

    A smaller budget shrinks all of them alike. Raises UsageError for sizes that are impossible.
    """
    share = min(1.0, (problem.budget or PUBLISHED_EVALUATIONS) / PUBLISHED_EVALUATIONS)
    given = {"initial": initial, "parents": parents, "mutants": mutants, "crossovers": crossovers}
    sizes = {
        name: max(LEAST, round(share * PUBLISHED[name])) if size is None else size
        for name, size in given.items()
    }
    return DistinctSampler(problem, inner=partial(_Evolution, problem, Scheme(**sizes, mutation=mutation)))


class _Evolution(InnerSampler):
    """Proposals of one trial; whether they are new, `DistinctSampler` sees to."""

    def __init__(self, problem: SearchProblem, scheme: Scheme, seed: int) -> None:
        self._problem, self._scheme, self._space = problem, scheme, problem.space
        self._rng = np.random.default_rng(seed)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Mapping[str, BaseDistribution]
    ) -> dict[str, Any]:
        arch = self._space.decode(self._first_within(self._lot(study, trial.number))[None])[0]
        return {name: value for name, value in parameters(self._space, arch).items() if name in search_space}

    def _lot(self, study: Study, number: int) -> Codes:
        """LOT architectures (LOT, choices) of the kind that this trial is to propose."""
        scheme, rng = self._scheme, self._rng
        iteration, place = divmod(number - scheme.initial, scheme.mutants + scheme.crossovers)
        before = scheme.initial + iteration * (scheme.mutants + scheme.crossovers)
        parents = self._parents(study, before) if iteration >= 0 else self._space.encode([])
        if len(parents) < 2:
            return self._space.sample_choices(rng, LOT)
        if place < scheme.mutants:
            return self._mutants(parents[rng.integers(len(parents), size=LOT)])
        fathers = rng.integers(len(parents), size=LOT)
        mothers = (fathers + rng.integers(1, len(parents), size=LOT)) % len(parents)
        return self._space.crossed(rng, parents[fathers], parents[mothers])

    def _parents(self, study: Study, before: int) -> Codes:
        """The best of the trials with lower numbers that are finished."""
        done = [
            t for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if t.number < before
        ]
        if not done:
            return self._space.encode([])
        signs = [1 if direction == StudyDirection.MINIMIZE else -1 for direction in study.directions]
        chosen = best(np.array([trial.values for trial in done]) * signs, self._scheme.parents)
        return self._space.encode([architecture(self._space, done[i].params) for i in chosen])

    def _mutants(self, codes: Codes) -> Codes:
        """Each choice redrawn with the scheme's probability; whether something exists is flipped."""
        which = self._rng.random(codes.shape) < self._scheme.mutation
        yes_or_no = np.array([set(choice.options) == {False, True} for choice in self._space.choices])
        flipped = np.where(which & yes_or_no & (codes != INACTIVE), 1 - codes, codes)
        return self._space.redrawn(self._rng, flipped, which & ~yes_or_no)

    def _first_within(self, lot: Codes) -> NDArray[np.int64]:
        """The first that keeps the limits, (choices,); if none does, one that was moved towards them.

        Where nobody can tell the way, it is left outside: then `DistinctSampler` looks for another one.
        """
        within = self._problem.feasible(lot)
        if not within.any() and self._problem.outside is not None:
            lot = repaired(self._space, lot[:1], self._problem.outside, self._rng)
        code: NDArray[np.int64] = lot[int(within.argmax())]
        return code


def best(values: NDArray[np.float64], count: int) -> list[int]:
    """The places of the `count` best rows (n, objectives), all minimised.

    By non-dominated front, and within one those first that are farthest from their neighbours.
    """
    ranks = moocore.pareto_rank(values)
    chosen: list[int] = []
    for rank in range(int(ranks.max()) + 1):
        front = np.flatnonzero(ranks == rank)
        crowding = _crowding_distance(values[front])
        chosen += front[np.argsort(-crowding, kind="stable")].tolist()
        if len(chosen) >= count:
            break
    return chosen[:count]


def _crowding_distance(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each row (n,); infinite for the ends. Source: Deb et al., NSGA-II (2002)."""
    distance = np.zeros(len(values))
    for column in values.T:
        order = np.argsort(column, kind="stable")
        span = float(np.ptp(column)) or 1.0
        distance[order[[0, -1]]] = np.inf
        distance[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / span
    return distance
