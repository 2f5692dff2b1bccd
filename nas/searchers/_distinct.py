"""Makes any Optuna sampler a searcher: canonical, within hard limits, no repeats, the same after a resume."""

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from nas.searchers import SearchProblem
from nas.searchers._proposed import ONE_AT_A_TIME, Proposed
from nas.searchers._random_new import MOVED, RandomNew
from search_spaces import Architecture, SearchSpace
from search_spaces._repair import changed, repaired

TRIES = 64


def distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """One categorical parameter per choice, inactive ones included (they carry their first option)."""
    return {choice.name: CategoricalDistribution(choice.options) for choice in space.choices}


def parameters(space: SearchSpace, arch: Architecture) -> dict[str, Any]:
    """The Optuna parameters of an architecture."""
    active = dict(arch.values)
    return {choice.name: active.get(choice.name, choice.options[0]) for choice in space.choices}


def architecture(space: SearchSpace, params: Mapping[str, Any]) -> Architecture:
    """The canonical architecture of Optuna parameters."""
    return space.architecture({choice.name: params[choice.name] for choice in space.choices})


class InnerSampler(BaseSampler):
    """Base of samplers that live inside a `DistinctSampler`, which asks them for `sample_relative` only."""

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        raise NotImplementedError("the sampler around this one does")

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        raise NotImplementedError("the sampler around this one does")


class DistinctSampler(BaseSampler):
    """Takes proposals from `inner` until one is feasible and new.

    The inner sampler is made afresh for every trial with a seed derived from (seed, trial number). A proposal
    is therefore a pure function of the seed and the finished trials: a study that is rebuilt by asking and
    telling again goes on as if it had never stopped.

    always: `inner` is asked for every trial, even where its answer is not used, because it keeps a record of
    them (population-based samplers note the trial's generation).
    tries: how many answers of `inner` are looked at. Where few are, because they are dear, what lies near the
    last of them comes next; then random ones.
    """

    def __init__(
        self,
        problem: SearchProblem,
        inner: Callable[[int], BaseSampler],
        *,
        always: bool = True,
        tries: int = TRIES,
    ) -> None:
        self._problem, self._inner, self._always, self._tries = problem, inner, always, tries
        self._space = problem.space
        self._proposed, self._random = Proposed(self._space), RandomNew(problem)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return distributions(self._space)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        with ONE_AT_A_TIME:
            arch = self._answer(study, trial, search_space)
            self._proposed.note(trial, arch)
        return parameters(self._space, arch)

    def _answer(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> Architecture:
        seen = self._proposed.before(study, trial)
        rng = np.random.default_rng([self._problem.seed, trial.number])
        inner = self._inner(int(rng.integers(2**31)))
        several = {name: d for name, d in search_space.items() if not d.single()}
        ask = partial(self._from_inner, inner, study, trial, several, rng)
        first = ask() if self._always else None
        if trial.number < len(self._problem.history):
            return self._problem.history[trial.number]
        return self._choose(first, ask, seen, rng)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise ValueError(f"'{param_name}' is not a choice of space '{self._space.name}'.")

    def _choose(
        self,
        first: Architecture | None,
        ask: Callable[[], Architecture],
        seen: Collection[Architecture],
        rng: np.random.Generator,
    ) -> Architecture:
        for arch in self._random.start:
            if arch not in seen:
                return arch
        candidate = ask() if first is None else first
        for left in reversed(range(self._tries)):
            if candidate not in seen and self._problem.feasible(self._space.encode([candidate]))[0]:
                return candidate
            candidate = ask() if left else candidate
        if self._tries < TRIES:
            for arch in self._near(candidate, rng):
                if arch not in seen:
                    return arch
        return self._random(seen, rng)

    def _from_inner(
        self,
        inner: BaseSampler,
        study: Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
        rng: np.random.Generator,
    ) -> Architecture:
        """What the inner sampler proposes; what it leaves open (random start, mutations) is drawn."""
        proposed = inner.sample_relative(study, trial, search_space)
        drawn = dict(self._space.decode(self._space.sample_choices(rng, 1))[0].values)
        options = {
            c.name: drawn.get(c.name, c.options[rng.integers(len(c.options))]) for c in self._space.choices
        }
        return architecture(self._space, options | proposed)

    def _near(self, arch: Architecture, rng: np.random.Generator) -> Iterator[Architecture]:
        """Feasible ones that differ in a choice or two from this one, or from it moved into the limits."""
        codes = self._space.encode([arch] * MOVED)
        if self._problem.outside is not None:
            codes = repaired(self._space, codes, self._problem.outside, rng)
            yield from self._random.allowed(codes)
        for _ in range(2):
            codes = changed(self._space, codes, rng)
            yield from self._random.allowed(codes)
