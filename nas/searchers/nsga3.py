"""NSGA-III (Deb and Jain 2014) as Optuna implements it, on distinct feasible architectures only."""

import math
import warnings
from functools import partial

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, NSGAIIISampler

from nas.searchers import SearchProblem
from nas.searchers._distinct import DistinctSampler

PUBLISHED_OBJECTIVES = 3  # the fewest that the paper is about


def build(problem: SearchProblem) -> BaseSampler:
    """NSGA-III with generations of `problem.population`, and at most as many reference points."""
    divisions = most_divisions(problem.population, len(problem.objectives) or PUBLISHED_OBJECTIVES)
    return DistinctSampler(problem, partial(_inner, problem.population, divisions))


def _inner(population: int, divisions: int, seed: int) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return NSGAIIISampler(population_size=population, dividing_parameter=divisions, seed=seed)


def most_divisions(population: int, objectives: int) -> int:
    """Into how many parts an axis is divided for at most `population` reference points, at least one.

    p divisions of m axes make (p + m - 1 over m - 1) points.
    """
    if objectives < 2:
        return 1
    divisions = 1
    while math.comb(divisions + objectives, objectives - 1) <= population:
        divisions += 1
    return divisions
