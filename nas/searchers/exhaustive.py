"""Every feasible architecture of a small space, one after the other."""

from collections.abc import Callable, Collection
from functools import cached_property

import numpy as np
from optuna.samplers import BaseSampler, RandomSampler

from nas.searchers import SearchProblem, SpaceExhausted
from nas.searchers._distinct import DistinctSampler
from search_spaces import Architecture
from search_spaces._errors import UsageError


def build(problem: SearchProblem) -> BaseSampler:
    """All that keep the limits, in the order of their choices: neighbours share their first layers.

    A budget below their number ends it in the middle. Raises UsageError for a space that is too big to be
    listed.
    """
    if not problem.space.listable:
        space = problem.space
        raise UsageError(
            f"Space '{space.name}' has {space.size:,} architectures, too many to look at all of them.",
            "Choose another searcher, or give the space fewer options.",
        )
    return _InOrder(problem, RandomSampler, always=False)


class _InOrder(DistinctSampler):
    """The first that is not proposed yet; `start` comes before, as in every searcher."""

    _seen: Collection[Architecture] = ()
    _place = 0

    def _choose(
        self,
        first: Architecture | None,
        ask: Callable[[], Architecture],
        seen: Collection[Architecture],
        rng: np.random.Generator,
    ) -> Architecture:
        if seen is not self._seen:  # another study
            self._seen, self._place = seen, 0
        for place in range(self._place, len(self._order)):
            if self._order[place] not in seen:
                self._place = place
                return self._order[place]
        raise SpaceExhausted(f"No feasible architecture of space '{self._space.name}' is left to propose.")

    @cached_property
    def _order(self) -> list[Architecture]:
        listed = self._random.listed
        assert listed is not None, "only spaces that can be listed come here"
        return [*self._random.start, *self._space.decode(listed)]
