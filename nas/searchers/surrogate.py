"""Surrogate-assisted search: quality is modelled, costs are known, hard limits are kept inside of it.

A batch at a time: the model of the quality is fitted to what was evaluated; NSGA-II searches it, with the
costs taken from where they are known exactly; of what it saw those are proposed that add most hypervolume to
the smoothed archive (what was evaluated, at the qualities that the model believes), some of them at what the
model holds possible. What was proposed and is
not evaluated yet counts with what is predicted of it.
Ours, after the loops of LINAS (Cummings et al. 2022) and MSuNAS (Lu et al. 2020).
"""

from collections.abc import Collection
from typing import Any, get_args

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from nas.searchers import SearchProblem
from nas.searchers._believed import Believed, Told
from nas.searchers._distinct import distributions, parameters
from nas.searchers._inner_search import CONSIDERED, POPULATION, batch, explored, unknown
from nas.searchers._one_thread import one_thread
from nas.searchers._proposed import ONE_AT_A_TIME, Proposed
from nas.searchers._random_new import RandomNew
from nas.searchers._selection import best
from predictors import accuracy
from search_spaces import Architecture
from search_spaces._errors import UsageError, did_you_mean
from search_spaces._repair import repaired
from search_spaces._space import Codes

INITIAL = 50
INITIAL_SHARE = 0.25  # of the budget, at most
EXPLORING = 0.25  # share of a batch that is chosen by what the models hold possible


def build(
    problem: SearchProblem, *, initial: int | None = None, model: accuracy.Kind = "auto"
) -> BaseSampler:
    """The surrogate-assisted search.

    initial: architectures before the first model, to the nearest batch, those of `problem.start` among them;
    by default INITIAL, or a quarter of a smaller budget.  model: see `predictors.accuracy.fit`.
    Raises UsageError for options that are none.
    """
    if initial is not None and (type(initial) is not int or initial < 1):
        raise UsageError(f"The option 'initial' of 'surrogate' must be a number from 1, not {initial!r}.")
    if model not in get_args(accuracy.Kind):
        hint = did_you_mean(str(model), get_args(accuracy.Kind))
        raise UsageError(f"The option 'model' of 'surrogate' cannot be {model!r}.", hint)
    if initial is None:
        initial = min(INITIAL, int(INITIAL_SHARE * (problem.budget or 4 * INITIAL)))
    return SurrogateSampler(problem, initial=max(initial, accuracy.LEAST), model=model)


class SurrogateSampler(BaseSampler):
    """Proposals come in lots of `problem.batch`, which begin at the multiples of it.

    A lot depends on the seed and on what was told when its first trial was asked for: a study that is rebuilt
    by asking and telling in the same order goes on as if it had never stopped, and repeats at most one fit.
    """

    def __init__(self, problem: SearchProblem, *, initial: int, model: accuracy.Kind) -> None:
        self._problem, self._initial, self._model = problem, initial, model
        self._space = problem.space
        self._proposed, self._random = Proposed(problem.space), RandomNew(problem)
        self._lots: dict[int, list[Architecture]] = {}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return distributions(self._space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise ValueError(f"'{param_name}' is not a choice of space '{self._space.name}'.")

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        with ONE_AT_A_TIME:
            arch = self._answer(study, trial)
            self._proposed.note(trial, arch)
        return parameters(self._space, arch)

    def _answer(self, study: Study, trial: FrozenTrial) -> Architecture:
        seen, history = self._proposed.before(study, trial), self._problem.history
        first = trial.number - trial.number % self._problem.batch
        if first not in self._lots and first + self._problem.batch > len(history):
            self._lots = {first: self._lot(study, first)}
        if trial.number < len(history):
            return history[trial.number]
        for arch in self._lots[first]:
            if arch not in seen:
                return arch
        return self._random(seen, np.random.default_rng([self._problem.seed, trial.number, 1]))

    def _lot(self, study: Study, first: int) -> list[Architecture]:
        """What is proposed from trial `first` on; may be less than a batch, and hold what is known."""
        rng = np.random.default_rng([self._problem.seed, first])
        known = {key for key, number in self._proposed.numbers.items() if number < first}
        told = Told.before(study, first, self._problem, self._proposed)
        if len(told.codes) < accuracy.LEAST or first + self._problem.batch // 2 < self._initial:
            return self._beginning(rng, known)
        with one_thread():
            return self._space.decode(self._by_model(told, known, rng))

    def _beginning(self, rng: np.random.Generator, known: Collection[bytes]) -> list[Architecture]:
        drawn = self._space.sample_choices(rng, 2 * self._problem.batch)
        if self._problem.outside is not None:
            drawn = repaired(self._space, drawn, self._problem.outside, rng)
        codes = np.concatenate([self._space.encode(self._random.start), drawn])
        codes = codes[self._problem.feasible(codes) & unknown(codes, known)]
        return list(dict.fromkeys(self._space.decode(codes)))

    def _by_model(self, told: Told, known: Collection[bytes], rng: np.random.Generator) -> Codes:
        """A batch: what is best by the models' means, and a share of it by what they hold possible."""
        believed = Believed.of(self._problem, told, self._model)
        archive = np.concatenate([believed.smoothed(told), believed.means(told.pending)])
        start = np.concatenate([told.codes, told.pending])
        start = start[best(archive, POPULATION)]
        codes, values = explored(self._problem, believed.means, start, rng)
        new = unknown(codes, known)
        codes, values = codes[new], values[new]
        surest = self._problem.batch - round(EXPLORING * self._problem.batch)
        chosen = batch(values, archive, surest)
        if left := self._problem.batch - len(chosen):
            others = [place for place in best(values, CONSIDERED) if place not in chosen]
            possible = believed.possible(codes[others])
            there = np.concatenate([archive, values[chosen]])
            hoped = batch(possible, there, left)
            likely = [place for place in best(possible, len(others)) if place not in hoped]
            hoped += likely[: left - len(hoped)]
            chosen += [others[place] for place in hoped]
        return codes[chosen]
