"""What evolution has in common, whatever its scheme: who is better, and which child is proposed."""

from abc import abstractmethod

import moocore
import numpy as np
from numpy.typing import NDArray

from nas.proposals.distinct import Distinct, Draw
from nas.proposals.problem import Code, SearchProblem
from search_spaces.space import Codes

LOT = 128  # children that are drawn at once; the first that keeps the limits is proposed


class Evolving(Distinct):
    """Draws lots of children; of each the first within the limits."""

    def _begin(self, number: int, seed: int) -> Draw:
        rng = np.random.default_rng(seed)
        return lambda: first_within(self.problem, self._lot(number, rng), rng)

    @abstractmethod
    def _lot(self, number: int, rng: np.random.Generator) -> Codes:
        """LOT architectures (LOT, choices) of the kind that this trial is to propose."""


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


def first_within(problem: SearchProblem, lot: Codes, rng: np.random.Generator) -> Code:
    """The first that keeps the limits, (choices,); if none does, one that was moved towards them."""
    within = problem.within_limits(lot)
    if not within.any():
        lot = problem.moved(lot[:1], rng)
    code: Code = lot[int(within.argmax())]
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
