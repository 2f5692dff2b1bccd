"""Surrogate-assisted search: quality is modelled, costs are known, hard limits are kept inside of it.

A batch at a time: the model of the quality is fitted to what was evaluated; NSGA-II searches it, with the
costs taken from where they are known exactly; of what it saw those are proposed that add most hypervolume to
the smoothed archive (what was evaluated, at the qualities that the model believes), some of them at what the
model holds possible. What was proposed and is not evaluated yet counts with what is predicted of it.
Ours, after the loops of LINAS (Cummings et al. 2022) and MSuNAS (Lu et al. 2020).
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol, Self, get_args

import numpy as np
from numpy.typing import NDArray

from nas.proposals.distinct import OneByOne
from nas.proposals.inner_search import CONSIDERED, POPULATION, batch, explored, unknown
from nas.proposals.one_thread import one_thread
from nas.proposals.problem import Code, SearchProblem
from nas.proposals.selection import best
from nas.proposals.trials import Finished
from predictors import accuracy
from search_spaces.errors import UsageError, did_you_mean
from search_spaces.space import Codes

Floats = NDArray[np.float64]


SEVERAL_SPACES = "together"  # of a union it compares what it predicts of all members
INITIAL = 50
INITIAL_SHARE = 0.25  # of the budget, at most
EXPLORING = 0.25  # share of a batch that is chosen by what the models hold possible
OPTIMISM = 1.0  # standard deviations


def build(
    problem: SearchProblem, *, initial: int | None = None, model: accuracy.Kind = "auto"
) -> "Surrogate":
    """The surrogate-assisted search.

    initial: architectures before the first model, to the nearest batch, those of `problem.start` among them;
    by default INITIAL, or a quarter of a smaller budget.  model: of qualities: auto, gp or ridge
    (`predictors.accuracy.fit`).
    Raises UsageError for options that are none.
    """
    if initial is not None and (type(initial) is not int or initial < 1):
        raise UsageError(f"The option 'initial' of 'surrogate' must be a number from 1, not {initial!r}.")
    if model not in get_args(accuracy.Kind):
        hint = did_you_mean(str(model), get_args(accuracy.Kind))
        raise UsageError(f"The option 'model' of 'surrogate' cannot be {model!r}.", hint)
    if initial is None:
        initial = min(INITIAL, int(INITIAL_SHARE * (problem.budget or 4 * INITIAL)))
    return Surrogate(problem, initial=max(initial, accuracy.LEAST), model=model)


@dataclass(frozen=True, eq=False)
class _Past:
    """What a lot goes by: what was evaluated when its first trial was asked for, and what was being."""

    evaluated: Finished
    running: Codes


class Surrogate(OneByOne):
    """Proposals come in lots of `problem.batch`, which begin at the multiples of it.

    A lot depends on the seed and on what was told when its first trial was asked for: a search that is told
    again what it was told goes on as if it had never stopped, and fits at most once more.
    """

    def __init__(self, problem: SearchProblem, *, initial: int, model: accuracy.Kind) -> None:
        super().__init__(problem)
        self._initial, self._model = initial, model
        self._past: _Past | None = None
        self._lot: Codes | None = None

    def _adopt(self, code: Code) -> None:
        self._begin_lot()
        self.trials.add(code)

    def _next(self) -> Code | None:
        self._begin_lot()
        number = len(self.trials)
        if self._lot is None:
            self._lot = self._chosen(number - number % self.problem.batch)
        code: Code
        for code in self._lot:
            if code.tobytes() not in self.trials.numbers:
                return code
        return self.problem.fresh(self.trials.numbers, np.random.default_rng([self.problem.seed, number, 1]))

    def _begin_lot(self) -> None:
        """At the first trial of a lot: from then on nothing that is told changes it."""
        if len(self.trials) % self.problem.batch == 0:
            self._past, self._lot = _Past(self.trials.finished(), self.trials.running()), None

    def _chosen(self, first: int) -> Codes:
        """What is proposed from trial `first` on; may be less than a batch, and hold what was proposed."""
        assert self._past is not None, "a lot has begun"
        rng = np.random.default_rng([self.problem.seed, first])
        proposed = {key for key, number in self.trials.numbers.items() if number < first}
        few = len(self._past.evaluated) < accuracy.LEAST
        if few or first + self.problem.batch // 2 < self._initial:
            return self._beginning(rng, proposed)
        with one_thread():
            return self._by_model(self._past, proposed, rng)

    def _beginning(self, rng: np.random.Generator, proposed: Collection[bytes]) -> Codes:
        drawn = self.problem.moved(self.space.sample_choices(rng, 2 * self.problem.batch), rng)
        codes = np.concatenate([self.problem.first, drawn])
        return codes[self.problem.within_limits(codes) & unknown(codes, proposed)]

    def _by_model(self, past: _Past, proposed: Collection[bytes], rng: np.random.Generator) -> Codes:
        """A batch: what is best by the models' means, and a share of it by what they hold possible."""
        evaluated, running = past.evaluated, past.running
        believed = Believed.of(self.problem, evaluated, self._model)
        archive = np.concatenate([believed.smoothed(evaluated), believed.means(running)])
        tried = np.concatenate([evaluated.codes, running])
        codes, values = _explored(self.problem, believed, tried, archive, rng)
        new = unknown(codes, proposed)
        codes, values = codes[new], values[new]
        surest = self.problem.batch - round(EXPLORING * self.problem.batch)
        chosen = batch(values, archive, surest)
        if left := self.problem.batch - len(chosen):
            others = [place for place in best(values, CONSIDERED) if place not in chosen]
            possible = believed.possible(codes[others])
            archive_then = np.concatenate([archive, values[chosen]])
            hoped = batch(possible, archive_then, left)
            likely = [place for place in best(possible, len(others)) if place not in hoped]
            hoped += likely[: left - len(hoped)]
            chosen += [others[place] for place in hoped]
        return codes[chosen]


def _explored(
    problem: SearchProblem, believed: "Believed", tried: Codes, archive: Floats, rng: np.random.Generator
) -> tuple[Codes, Floats]:
    """What the inner search saw in the space, or in each of several, and what is predicted of it.

    tried, archive: what was proposed before (n, choices), and the objectives (n, objectives) believed of it.
    """
    space, seen = problem.space, []
    for name, part in problem.parts.items():
        rows = np.flatnonzero(space.is_of(name, tried))
        start = space.own_codes(name, tried[rows[best(archive[rows], POPULATION)]])

        def predicted(codes: Codes, name: str = name) -> Floats:
            return believed.means(space.joined_codes(name, codes))

        codes, values = explored(part, predicted, start, rng)
        seen.append((space.joined_codes(name, codes), values))
    return np.concatenate([codes for codes, _ in seen]), np.concatenate([values for _, values in seen])


@dataclass(frozen=True, eq=False)
class Believed:
    """Objectives of any architecture, minimised: costs from where they are known, others by a model."""

    problem: SearchProblem
    models: Mapping[int, "Model"]  # by the objective's place

    @classmethod
    def of(cls, problem: SearchProblem, evaluated: Finished, kind: accuracy.Kind) -> Self:
        """Fitted to what was evaluated. Raises UsageError for fewer than two architectures."""
        costs = problem.costs(evaluated.codes[:1])
        models = {
            place: fitted(
                problem, evaluated.codes, evaluated.values[:, place], evaluated.errors[:, place], kind
            )
            for place, name in enumerate(problem.objectives)
            if name not in costs
        }
        return cls(problem, models)

    def means(self, codes: Codes) -> Floats:
        """The most likely objectives (n, objectives)."""
        return self._columns(codes, {place: model.mean(codes) for place, model in self.models.items()})

    def possible(self, codes: Codes) -> Floats:
        """Objectives (n, objectives) that are OPTIMISM standard deviations better than the most likely."""
        columns = {}
        for place, model in self.models.items():
            mean, std = model.predict(codes)
            columns[place] = mean - OPTIMISM * std
        return self._columns(codes, columns)

    def smoothed(self, evaluated: Finished) -> Floats:
        """What was evaluated, (n, objectives), with the models' means in place of single noisy values."""
        values = evaluated.values.copy()
        for place, model in self.models.items():
            values[:, place] = model.mean(evaluated.codes)
        return values

    def _columns(self, codes: Codes, modelled: Mapping[int, Floats]) -> Floats:
        costs, signs = self.problem.costs(codes), self.problem.signs
        columns = [
            modelled[place] if place in modelled else signs[place] * np.asarray(costs[name])
            for place, name in enumerate(self.problem.objectives)
        ]
        return np.stack(columns, axis=1).astype(np.float64).reshape(len(codes), len(signs))


class Model(Protocol):
    """Architectures to an objective that is minimised."""

    def predict(self, codes: Codes) -> tuple[Floats, Floats]: ...

    def mean(self, codes: Codes) -> Floats: ...


@dataclass(frozen=True, eq=False)
class _OnTop:
    """What is believed beforehand, times a factor, and a model of what that leaves."""

    expected: Callable[[Codes], Floats]
    factor: float
    rest: accuracy.AccuracyPredictor

    def predict(self, codes: Codes) -> tuple[Floats, Floats]:
        mean, std = self.rest.predict(codes)
        return mean + self.factor * self.expected(codes), std

    def mean(self, codes: Codes) -> Floats:
        mean: Floats = self.rest.mean(codes) + self.factor * self.expected(codes)
        return mean


def fitted(
    problem: SearchProblem, codes: Codes, values: Floats, errors: Floats, kind: accuracy.Kind
) -> Model:
    """A model of values (n,), minimised, of architectures (n, choices), with what is believed beforehand.

    errors: standard errors of the values, not all of which are known.
    """
    expected, factor = problem.expected, 0.0
    if expected is not None:
        believed = expected(codes)
        spread = believed - believed.mean()
        factor = max(0.0, float(spread @ values) / float(spread @ spread)) if spread.any() else 0.0
        values = values - factor * believed
    rest = accuracy.fit(problem.space, codes, values, stderr=_complete(errors), kind=kind)
    return rest if expected is None or not factor else _OnTop(expected, factor, rest)


def _complete(errors: Floats) -> Floats | None:
    """Standard errors (n,), the typical one where there is none; None if there are none at all."""
    given = np.isfinite(errors)
    return np.where(given, errors, errors[given].mean()) if given.any() else None
