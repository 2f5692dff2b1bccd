"""Uniform random search, the baseline that every searcher has to beat."""

import numpy as np

from nas.proposals.distinct import OPEN, Distinct, Draw
from nas.proposals.problem import SearchProblem


def build(problem: SearchProblem) -> Distinct:
    """Every choice drawn uniformly."""
    return _Random(problem)


class _Random(Distinct):
    """Leaves everything to chance."""

    def _begin(self, number: int, seed: int) -> Draw:
        return lambda: np.full(len(self.space.choices), OPEN)
