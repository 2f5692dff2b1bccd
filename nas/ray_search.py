"""The searchers under Ray Tune, for those who run their evaluations there.

Either way a trial's config holds every choice of the space (`architecture(space, config)` is its
architecture), and `metric` and `mode` name what the trainable reports, here and not in `TuneConfig`:

    search = SubnetSearch(problem, "nsga2", metric=["accuracy", "macs"], mode=["max", "min"])
    search = optuna_search(problem, "nsga2", metric=["accuracy", "macs"], mode=["max", "min"])
    tuner = tune.Tuner(trainable, tune_config=tune.TuneConfig(search_alg=search, num_samples=100))

`SubnetSearch` keeps its state as JSON: what was asked and told, in order. That is all that a searcher's
proposals depend on, and a file of it can be read by a later version and by people. `OptunaSearch` is pickled:
restore it from files that you trust. Tune asks and tells in the order in which trials happen to end;
`ConcurrencyLimiter(search, 8, batch=True)` asks for a batch when the one before has ended.
"""

import json
import logging
import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import TrialState
from ray import cloudpickle
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from nas import searchers
from nas.searchers import SearchProblem, SpaceExhausted
from nas.searchers._distinct import architecture, distributions
from search_spaces._errors import ConflictError, UsageError

__all__ = ["SubnetSearch", "architecture", "optuna_search"]

VERSION = 1
DIRECTIONS = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
log = logging.getLogger(__name__)

Names = str | Sequence[str]


class SubnetSearch(Searcher):
    """A searcher of ours as Ray Tune's `Searcher`; it ends the run when the space is exhausted.

    metric, mode: names in the trainable's results, and `max` or `min` for each.  options: the searcher's.
    A trial that fails, or reports no finite value, is not proposed again.
    Raises UsageError for modes that are none or do not go with the metrics, and what the searcher raises.
    """

    def __init__(
        self,
        problem: SearchProblem,
        searcher: str = "surrogate",
        *,
        metric: Names,
        mode: Names,
        **options: Any,
    ) -> None:
        self._metrics, self._modes = _named(metric, mode)
        # Ray takes lists, too, and says so in words only.
        several: Any = list(self._metrics), list(self._modes)
        super().__init__(*several)
        self._problem, self._searcher, self._options = problem, searcher, options
        self._directions = [DIRECTIONS[mode] for mode in self._modes]
        self._begin([])

    def suggest(self, trial_id: str) -> Any:
        """The config of a new trial, or `Searcher.FINISHED`."""
        try:
            self._asked[trial_id] = self._ask()
        except SpaceExhausted:
            return Searcher.FINISHED
        config = self._asked[trial_id].params
        arch = architecture(self._problem.space, config)
        self._events.append({"asked": trial_id, "architecture": arch.to_dict()})
        return config

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Nothing: only the last result of a trial counts."""

    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tells the searcher what a trial has reported last."""
        if trial_id not in self._asked:
            # After a crash Tune may know trials that it began after it had saved this searcher.
            log.warning("Trial %s was not proposed by this searcher, or has ended before.", trial_id)
            return
        values: list[Any] = [None if error or not result else result.get(name) for name in self._metrics]
        self._tell(trial_id, list(map(float, values)) if all(map(_finite, values)) else None)

    def get_state(self) -> dict[str, Any]:
        """What was asked and told, as plain data."""
        return {
            "version": VERSION,
            "space": self._problem.space.name,
            "space options": json.loads(json.dumps(dict(self._problem.space.options))),
            "searcher": self._searcher,
            "options": json.loads(json.dumps(self._options)),
            "seed": self._problem.seed,
            "metrics": list(self._metrics),
            "modes": list(self._modes),
            "events": [dict(event) for event in self._events],
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state of the same search.

        Raises ConflictError for one of another version, space, searcher or seed, or with other options,
        metrics or modes.
        """
        own = self.get_state()
        for name in (name for name in own if name != "events"):
            if state.get(name) != own[name]:
                raise ConflictError(
                    f"The saved search has {name} {state.get(name)!r}; this one has {own[name]!r}.",
                    "Build the searcher as it was when it was saved.",
                )
        self._begin(state["events"])

    def save(self, checkpoint_path: str) -> None:
        """Writes the state to a JSON file, whatever its ending is."""
        Path(checkpoint_path).write_text(json.dumps(self.get_state(), allow_nan=False), encoding="utf-8")

    def restore(self, checkpoint_path: str) -> None:
        """Goes on from a file that `save` wrote. Raises ConflictError for one of another search."""
        self.set_state(json.loads(Path(checkpoint_path).read_text(encoding="utf-8")))

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles searchers, too; the study and its sampler are made again."""
        made = {"_study", "_asked"}
        return {name: value for name, value in self.__dict__.items() if name not in made}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin(self._events)

    def _begin(self, events: Sequence[Mapping[str, Any]]) -> None:
        """A study that has seen these events; proposals that were made are proposed again, not searched."""
        space = self._problem.space
        history = [space.architecture(event["architecture"]) for event in events if "asked" in event]
        sampler = searchers.build(
            self._searcher, replace(self._problem, history=tuple(history)), **self._options
        )
        self._study = optuna.create_study(directions=self._directions, sampler=sampler)
        self._asked: dict[str, optuna.Trial] = {}
        self._events: list[dict[str, Any]] = []
        for event in events:
            if "asked" in event:
                self._asked[event["asked"]] = self._ask()
                self._events.append(dict(event))
            else:
                self._tell(event["told"], event["values"])

    def _ask(self) -> optuna.Trial:
        return self._study.ask(distributions(self._problem.space))

    def _tell(self, trial_id: str, values: list[float] | None) -> None:
        trial = self._asked.pop(trial_id)
        if values is None:
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            self._study.tell(trial, values)
        self._events.append({"told": trial_id, "values": values})


def optuna_search(
    problem: SearchProblem, searcher: str = "surrogate", *, metric: Names, mode: Names, **options: Any
) -> OptunaSearch:
    """A searcher of ours under Ray's own `OptunaSearch`; arguments and errors as of `SubnetSearch`."""
    metrics, modes = _named(metric, mode)
    one = len(metrics) == 1
    return _SubnetOptunaSearch(
        distributions(problem.space),
        metric=metrics[0] if one else list(metrics),
        mode=modes[0] if one else list(modes),
        sampler=searchers.build(searcher, problem, **options),
    )


class _SubnetOptunaSearch(OptunaSearch):
    """Ends the run when the space is exhausted, where Ray's would let the sampler's exception through.

    Saved by cloudpickle, as Tune saves all else: a space holds functions that `pickle` does not take.
    """

    def suggest(self, trial_id: str) -> Any:
        try:
            return super().suggest(trial_id)
        except SpaceExhausted:
            return Searcher.FINISHED

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).write_bytes(cloudpickle.dumps(self.__dict__))  # type: ignore[no-untyped-call]

    def restore(self, checkpoint_path: str) -> None:
        self.__dict__.update(cloudpickle.loads(Path(checkpoint_path).read_bytes()))


def _named(metric: Names, mode: Names) -> tuple[tuple[str, ...], tuple[str, ...]]:
    metrics = (metric,) if isinstance(metric, str) else tuple(metric)
    modes = (mode,) if isinstance(mode, str) else tuple(mode)
    if len(metrics) != len(modes) or not metrics:
        raise UsageError(
            f"{len(metrics)} metrics and {len(modes)} modes do not go together.",
            "Give a mode for each metric.",
        )
    for name in modes:
        if name not in DIRECTIONS:
            raise UsageError(f"The mode {name!r} is unknown.", f"Known: {', '.join(DIRECTIONS)}.")
    return metrics, modes


def _finite(value: object) -> bool:
    return isinstance(value, numbers.Real) and math.isfinite(value)
