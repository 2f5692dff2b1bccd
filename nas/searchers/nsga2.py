"""NSGA-II (Deb et al. 2002) as Optuna implements it, on distinct feasible architectures only."""

from optuna.samplers import BaseSampler, NSGAIISampler

from nas.searchers import SearchProblem
from nas.searchers._distinct import DistinctSampler


def build(problem: SearchProblem) -> BaseSampler:
    """NSGA-II with generations of `problem.population`."""
    return DistinctSampler(
        problem, inner=lambda seed: NSGAIISampler(population_size=problem.population, seed=seed)
    )
