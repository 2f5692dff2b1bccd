"""Pareto local search: neighbours of the non-dominated architectures, which differ from them in one choice.

The front's member of which the fewest neighbours are tried comes first. When all neighbours of the whole
front are tried, the search begins anew at a random architecture and climbs from there, until the front of all
has an untried neighbour again.
Source: Paquete, Chiarandini and Stützle, "Pareto Local Optimum Sets in the Biobjective Traveling Salesman
Problem: An Experimental Study" (2004). Ours: the order of the members, and restarts.
"""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import moocore
import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from nas.searchers import SearchProblem
from nas.searchers._distinct import DistinctSampler, InnerSampler, parameters
from nas.searchers._proposed import Proposed
from nas.searchers._selection import finished
from search_spaces._space import INACTIVE, Codes


def build(problem: SearchProblem) -> BaseSampler:
    """Pareto local search, after the architectures of `problem.start`."""
    return DistinctSampler(problem, partial(_Local, _Neighbours(problem)), always=False)


@dataclass(frozen=True)
class _Neighbourhood:
    """Of one architecture: codes (n, choices) of its feasible neighbours, and the bytes of each."""

    codes: Codes
    keys: tuple[bytes, ...]


class _Neighbours:
    """What the proposals of a search share: what was proposed, and the neighbours of architectures."""

    def __init__(self, problem: SearchProblem) -> None:
        self._problem, self.space = problem, problem.space
        self.proposed = Proposed(problem.space)
        self._known: dict[bytes, _Neighbourhood] = {}

    def of(self, key: bytes) -> _Neighbourhood:
        """Found once for each."""
        if key not in self._known:
            self._known[key] = self._found(key)
        return self._known[key]

    def _found(self, key: bytes) -> _Neighbourhood:
        """Every other option of every choice that it has; what comes into being with one is drawn.

        The draw depends on the seed and the architecture only: one that has been searched stays searched.
        """
        code = np.frombuffer(key, dtype=np.int64)
        counts = np.array([len(choice.options) for choice in self.space.choices])
        place = np.repeat(np.arange(len(code)), counts)
        option = np.concatenate([np.arange(count) for count in counts])
        other = (code[place] != INACTIVE) & (code[place] != option)
        codes = np.where(place[other, None] == np.arange(len(code)), option[other, None], code)
        rng = np.random.default_rng([self._problem.seed, *(code + 1)])
        codes = self.space.redrawn(rng, codes, np.zeros(codes.shape, dtype=np.bool_))
        codes = codes[self._problem.feasible(codes)]
        return _Neighbourhood(codes, tuple(row.tobytes() for row in codes))


class _Local(InnerSampler):
    """Proposals of one trial; whether they are new, `DistinctSampler` sees to, too."""

    def __init__(self, neighbours: _Neighbours, seed: int) -> None:
        self._neighbours = neighbours
        self._rng = np.random.default_rng(seed)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Mapping[str, BaseDistribution]
    ) -> dict[str, Any]:
        space, left = self._neighbours.space, self._untried(study, trial)
        if not len(left):
            return {}
        arch = space.decode(left[self._rng.integers(len(left), size=1)])[0]
        return {name: value for name, value in parameters(space, arch).items() if name in search_space}

    def _untried(self, study: Study, trial: FrozenTrial) -> Codes:
        """The untried neighbours (n, choices) of one member of the front; none: begin anew at random.

        The front is that of all trials; where it is searched to the end, that of those which came later.
        """
        proposed = self._neighbours.proposed
        proposed.before(study, trial)
        done, values = finished(study, trial.number)
        ours = [other.number in proposed.codes for other in done]
        done, values = [other for other, own in zip(done, ours, strict=True) if own], values[ours]
        numbers, first = [other.number for other in done], 0
        while first < len(done):
            places = first + np.flatnonzero(moocore.is_nondominated(values[first:]))
            members = [proposed.codes[numbers[place]] for place in self._rng.permutation(places)]
            near = [self._neighbours.of(member) for member in members]
            tried = [sum(key in proposed.numbers for key in one.keys) for one in near]
            left = [place for place, one in enumerate(near) if tried[place] < len(one.keys)]
            if left:
                chosen = near[min(left, key=tried.__getitem__)]
                return chosen.codes[[key not in proposed.numbers for key in chosen.keys]]
            searched = [proposed.numbers[key] for one in near for key in one.keys]
            first = bisect_right(numbers, max([numbers[places[-1]], *searched]))
        return self._neighbours.space.encode([])
