"""NSGA-III (Deb and Jain 2014) as Optuna implements it, on distinct architectures within the limits only."""

import math
import warnings
from functools import partial

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, NSGAIIISampler

from nas.proposals.optuna_adapters import FromOptuna
from nas.proposals.problem import SearchProblem


def build(problem: SearchProblem) -> FromOptuna:
    """NSGA-III with generations of `problem.population`, and at most as many reference points."""
    divisions = most_divisions(problem.population, len(problem.objectives))
    return FromOptuna(problem, partial(_sampler, problem.population, divisions))


def _sampler(population: int, divisions: int, *, seed: int) -> BaseSampler:
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
