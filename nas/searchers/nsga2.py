"""NSGA-II (Deb et al. 2002) as Optuna implements it, on distinct architectures within the limits only."""

from functools import partial

from optuna.samplers import NSGAIISampler

from nas.proposals.optuna_adapters import FromOptuna
from nas.proposals.problem import SearchProblem


def build(problem: SearchProblem) -> FromOptuna:
    """NSGA-II with generations of `problem.population`."""
    return FromOptuna(problem, partial(NSGAIISampler, population_size=problem.population))
