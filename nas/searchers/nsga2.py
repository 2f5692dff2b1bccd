"""NSGA-II (Deb et al. 2002) as Optuna implements it, on distinct feasible architectures only."""

from functools import partial

from optuna.samplers import BaseSampler, NSGAIISampler

from nas.searchers import SearchProblem
from nas.searchers._distinct import DistinctSampler


def build(problem: SearchProblem) -> BaseSampler:
    """NSGA-II with generations of `problem.population`."""
    return DistinctSampler(problem, partial(_inner, problem.population))


def _inner(population: int, seed: int) -> BaseSampler:
    return NSGAIISampler(population_size=population, seed=seed)
