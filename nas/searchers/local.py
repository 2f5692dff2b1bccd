"""Pareto local search: neighbours of the non-dominated architectures, which differ from them in one choice.

The front's member of which the fewest neighbours are tried comes first. When all neighbours of the whole
front are tried, the search begins anew at a random architecture and climbs from there, until the front of all
has an untried neighbour again.
Source: Paquete, Chiarandini and Stützle, "Pareto Local Optimum Sets in the Biobjective Traveling Salesman
Problem: An Experimental Study" (2004). Ours: the order of the members, and restarts.
"""

from bisect import bisect_right
from dataclasses import dataclass

import moocore
import numpy as np

from nas.proposals.distinct import OPEN, Distinct, Draw
from nas.proposals.problem import Code, SearchProblem
from search_spaces.space import INACTIVE, Codes


def build(problem: SearchProblem) -> Distinct:
    """Pareto local search, after the architectures of `problem.start`."""
    return _Local(problem)


@dataclass(frozen=True)
class _Neighbourhood:
    """Of one architecture: codes (n, choices) of its neighbours within the limits, and the bytes of each."""

    codes: Codes
    keys: tuple[bytes, ...]


class _Local(Distinct):
    """Draws an untried neighbour of a member of the front; where there is none, anything."""

    def __init__(self, problem: SearchProblem) -> None:
        super().__init__(problem)
        self._neighbourhoods: dict[bytes, _Neighbourhood] = {}

    def _begin(self, number: int, seed: int) -> Draw:
        rng = np.random.default_rng(seed)

        def draw() -> Code:
            untried = self._untried(rng)
            if not len(untried):
                return np.full(len(self.space.choices), OPEN)
            code: Code = untried[rng.integers(len(untried), size=1)[0]]
            return code

        return draw

    def _untried(self, rng: np.random.Generator) -> Codes:
        """The untried neighbours (n, choices) of one member of the front; none: begin anew at random.

        The front is that of all trials; where it is searched to the end, that of those which came later.
        """
        done, number_of, first = self.trials.finished(), self.trials.numbers, 0
        numbers = done.numbers.tolist()
        while first < len(done):
            places = first + np.flatnonzero(moocore.is_nondominated(done.values[first:]))
            near = [self._neighbours(done.codes[place]) for place in rng.permutation(places)]
            tried = [sum(key in number_of for key in one.keys) for one in near]
            left = [place for place, one in enumerate(near) if tried[place] < len(one.keys)]
            if left:
                chosen = near[min(left, key=tried.__getitem__)]
                return chosen.codes[[key not in number_of for key in chosen.keys]]
            searched = [number_of[key] for one in near for key in one.keys]
            first = bisect_right(numbers, max([numbers[places[-1]], *searched]))
        return self.space.encode([])

    def _neighbours(self, code: Code) -> _Neighbourhood:
        """Looked for once for each."""
        key = code.tobytes()
        if key not in self._neighbourhoods:
            self._neighbourhoods[key] = self._neighbourhood(code)
        return self._neighbourhoods[key]

    def _neighbourhood(self, code: Code) -> _Neighbourhood:
        """Every other option of every choice that it has; what comes into being with one is drawn.

        The draw depends on the seed and the architecture only: one that has been searched stays searched.
        """
        counts = np.array([len(choice.options) for choice in self.space.choices])
        place = np.repeat(np.arange(len(code)), counts)
        option = np.concatenate([np.arange(count) for count in counts])
        other = (code[place] != INACTIVE) & (code[place] != option)
        codes = np.where(place[other, None] == np.arange(len(code)), option[other, None], code)
        rng = np.random.default_rng([self.problem.seed, *(code + 1)])
        codes = self.space.redrawn(rng, codes, np.zeros(codes.shape, dtype=np.bool_))
        codes = codes[self.problem.within_limits(codes)]
        return _Neighbourhood(codes, tuple(row.tobytes() for row in codes))
