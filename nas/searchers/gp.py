"""Bayesian optimisation with a Gaussian process as Optuna implements it, for up to some hundred evaluations.

One objective by log expected improvement, several by that of the hypervolume. It learns every objective from
samples, costs included, and a proposal takes a second or two of CPU time.
"""

from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import GPSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from nas.searchers import SearchProblem
from nas.searchers._distinct import DistinctSampler, InnerSampler
from nas.searchers._one_thread import one_thread

TRIES = 1  # asked again, it finds the same maximum


def build(problem: SearchProblem) -> DistinctSampler:
    """Optuna's GPSampler, after its ten random architectures (those of `problem.start` among them)."""
    return DistinctSampler(problem, _OneThread, always=False, tries=TRIES)


class _OneThread(InnerSampler):
    """The sampler on one thread, so that it proposes the same on any number of cores."""

    def __init__(self, seed: int) -> None:
        self._inner = GPSampler(seed=seed)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Mapping[str, BaseDistribution]
    ) -> dict[str, Any]:
        with one_thread():
            return self._inner.sample_relative(study, trial, dict(search_space))
