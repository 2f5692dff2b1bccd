"""Uniform random search, the baseline that every searcher has to beat."""

from optuna.samplers import BaseSampler, RandomSampler

from nas.searchers import SearchProblem
from nas.searchers._distinct import DistinctSampler


def build(problem: SearchProblem) -> BaseSampler:
    """Every choice drawn uniformly."""
    return DistinctSampler(problem, RandomSampler, always=False)
