"""Bayesian optimisation with a Gaussian process as Optuna implements it, for up to some hundred evaluations.

One objective by log expected improvement, several by that of the hypervolume. It learns every objective from
samples, costs included, and a proposal takes a second or two of CPU time.
"""

from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import GPSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from nas.proposals.one_thread import one_thread
from nas.proposals.optuna_adapters import FromOptuna
from nas.proposals.problem import SearchProblem

TRIES = 1  # asked again, it finds the same maximum


def build(problem: SearchProblem) -> FromOptuna:
    """Optuna's GPSampler, after its ten random architectures (those of `problem.start` among them)."""
    return FromOptuna(problem, _OneThread, always=False, tries=TRIES)


class _OneThread(GPSampler):
    """On one thread, so that it proposes the same on any number of cores."""

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        with one_thread():
            return super().sample_relative(study, trial, search_space)
