"""What a study has told, and what is believed of architectures because of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas.searchers import STDERR, SearchProblem
from nas.searchers._proposed import Proposed
from predictors import accuracy
from search_spaces._errors import UsageError
from search_spaces._space import Codes

Floats = NDArray[np.float64]
OPTIMISM = 1.0  # standard deviations


@dataclass(frozen=True, eq=False)
class Told:
    """The trials of a study: what they were, (n, choices), and what was told of them, (n, objectives).

    values: minimised (what is maximised has its sign turned, as `signs` (objectives,) say).
    stderrs: NaN where nobody told them.  pending: codes of those that are being evaluated.
    """

    codes: Codes
    values: Floats
    stderrs: Floats
    pending: Codes
    signs: Floats

    @classmethod
    def before(cls, study: Study, first: int, problem: SearchProblem, proposed: Proposed) -> Self:
        """The trials with numbers below `first` that `proposed` knows."""
        if problem.objectives and len(problem.objectives) != len(study.directions):
            raise UsageError(
                f"The study has {len(study.directions)} directions for {len(problem.objectives)} objectives."
            )
        signs = np.array([1.0 if d == StudyDirection.MINIMIZE else -1.0 for d in study.directions])
        trials = [t for t in study.get_trials(deepcopy=False)[:first] if t.number in proposed.codes]
        trials.sort(key=lambda trial: trial.number)
        done = [t for t in trials if t.state == TrialState.COMPLETE and np.isfinite(t.values).all()]
        running = [trial for trial in trials if not trial.state.is_finished()]
        names = problem.objectives or (None,) * len(signs)
        told = [_stderrs(trial) for trial in done]
        return cls(
            _codes(proposed, [trial.number for trial in done], problem),
            np.array([trial.values for trial in done]).reshape(len(done), len(signs)) * signs,
            np.array([[one.get(name, np.nan) for name in names] for one in told]).reshape(-1, len(signs)),
            _codes(proposed, [trial.number for trial in running], problem),
            signs,
        )


def _stderrs(trial: FrozenTrial) -> Mapping[str | None, float]:
    told = trial.user_attrs.get(STDERR)
    return told if isinstance(told, Mapping) else {}


def _codes(proposed: Proposed, numbers: list[int], problem: SearchProblem) -> Codes:
    joined = b"".join(proposed.codes[number] for number in numbers)
    return np.frombuffer(joined, dtype=np.int64).reshape(len(numbers), len(problem.space.choices))


@dataclass(frozen=True, eq=False)
class Believed:
    """Objectives of any architecture, minimised: known ones from where they are known, others by a model."""

    problem: SearchProblem
    signs: Floats
    models: Mapping[int, accuracy.AccuracyPredictor]  # by the objective's place

    @classmethod
    def of(cls, problem: SearchProblem, told: Told, kind: accuracy.Kind) -> Self:
        """Fitted to what was told. Raises UsageError for fewer than two evaluated architectures."""
        known = _known(problem, told.codes[:1])
        names = problem.objectives or (None,) * len(told.signs)
        models = {
            place: accuracy.fit(
                problem.space,
                told.codes,
                told.values[:, place],
                stderr=_complete(told.stderrs[:, place]),
                kind=kind,
            )
            for place, name in enumerate(names)
            if name not in known
        }
        return cls(problem, told.signs, models)

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

    def smoothed(self, told: Told) -> Floats:
        """What was told, (n, objectives), with the models' means in place of single noisy evaluations."""
        values = told.values.copy()
        for place, model in self.models.items():
            values[:, place] = model.mean(told.codes)
        return values

    def _columns(self, codes: Codes, modelled: Mapping[int, Floats]) -> Floats:
        known = _known(self.problem, codes)
        columns = [
            modelled[place] if place in modelled else sign * np.asarray(known[self.problem.objectives[place]])
            for place, sign in enumerate(self.signs)
        ]
        return np.stack(columns, axis=1).astype(np.float64).reshape(len(codes), len(self.signs))


def _known(problem: SearchProblem, codes: Codes) -> Mapping[str, Any]:
    tell = problem.known or problem.metrics or problem.space.costs
    return tell(codes)


def _complete(stderrs: Floats) -> Floats | None:
    """Standard errors (n,), the typical one where nobody told it; None if nobody told any."""
    told = np.isfinite(stderrs)
    return np.where(told, stderrs, stderrs[told].mean()) if told.any() else None
