"""Codes and Optuna: a searcher made of one of its samplers, and a sampler made of one of our searchers."""

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nas.proposals.distinct import OPEN, TRIES, Distinct, Draw
from nas.proposals.problem import STDERR, Code, SearchProblem
from search_spaces import Architecture, SearchSpace
from search_spaces.errors import UsageError
from search_spaces.space import Codes
from search_spaces.union import MEMBER, SpaceUnion, joined

Floats = NDArray[np.float64]


def distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """One categorical parameter per choice, inactive ones included (they carry their first option)."""
    return {choice.name: CategoricalDistribution(choice.options) for choice in space.choices}


def parameters(space: SearchSpace, arch: Architecture) -> dict[str, Any]:
    """The Optuna parameters of an architecture."""
    (code,) = space.encode([arch])
    return {
        choice.name: choice.options[max(int(place), 0)]
        for choice, place in zip(space.choices, code, strict=True)
    }


def architecture(space: SearchSpace, params: Mapping[str, Any]) -> Architecture:
    """The canonical architecture of Optuna parameters."""
    if isinstance(space, SpaceUnion):
        name = str(params[MEMBER])
        member = space.members[name]
        member_params = {choice.name: params[f"{name}.{choice.name}"] for choice in member.choices}
        return joined(name, member.architecture(member_params))
    return space.architecture({choice.name: params[choice.name] for choice in space.choices})


class SpaceExhausted(Exception):
    """Every architecture within the limits has been proposed; a study has no other way to say so."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without Optuna's message that there is a new study."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


class _Sampler(BaseSampler):
    """A sampler of all choices of a space at once, and of nothing else."""

    def __init__(self, space: SearchSpace) -> None:
        self._space = space

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return distributions(self._space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise ValueError(f"'{param_name}' is not a choice of space '{self._space.name}'.")


class FromOptuna(Distinct):
    """A searcher whose draws are the proposals of a sampler, in a study of its own.

    make: makes the sampler, afresh for every trial, with a seed.  always, tries: see `Distinct`.
    """

    _running: FrozenTrial  # of the study, which is being answered
    _answered: Code

    def __init__(
        self,
        problem: SearchProblem,
        make: Callable[..., BaseSampler],
        *,
        always: bool = True,
        tries: int = TRIES,
    ) -> None:
        super().__init__(problem)
        self.always, self.tries, self._make = always, tries, make
        self._several = {name: d for name, d in distributions(self.space).items() if not d.single()}
        with quiet():
            self._study = optuna.create_study(
                directions=list(problem.objectives.values()), sampler=_Answering(self.space, self._answer)
            )
        self._numbers: list[int] = []  # in the study, of each of our trials
        self._given: Code | None = None  # what its next trial is to be, whatever would be drawn

    def tell(self, codes: Codes, values: Floats | None, errors: Floats | None = None) -> None:
        super().tell(codes, values, errors)
        if values is None:
            return
        for code, value in zip(codes, values, strict=True):
            number = self._numbers[self.trials.numbers[code.tobytes()]]
            if np.isfinite(value).all():
                self._study.tell(number, value.tolist(), skip_if_finished=True)
            else:
                self._study.tell(number, state=TrialState.FAIL, skip_if_finished=True)

    def _next(self) -> Code | None:
        try:
            trial = self._study.ask(distributions(self.space))
        except SpaceExhausted:
            self._study.tell(self._running.number, state=TrialState.FAIL)
            return None
        self._numbers.append(trial.number)
        return self._answered

    def _adopt(self, code: Code) -> None:
        self._given = code
        self._numbers.append(self._study.ask(distributions(self.space)).number)
        self._given = None

    def _answer(self, trial: FrozenTrial) -> Code:
        """What the study's next trial is to be. Raises SpaceExhausted where nothing is left."""
        self._running = trial
        if self._given is not None:
            super()._adopt(self._given)
            return self._given
        code = super()._next()
        if code is None:
            raise SpaceExhausted
        self._answered = code
        return code

    def _begin(self, number: int, seed: int) -> Draw:
        sampler, trial = self._make(seed=seed), self._running

        def draw() -> Code:
            params = sampler.sample_relative(self._study, trial, self._several)
            return np.array(
                [
                    choice.options.index(params[choice.name]) if choice.name in params else OPEN
                    for choice in self.space.choices
                ]
            )

        return draw


class _Answering(_Sampler):
    """Gives the answers of a `FromOptuna` to the study that it asks."""

    def __init__(self, space: SearchSpace, answer: Callable[[FrozenTrial], Code]) -> None:
        super().__init__(space)
        self._answer = answer

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return parameters(self._space, self._space.decode(self._answer(trial)[None])[0])


class Asked(Protocol):
    """As much of a `nas.searchers.Searcher` as is needed here."""

    def ask(self, count: int) -> Codes: ...

    def tell(self, codes: Codes, values: Floats | None, errors: Floats | None = None) -> None: ...


class SearcherSampler(_Sampler):
    """A searcher of ours in a study of the user's.

    make: makes the searcher, one for each study that the sampler is used in. It is told all trials of the
    study, whoever has proposed them.
    history: codes (n, choices) with which a study that is made again begins.
    It raises SpaceExhausted where nothing is left, UsageError in a study with other directions.
    """

    def __init__(
        self, problem: SearchProblem, make: Callable[[], Asked], *, history: Codes | None = None
    ) -> None:
        super().__init__(problem.space)
        self._problem, self._make = problem, make
        self._history = problem.space.encode([]) if history is None else history
        self._searcher = make()  # which tells what is wrong with its options
        self._study: weakref.ref[Study] | None = None
        self._codes: dict[int, Code] = {}  # by the numbers of the study's trials
        self._read, self._unfinished = 0, list[int]()
        self._one_at_a_time = threading.Lock()  # a study may be optimised by several threads

    def __getstate__(self) -> dict[str, Any]:
        """Pickled, it has asked nothing: its study will be another object."""
        return {"problem": self._problem, "make": self._make, "history": self._history}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        with self._one_at_a_time:
            if self._study is None or self._study() is not study:
                self._begin(study)
            self._tell_news(study)
            code = self._codes[trial.number] = self._answer(trial.number)
        return parameters(self._space, self._space.decode(code[None])[0])

    def _begin(self, study: Study) -> None:
        self._check(study)
        if self._study is not None:
            self._searcher = self._make()
        self._study = weakref.ref(study)
        self._codes, self._read, self._unfinished = {}, 0, []

    def _answer(self, number: int) -> Code:
        if number < len(self._history):
            self._searcher.tell(self._history[number : number + 1], None)
            given: Code = self._history[number]
            return given
        codes = self._searcher.ask(1)
        if not len(codes):
            raise SpaceExhausted(f"No architecture of space '{self._space.name}' is left within the limits.")
        code: Code = codes[0]
        return code

    def _check(self, study: Study) -> None:
        directions = [direction.name.lower() for direction in study.directions]
        if directions != list(self._problem.objectives.values()):
            raise UsageError(
                f"The study has the directions {', '.join(directions)}; the objectives of the problem are: "
                f"{', '.join(f'{way} {name}' for name, way in self._problem.objectives.items())}."
            )

    def _tell_news(self, study: Study) -> None:
        """Tells what has come since the last time: trials of others, and values."""
        trials = study.get_trials(deepcopy=False)
        unread = [*self._unfinished, *range(self._read, len(trials))]
        self._unfinished, self._read = [], len(trials)
        for place in unread:
            trial = trials[place]
            if not trial.state.is_finished():
                self._unfinished.append(place)
            self._tell(trial)

    def _tell(self, trial: FrozenTrial) -> None:
        """A trial counts from when its parameters are complete: Optuna writes them down one by one."""
        is_new = trial.number not in self._codes
        if is_new:
            if not trial.params.keys() >= {choice.name for choice in self._space.choices}:
                return
            self._codes[trial.number] = self._space.encode([architecture(self._space, trial.params)])[0]
        codes = self._codes[trial.number][None]
        if trial.state.is_finished():
            values = (
                trial.values
                if trial.state == TrialState.COMPLETE
                else [np.nan] * len(self._problem.objectives)
            )
            self._searcher.tell(codes, np.array([values], dtype=np.float64), self._errors(trial))
        elif is_new:
            self._searcher.tell(codes, None)

    def _errors(self, trial: FrozenTrial) -> Floats:
        by_name = trial.user_attrs.get(STDERR)
        by_name = by_name if isinstance(by_name, Mapping) else {}
        return np.array([[by_name.get(name, np.nan) for name in self._problem.objectives]], dtype=np.float64)
