"""Surrogate-assisted search: quality is modelled, costs are known, hard limits are kept inside of it.

A batch at a time: the model of the quality is fitted to what was evaluated; NSGA-II searches it, with the
costs taken from where they are known exactly; of what it saw those are proposed that add most hypervolume to
the smoothed archive (what was evaluated, at the qualities that the model believes), some of them at what the
model holds possible. What was proposed and is not evaluated yet counts with what is predicted of it.
Ours, after the loops of LINAS (Cummings et al. 2022) and MSuNAS (Lu et al. 2020).
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Self, get_args

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
INITIAL = 20
INITIAL_SHARE = 0.25  # of the budget, at most
LITTLE, LOT = 100, 10  # evaluations below which lots are so small: much is learned from each
EXPLORING = 0.25  # share of a lot that is chosen by what the models hold possible
OPTIMISM = 1.0  # standard deviations
NEAREST = 1000  # to the front, of more evaluations than a Gaussian process takes


def build(
    problem: SearchProblem,
    *,
    initial: int | None = None,
    lot: int = LOT,
    model: accuracy.Kind = "auto",
) -> "Surrogate":
    """The surrogate-assisted search.

    initial: architectures before the first model, to the nearest lot, those of `problem.start` among them;
    by default INITIAL, or a quarter of a smaller budget.  lot: how many are proposed by one model while there
    are fewer than LITTLE; at most, as later, `problem.batch`.  model: of qualities: auto, gp or ridge
    (`predictors.accuracy.fit`).
    Raises UsageError for options that are none.
    """
    for name, value in (("initial", initial), ("lot", lot)):
        if value is not None and (type(value) is not int or value < 1):
            raise UsageError(f"The option '{name}' of 'surrogate' must be a number from 1, not {value!r}.")
    if model not in get_args(accuracy.Kind):
        hint = did_you_mean(str(model), get_args(accuracy.Kind))
        raise UsageError(f"The option 'model' of 'surrogate' cannot be {model!r}.", hint)
    if initial is None:
        initial = min(INITIAL, int(INITIAL_SHARE * (problem.budget or 4 * INITIAL)))
    return Surrogate(problem, initial=max(initial, accuracy.LEAST), lot=lot, model=model)


@dataclass(frozen=True, eq=False)
class _Past:
    """What a lot goes by: what was evaluated when its first trial was asked for, and what was being."""

    evaluated: Finished
    running: Codes


class Surrogate(OneByOne):
    """Proposals come in lots of `problem.batch`, in smaller ones while there are few.

    A lot depends on the seed and on what was told when its first trial was asked for: a search that is told
    again what it was told goes on as if it had never stopped, and fits at most once more.
    """

    def __init__(self, problem: SearchProblem, *, initial: int, lot: int, model: accuracy.Kind) -> None:
        super().__init__(problem)
        self._initial, self._model = initial, model
        self._small = min(lot, problem.batch)
        self._little = LITTLE - LITTLE % self._small if self._small < problem.batch else 0
        self._past: _Past | None = None
        self._lot: Codes | None = None
        self._believed: Believed | None = None  # of the lot before: what of it holds is not computed again

    @property
    def pace(self) -> int:
        """How many are still to come of the present lot, or are in the next one."""
        first, size = self._lot_of(len(self.trials))
        return first + size - len(self.trials)

    def _lot_of(self, number: int) -> tuple[int, int]:
        """The first trial of the lot of that trial, and how many it has."""
        few = number < self._little
        size = self._small if few else self.problem.batch
        return number - (number - (0 if few else self._little)) % size, size

    def _adopt(self, code: Code) -> None:
        self._begin_lot()
        self.trials.add(code)

    def _next(self) -> Code | None:
        self._begin_lot()
        number = len(self.trials)
        if self._lot is None:
            self._lot = self._chosen(*self._lot_of(number))
        code: Code
        for code in self._lot:
            if code.tobytes() not in self.trials.numbers:
                return code
        return self.problem.fresh(self.trials.numbers, np.random.default_rng([self.problem.seed, number, 1]))

    def _begin_lot(self) -> None:
        """At the first trial of a lot: from then on nothing that is told changes it."""
        if self._lot_of(len(self.trials))[0] == len(self.trials):
            self._past, self._lot = _Past(self.trials.finished(), self.trials.running()), None

    def _chosen(self, first: int, size: int) -> Codes:
        """What is proposed from trial `first` on; may be less than a lot, and hold what was proposed."""
        assert self._past is not None, "a lot has begun"
        rng = np.random.default_rng([self.problem.seed, first])
        proposed = {key for key, number in self.trials.numbers.items() if number < first}
        few = len(self._past.evaluated) < accuracy.LEAST
        if few or first + size // 2 < self._initial:
            return self._beginning(size, rng, proposed)
        with one_thread():
            return self._by_model(self._past, size, proposed, rng)

    def _beginning(self, size: int, rng: np.random.Generator, proposed: Collection[bytes]) -> Codes:
        drawn = self.problem.moved(self.space.sample_choices(rng, 2 * size), rng)
        codes = np.concatenate([self.problem.first, drawn])
        return codes[self.problem.within_limits(codes) & unknown(codes, proposed)]

    def _by_model(
        self, past: _Past, size: int, proposed: Collection[bytes], rng: np.random.Generator
    ) -> Codes:
        """A lot: what is best by the models' means, and a share of it by what they hold possible."""
        evaluated, running = _nearest(self.problem, past.evaluated, self._model), past.running
        believed = Believed.of(self.problem, evaluated, self._model, before=self._believed)
        self._believed = believed
        archive = np.concatenate([believed.smoothed(evaluated), believed.means(running)])
        tried = np.concatenate([evaluated.codes, running])
        codes, values = _explored(self.problem, believed, tried, archive, rng)
        new = unknown(codes, proposed)
        codes, values = codes[new], values[new]
        surest = size - round(EXPLORING * size)
        chosen = batch(values, archive, surest)
        if left := size - len(chosen):
            others = [place for place in best(values, CONSIDERED) if place not in chosen]
            possible = believed.possible(codes[others])
            archive_then = np.concatenate([archive, values[chosen]])
            hoped = batch(possible, archive_then, left)
            likely = [place for place in best(possible, len(others)) if place not in hoped]
            hoped += likely[: left - len(hoped)]
            chosen += [others[place] for place in hoped]
        return codes[chosen]


def _nearest(problem: SearchProblem, evaluated: Finished, kind: accuracy.Kind) -> Finished:
    """What the model is fitted to and the archive made of: all, or of very many NEAREST and the latest.

    Nearest to the front are those of the first evaluations that NSGA-II would keep; they change only when the
    model settles anew.
    """
    wide = any(len(part.space.choices) > accuracy.MOST_CHOICES for part in problem.parts.values())
    if len(evaluated) <= accuracy.MOST_POINTS or wide or kind == "ridge":
        return evaluated
    first = accuracy.settled(len(evaluated))
    return evaluated.among([*sorted(best(evaluated.values[:first], NEAREST)), *range(first, len(evaluated))])


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
    def of(
        cls,
        problem: SearchProblem,
        evaluated: Finished,
        kind: accuracy.Kind,
        *,
        before: "Believed | None" = None,
    ) -> Self:
        """Fitted to what was evaluated. Raises UsageError for fewer than two architectures.

        before: what was believed of fewer of these; the result is the same without it.
        """
        costs = problem.costs(evaluated.codes[:1])
        earlier: Mapping[int, Model] = {} if before is None else before.models
        models = {
            place: Model.of(
                problem,
                evaluated.codes,
                evaluated.values[:, place],
                evaluated.errors[:, place],
                kind,
                before=earlier.get(place),
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


@dataclass(frozen=True, eq=False)
class Model:
    """Architectures to an objective, minimised: what is expected beforehand, times a factor, and the rest."""

    expected: Callable[[Codes], Floats] | None
    factor: float
    rest: accuracy.AccuracyPredictor

    @classmethod
    def of(
        cls,
        problem: SearchProblem,
        codes: Codes,
        values: Floats,
        errors: Floats,
        kind: accuracy.Kind,
        *,
        before: "Model | None" = None,
    ) -> Self:
        """Fitted to values (n,) of architectures (n, choices).

        errors: standard errors of the values, not all of which are known.
        before: one of fewer of these values; the result is the same without it.
        """
        expected, factor = problem.expected, 0.0
        if expected is not None:
            believed = expected(codes)
            factor = _factor(believed, values, accuracy.settled(len(codes)))
            values = values - factor * believed
        rest = accuracy.fit(
            problem.space,
            codes,
            values,
            stderr=_complete(errors),
            kind=kind,
            before=None if before is None else before.rest,
        )
        return cls(expected if factor else None, factor, rest)

    def predict(self, codes: Codes) -> tuple[Floats, Floats]:
        """Mean and standard deviation (n,) each."""
        mean, std = self.rest.predict(codes)
        return mean + self._expected(codes), std

    def mean(self, codes: Codes) -> Floats:
        """The mean alone (n,), which is cheaper."""
        mean: Floats = self.rest.mean(codes) + self._expected(codes)
        return mean

    def _expected(self, codes: Codes) -> Floats | float:
        return 0.0 if self.expected is None else self.factor * self.expected(codes)


def _factor(believed: Floats, values: Floats, first: int) -> float:
    """What the beliefs (n,) are multiplied with; it changes only when the model of the rest settles anew."""
    spread = believed[:first] - believed[:first].mean()
    return max(0.0, float(spread @ values[:first]) / float(spread @ spread)) if spread.any() else 0.0


def _complete(errors: Floats) -> Floats | None:
    """Standard errors (n,), the typical one where there is none; None if there are none at all."""
    given = np.isfinite(errors)
    return np.where(given, errors, errors[given].mean()) if given.any() else None
