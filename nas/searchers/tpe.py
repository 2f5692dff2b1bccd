"""Tree-structured Parzen estimator (Ozaki et al. 2022 for several objectives) as Optuna implements it.

All choices are drawn together (`multivariate`): drawn one by one, as Optuna does by default for several
objectives, a proposal takes several times as long in a space with many choices. Trials that are not told yet
count as bad ones (constant liar), so that those of a batch differ.
"""

from functools import partial

from optuna.samplers import TPESampler

from nas.proposals.optuna_adapters import FromOptuna
from nas.proposals.problem import SearchProblem

TRIES = 8  # of a proposal, each of which fits the estimators again


def build(problem: SearchProblem) -> FromOptuna:
    """TPE, after Optuna's ten random architectures (those of `problem.start` among them)."""
    make = partial(TPESampler, multivariate=True, constant_liar=True)
    return FromOptuna(problem, make, always=False, tries=TRIES)
