"""Ways to search, for `search.py`: our searchers as `nas` runs them, Optuna's own, and a LINAS-like loop.

Ours come from the one factory, are handed eight uniform architectures, the limits and the known costs, and
propose what keeps the limits and is new. `optuna-…` are Optuna's samplers with their defaults: they know
nothing beforehand, and are told by how much a limit was broken (`Trial.set_constraint`).
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from search_problems import QUALITY, Floats, Problem
from sklearn.linear_model import Ridge

from nas import searchers
from nas.config import JobConfig
from nas.proposals.optuna_adapters import architecture, distributions
from nas.proposals.selection import best
from nas.search.stage import UNIFORM_SEEDS
from nas.searchers import SearchProblem, with_directions
from search_spaces.space import Codes

BATCH = 25
STOCK = {"optuna-nsga2": NSGAIISampler, "optuna-tpe": TPESampler}
# One more scheme of a searcher of ours: its name and options.
SCHEMES: dict[str, tuple[str, dict[str, Any]]] = {
    "evolution:regularised": ("evolution", {"scheme": "regularised"})
}
LINAS = "linas"
# Evaluations at which a method that takes a second or more for each of them is ended.
ENDS = {"optuna-tpe": 250, "tpe": 250, "gp": 100, "generative": 250}
LINAS_INITIAL, LINAS_POPULATION, LINAS_GENERATIONS = 50, 100, 25


class Method(Protocol):
    """A search in batches."""

    def ask(self, count: int) -> Codes:
        """Up to `count` architectures (n, choices); fewer when it has no more."""

    def tell(self, told: Floats, outside: Floats) -> None:
        """Objectives (n, objectives), all minimised, of what was asked last, and by how much limits break."""


def names(problem: Problem) -> list[str]:
    """All methods that the problem can be searched with."""
    ours = [name for name in searchers.names() if name != "exhaustive" or problem.space.listable]
    return [*ours, *SCHEMES, LINAS, *STOCK]


def build(name: str, problem: Problem, seed: int, budget: int) -> Method:
    """The method of that name."""
    if name == LINAS:
        return Linas(problem, seed)
    if name in STOCK:
        return Study(problem, STOCK[name](seed=seed))
    return Ours(name, described(problem, seed, budget))


def described(problem: Problem, seed: int, budget: int) -> SearchProblem:
    """What `nas` tells a searcher, with the population that a job has by default."""
    return SearchProblem(
        problem.space,
        with_directions(problem.objectives, QUALITY),
        problem.metrics,
        problem.metrics,
        limits=problem.limits,
        start=tuple(problem.space.uniform(UNIFORM_SEEDS)),
        seed=seed,
        budget=budget,
        population=JobConfig.model_validate({}).search.population,
        batch=BATCH,
    )


class Ours:
    """A searcher of ours, asked and told as stage `search` does."""

    def __init__(self, name: str, problem: SearchProblem) -> None:
        searcher, options = SCHEMES.get(name, (name, {}))
        self._problem, self._searcher = problem, searchers.build(searcher, problem, **options)
        self._asked: Codes = problem.space.encode([])

    def ask(self, count: int) -> Codes:
        pace = getattr(self._searcher, "pace", count)  # those of an earlier checkout have none
        self._asked = self._searcher.ask(min(count, pace))
        return self._asked

    def tell(self, told: Floats, outside: Floats) -> None:
        self.take(self._asked, told)

    def take(self, codes: Codes, told: Floats) -> None:
        """What architectures (n, choices) were evaluated to, whether it has asked for them or not."""
        self._searcher.tell(codes, told * self._problem.signs)


class Study:
    """A sampler of Optuna's in a study in memory."""

    def __init__(self, problem: Problem, sampler: BaseSampler) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._problem = problem
        self._signs = [-1 if name == QUALITY else 1 for name in problem.objectives]
        directions = ["maximize" if sign < 0 else "minimize" for sign in self._signs]
        self._study = optuna.create_study(directions=directions, sampler=sampler)
        self._trials: list[optuna.Trial] = []

    def ask(self, count: int) -> Codes:
        space = self._problem.space
        self._trials = [self._study.ask(distributions(space)) for _ in range(count)]
        return space.encode([architecture(space, trial.params) for trial in self._trials])

    def tell(self, told: Floats, outside: Floats) -> None:
        for trial, values, beyond in zip(self._trials, told * self._signs, outside, strict=True):
            if self._problem.limits:
                trial.set_constraint("limits", float(beyond))
            self._study.tell(trial, values.tolist())


class Linas:
    """Evaluations and predictors in turns, every objective learned from samples by a ridge on one-hot codes.

    Source: Cummings et al., LINAS (arXiv 2205.10358). Ours: the sizes, and that limits are kept in the inner
    search, as by ours.
    """

    def __init__(self, problem: Problem, seed: int) -> None:
        self._problem, self._rng = problem, np.random.default_rng(seed)
        self._codes = problem.space.encode([])
        self._told: list[Floats] = []

    def ask(self, count: int) -> Codes:
        drawn = self._problem.space.sample_choices(self._rng, 4096)
        if len(self._codes) >= LINAS_INITIAL:
            drawn = np.concatenate([self._searched(count), drawn])
        seen = {code.tobytes() for code in self._codes}
        drawn = drawn[self._problem.within_limits(drawn)]
        fresh = {code.tobytes(): code for code in drawn if code.tobytes() not in seen}
        asked: Codes = np.array(list(fresh.values())[:count])
        self._codes = np.concatenate([self._codes, asked])
        return asked

    def tell(self, told: Floats, outside: Floats) -> None:
        self._told.append(told)

    def _onehot(self, codes: Codes) -> Floats:
        options = [range(len(choice.options)) for choice in self._problem.space.choices]
        return np.concatenate([codes[:, [i]] == each for i, each in enumerate(options)], axis=1).astype(float)

    def _searched(self, count: int) -> Codes:
        """The `count` best new ones of an inner NSGA-II on what the ridges predict, and then the others."""
        space, rng = self._problem.space, self._rng
        model = Ridge(alpha=1.0).fit(self._onehot(self._codes), np.concatenate(self._told))
        alive = self._codes[best(np.concatenate(self._told), LINAS_POPULATION)]
        found = alive
        for _ in range(LINAS_GENERATIONS):
            a, b = (alive[rng.integers(len(alive), size=LINAS_POPULATION)] for _ in range(2))
            children = space.crossed(rng, a, b)
            children = space.redrawn(rng, children, rng.random(children.shape) < 1 / len(space.choices))
            children = children[self._problem.within_limits(children)]
            found = np.unique(np.concatenate([found, children]), axis=0)
            pool = np.unique(np.concatenate([alive, children]), axis=0)
            alive = pool[best(model.predict(self._onehot(pool)), LINAS_POPULATION)]
        seen = {code.tobytes() for code in self._codes}
        fresh = found[[code.tobytes() not in seen for code in found]]
        if not len(fresh):
            return fresh
        return fresh[best(model.predict(self._onehot(fresh)), count)]


def chosen(names_: Sequence[str] | None, problem: Problem) -> list[str]:
    """The methods asked for that the problem can be searched with; all, where none is named."""
    known = names(problem)
    return known if names_ is None else [name for name in names_ if name in known]
