"""Tree-structured Parzen estimator (Ozaki et al. 2022 for several objectives) as Optuna implements it.

All choices are drawn together (`multivariate`): drawn one by one, as Optuna does by default for several
objectives, a proposal takes several times as long in a space with many choices. Trials that are not told yet
count as bad ones (constant liar), so that those of a batch differ.
"""

from optuna.samplers import BaseSampler, TPESampler

from nas.searchers import SearchProblem
from nas.searchers._distinct import DistinctSampler

TRIES = 8  # of a proposal, each of which fits the estimators again


def build(problem: SearchProblem) -> BaseSampler:
    """TPE, after Optuna's ten random architectures (those of `problem.start` among them)."""
    return DistinctSampler(
        problem,
        _inner,
        always=False,
        tries=TRIES,
    )


def _inner(seed: int) -> BaseSampler:
    return TPESampler(seed=seed, multivariate=True, constant_liar=True)
