"""What evolution has in common, whatever its scheme: who is better, and which child is proposed."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import moocore
import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas.searchers import SearchProblem
from nas.searchers._distinct import InnerSampler, parameters
from search_spaces._repair import repaired
from search_spaces._space import Codes

LOT = 128  # children that are drawn at once; the first that keeps the limits is proposed


class Evolving(InnerSampler):
    """Proposals of one trial: the first of a lot within the limits; `DistinctSampler` sees that it is new."""

    def __init__(self, problem: SearchProblem, seed: int) -> None:
        self._problem, self._space = problem, problem.space
        self._rng = np.random.default_rng(seed)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Mapping[str, BaseDistribution]
    ) -> dict[str, Any]:
        lot = self._lot(study, trial.number)
        arch = self._space.decode(first_within(self._problem, lot, self._rng)[None])[0]
        return {name: value for name, value in parameters(self._space, arch).items() if name in search_space}

    @abstractmethod
    def _lot(self, study: Study, number: int) -> Codes:
        """LOT architectures (LOT, choices) of the kind that this trial is to propose."""


def finished(study: Study, before: int) -> tuple[list[FrozenTrial], NDArray[np.float64]]:
    """The complete trials with lower numbers, in order, and their values (n, objectives), minimised."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    done = sorted((trial for trial in done if trial.number < before), key=lambda trial: trial.number)
    signs = [1 if direction == StudyDirection.MINIMIZE else -1 for direction in study.directions]
    return done, np.array([trial.values for trial in done]).reshape(len(done), len(signs)) * signs


def best(values: NDArray[np.float64], count: int) -> list[int]:
    """The places of the `count` best rows (n, objectives), all minimised.

    By non-dominated front, and within one those first that are farthest from their neighbours.
    """
    if not len(values):
        return []
    ranks = moocore.pareto_rank(values)
    chosen: list[int] = []
    for rank in range(int(ranks.max()) + 1):
        front = np.flatnonzero(ranks == rank)
        crowding = _crowding_distance(values[front])
        chosen += front[np.argsort(-crowding, kind="stable")].tolist()
        if len(chosen) >= count:
            break
    return chosen[:count]


def first_within(problem: SearchProblem, lot: Codes, rng: np.random.Generator) -> NDArray[np.int64]:
    """The first that keeps the limits, (choices,); if none does, one that was moved towards them.

    Where nobody can tell the way, it is left outside: then `DistinctSampler` looks for another one.
    """
    within = problem.feasible(lot)
    if not within.any() and problem.outside is not None:
        lot = repaired(problem.space, lot[:1], problem.outside, rng)
    code: NDArray[np.int64] = lot[int(within.argmax())]
    return code


def _crowding_distance(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each row (n,); infinite for the ends. Source: Deb et al., NSGA-II (2002)."""
    distance = np.zeros(len(values))
    for column in values.T:
        order = np.argsort(column, kind="stable")
        span = float(np.ptp(column)) or 1.0
        distance[order[[0, -1]]] = np.inf
        distance[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / span
    return distance
